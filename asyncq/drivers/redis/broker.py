"""The Redis broker: publishing, leases, and the door to consuming and administration.

Everything of a queue lives under one hash tag, so that each script touches a single slot:

    asyncq:{queue}:bodies      hash   id -> blob
    asyncq:{queue}:ready:0..9  lists  ids, by priority
    asyncq:{queue}:suspects    list   ids that outlived a worker
    asyncq:{queue}:doomed      list   ids with a verdict, unless they are suspects
    asyncq:{queue}:verdicts    hash   id -> why we would have buried or removed it, until settled
    asyncq:{queue}:delayed     zset   priority + id, by due time (ms)
    asyncq:{queue}:in_flight:<inc>  hash   id in the hands of one worker incarnation -> its claim
    asyncq:{queue}:quarantine       hash   incarnation -> how many suspects it runs
    asyncq:{queue}:crashes     hash   suspect -> how many workers died with it
    asyncq:{queue}:leases      zset   incarnations, by the end of their lease (ms)
    asyncq:{queue}:epochs      hash   incarnation -> the connection it claims on
    asyncq:{queue}:wake        list   at most one entry: wakes one idle worker
    asyncq:{queue}:declared    hash   what bounds the queue, if anything does
    asyncq:{queue}:until       hash   id -> when it has waited too long (ms), where there is a ttl
    asyncq:{queue}:active      string the incarnation that has the queue for itself, if one must
    asyncq:{queue}:standby     list   at most one entry: tells another of that one's end
    asyncq:{queue}:dead        zset   ids, by time of death (ms)
    asyncq:{queue}:dead:...    hashes of the dead: bodies, reasons, crashes

and the queues' names in ``asyncq:queues``. Times are the server's.
"""

import math
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Hashable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self

from asyncq.clock import Clock
from asyncq.config import Url
from asyncq.drivers.hosts import Hosts
from asyncq.drivers.redis.admin import RedisQueueAdmin
from asyncq.drivers.redis.causes import explaining, not_sent, too_large
from asyncq.drivers.redis.connection import OLDEST, Link, RedisStore, Script, dead_bounds
from asyncq.drivers.redis.consumer import RedisConsumer
from asyncq.drivers.redis.refusals import NoPermission
from asyncq.drivers.redis.renewer import RedisLeaseRenewer
from asyncq.drivers.redis.wire import ReplyError
from asyncq.errors import BrokerUnavailable, ConfigurationError, QueueFull
from asyncq.language.envelope import Envelope
from asyncq.language.topology import Queue
from asyncq.loggers import get_logger
from asyncq.seams.broker import Consumer, Lease, LeaseRenewer, Offers, QueueSpec
from asyncq.seams.dead import DeadLimits
from asyncq.seams.packing import pack

log = get_logger(__name__)

_PUBLISH = Script("publish")
_DECLARE = Script("declare")
_SWEEP = Script("sweep")

FRESH = 0.5  # seconds that a sweep may be on its way


