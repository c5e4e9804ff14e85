"""memory://: queues and outcomes in this process, for tests and to try things out."""
