"""sqlite://: queues and outcomes in one file, for one machine."""
