"""What drivers promise, as protocols, with the records that cross them.

A broker takes and hands out messages; a backend keeps outcomes and tells who waits for them, by
feeds, which are heard only. Beside it lie topics (short histories that many read), a ledger (what
follows once enough has ended) and a registry (entries by compare-and-set). A codec makes bytes of a
message.
The suites in `asyncq.testing.contracts` are these promises as tests.
"""
