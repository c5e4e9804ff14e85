"""What travels and what is asked for: messages, queues, policies, calls.

Pure: no I/O, no event loop, no third party but msgspec. Everybody may know it.
"""
