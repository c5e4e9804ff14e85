"""What drivers promise, as protocols, with the records that cross them.

A broker takes and hands out messages, a backend keeps outcomes, beside it lie topics (short
histories that many read), a codec makes bytes of a message.
The suites in `asyncq.testing.contracts` are these promises as tests.
"""
