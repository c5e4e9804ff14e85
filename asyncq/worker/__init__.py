"""The worker: how messages become outcomes. Start reading at `worker.py`.

A `session` for each broker has a lease (`leases` renews it, and finds what the dead had); in it a
`fetcher` for each queue claims into the `pool`, the `executor` runs, the `completer` records and
settles. `signals` and `drain` are how it ends; over a `channel` the `parent`, which is the
supervisor, hears that it lives.
"""
