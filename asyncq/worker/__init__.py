"""The worker: how messages become outcomes. Start reading at `worker.py`."""
