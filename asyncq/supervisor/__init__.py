"""The supervisor: the small process above the workers. Start reading at `supervisor.py`.

It knows brokers by their leases alone, and no user's code: whatever that does to a worker process,
here somebody is left to notice.
"""
