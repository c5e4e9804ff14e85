"""The fault laboratory.

`beds` are the stores under test and their audits, `proxy` breaks the network, `workers` are real
processes that run the tasks of `tasks`. What they do is written to the `ledger`, and the `checker`
says what it adds up to. The `bench` is the table on which a test finds it all.
"""
