"""Failover: a list of URLs for one broker, of which one is used at a time.

They are tried in their order, when the app connects and when the one in use has not answered for a
while. What this cannot do is move messages: those that wait in a broker, and their outcomes, stay
there until somebody connects to it again. Whoever waits for such an outcome meets `UnknownResult`.
A message whose acknowledgement was lost with the broker may be stored in both, and run in both.
Where the URLs are nodes of one cluster none of this matters; for Redis, use its own replication
(Sentinel), and a list for what is left.

Nobody goes back by itself to one that was given up: restart what runs to do that.
"""

from asyncq.drivers.failover.backend import follow
from asyncq.drivers.failover.broker import Failover, open_failover

__all__ = ["Failover", "follow", "open_failover"]
