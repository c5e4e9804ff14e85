"""redis://, rediss://, unix://: queues and outcomes in Redis; every step is one script."""