class RedisBroker(RedisQueueAdmin):
    """Queues in one Redis (6.2 or newer, or Valkey)."""

    leases_are_shared = True

    def __init__(self, where: Url | Hosts, clock: Clock, limits: DeadLimits | None = None) -> None:
        super().__init__(RedisStore(where), clock)
        self._hosts = self._store.hosts
        self._limits = limits or DeadLimits()
        self._sender = Link(self._store, BrokerUnavailable)
        self._upkeep = Link(self._store, BrokerUnavailable)
        self._announced: set[str] = set()  # queues whose name the server has from us
        self._hosts.on_move(self._announced.clear)
        self._bounds = dead_bounds(self._limits)

    @property
    def offers(self) -> Offers:
        return Offers(leases=self, admin=self, finder=self)

    @property
    def store(self) -> Hashable:
        return self._store.identity

    async def __aenter__(self) -> Self:
        await self._hosts.choose()
        await self._check_server()
        return self

    async def __aexit__(self, *_: object) -> None:
        for link in (self._sender, self._upkeep, self._asks):
            link.close()

    async def publish(self, envelopes: Sequence[Envelope]) -> None:
        queues: dict[str, list[Any]] = defaultdict(list)
        for envelope in envelopes:
            queues[envelope.queue] += (
                envelope.id,
                0 if envelope.eta is None else math.ceil(envelope.eta * 1000),
                pack(envelope),
            )
        for queue, messages in queues.items():
            if queue not in self._announced:
                await self._announce(queue)
            try:
                gone, limit, refused = await self._sender.script(
                    _PUBLISH,
                    self._store.queue_key(queue),
                    self._store.key("r", ""),
                    *self._bounds,
                    *messages,
                )
            except (ReplyError, BrokerUnavailable) as error:
                sizes = zip(messages[::3], map(len, messages[2::3]), strict=True)
                if (no := await too_large(self._upkeep, sizes)) is not None:
                    raise no from error
                if isinstance(error, BrokerUnavailable):
                    raise
                raise await not_sent(self._asks, queue, error) from error
            if gone:
                self._limits.note(queue, gone)
            if refused:
                raise QueueFull([raw.decode() for raw in refused], queue, limit)

    async def declare(self, queues: Sequence[Queue]) -> None:
        for queue in queues:
            try:
                await self._sender.script(
                    _DECLARE, self._store.queue_key(queue.name), *_bounds(queue)
                )
            except (ReplyError, NoPermission) as error:
                # The others work all the same; who sends to this one hears of it as well.
                why = error
                if isinstance(error, ReplyError):
                    why = await not_sent(self._asks, queue.name, error)
                log.error("queue %s cannot be used: %s", queue.name, why)  # noqa: TRY400 - no fault of ours
        self._hosts.declared = queues

    @asynccontextmanager
    async def consume(self, queue: QueueSpec, lease: Lease) -> AsyncGenerator[Consumer]:
        await self._announce(queue.name)
        consumer = RedisConsumer(self._store, queue.name, lease, self._limits)
        await consumer.enter()
        try:
            yield consumer
        finally:
            await consumer.leave()

    def renewer(self) -> LeaseRenewer:
        return RedisLeaseRenewer(RedisStore(self._store.url))  # where the lease begins

    async def sweep(self, queue: str) -> int:
        # A server that stood still finds this in its socket when it goes on, before the renewals of
        # the living: it must know by its own clock that it comes too late.
        asked = time.monotonic()
        seconds, micros = await self._upkeep("TIME")
        if time.monotonic() - asked > FRESH:
            return 0
        latest = (int(seconds) + FRESH) * 1000 + int(micros) // 1000
        async with explaining(self._asks, queue) as base:
            return await self._upkeep.script(_SWEEP, base, int(latest))

    async def _announce(self, queue: str) -> None:
        await self._sender("SADD", f"{self._store.prefix}:queues", queue)
        self._announced.add(queue)

    async def _check_server(self) -> None:
        """Refuse a server that is too old; warn of one that may throw tasks away."""
        try:
            said: bytes = await self._sender("INFO")
        except NoPermission as error:
            # A user without the dangerous commands can do all that we need: nobody looks, then.
            log.info("the version of %r cannot be asked for: %s", self._store.url, error)
            return
        lines = said.decode(errors="replace").splitlines()
        info = dict(line.split(":", 1) for line in lines if ":" in line)
        version = info.get("redis_version", "0")
        if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
            raise ConfigurationError(
                f"{self._store.url!r} is Redis {version}; asyncq needs "
                f"{'.'.join(map(str, OLDEST))} or newer"
            )
        policy = info.get("maxmemory_policy", "noeviction")
        if policy.startswith("allkeys"):
            log.warning(
                "%r has maxmemory-policy %s, which can drop tasks: set it to noeviction",
                self._store.url,
                policy,
            )


def _bounds(queue: Queue) -> list[Any]:
    """What is declared of a queue, as its scripts read it: nothing for what has no bound."""
    bounds: dict[str, Any] = {
        "top": queue.max_priority,
        "ttl": None if queue.ttl is None else math.ceil(queue.ttl * 1000),
        "most": queue.max_length,
        "drops": 1 if queue.overflow == "drop-head" else None,
        "single": 1 if queue.single_active else None,
    }
    return [part for bound in bounds.items() if bound[1] is not None for part in bound]
