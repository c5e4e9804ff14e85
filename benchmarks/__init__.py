"""Measurements: asyncq beside other task queues, and beside the least that could do the work."""
