"""The floor: the fewest scripts and coroutines that could do the work at all.

No retries, leases, limits or shutdown. What it promises is only what every task queue on Redis
must: a message stays in Redis until its result is stored, and results expire.
"""

from benchmarks.contenders.floor.client import contender

__all__ = ["contender"]
