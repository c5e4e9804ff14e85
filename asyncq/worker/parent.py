"""The supervisor as the worker sees it, which runs in a process of its own.

It renews our leases, tells us when to stop, and hears four times a second that the loop turns.
Should it die, we renew for ourselves and drain.
"""

import asyncio
import logging
import math
import os
import resource
import socket
import sys
import threading
import time
from collections.abc import Sequence

import anyio
import msgspec
from anyio.abc import TaskStatus

from asyncq.config import Config, Url
from asyncq.errors import NOT_RENEWED
from asyncq.loggers import get_logger
from asyncq.seams.broker import Lease, Leased
from asyncq.worker.channel import (
    HEARTBEAT_EVERY,
    Channel,
    FromParent,
    Goodbye,
    Heartbeat,
    Hello,
    Holding,
    Lost,
    Orders,
    Renewed,
    Stop,
)
from asyncq.worker.drain import TOLD_AGAIN
from asyncq.worker.leases import renew_lease
from asyncq.worker.signals import (
    StopLevel,
    calm_the_collector,
    leave_at_once,
    obey_signals,
    say_stop,
)
from asyncq.worker.stalls import STALL, answer_no_more, answer_with_stacks
from asyncq.worker.worker import Worker

log = get_logger(__name__)

GONE = "the supervisor is gone"


class Parent:
    """Our end of the channel, and of the pipe that stacks are written to."""

    def __init__(self, channel: int, pipe: int) -> None:
        for descriptor in (channel, pipe):
            os.set_inheritable(descriptor, False)  # what tasks start is none of its business
        self._socket = socket.socket(fileno=channel)
        self._pipe = pipe
        self._channel: Channel[FromParent]  # once the orders have come
        self._home: object = None
        self._url: Url | None = None
        self._lease: Lease | None = None  # the last that the supervisor was to renew
        self._is_gone = asyncio.Event()  # the supervisor is
        self.left_threads = False
        """A worker has ended whose threads, past their time limit, have not."""

    def await_orders(self) -> Orders:
        """Block until they come.

        Raises:
            EOFError: the supervisor has died meanwhile.
        """
        line = bytearray()
        while not line.endswith(b"\n"):
            byte = self._socket.recv(1)
            if not byte:
                raise EOFError(GONE)
            line += byte
        self._channel = Channel(self._socket, FromParent)
        return msgspec.json.decode(line, type=Orders)

    def say_goodbye(self, code: int, why: str | None = None) -> None:
        self._channel.tell(Goodbye(code, why))

    async def run(self, worker: Worker, home: object, url: Url | None, config: Config) -> None:
        """Run ``worker`` until it has ended or was told to end.

        The supervisor renews its lease at the broker ``home``, which is at ``url``.
        """
        self._home, self._url = home, url
        calm_the_collector()
        worker.drain.remedy = TOLD_AGAIN
        answer_with_stacks(self._pipe, worker.message_at_hand)
        self._channel.tell(
            Hello(
                thread=threading.get_ident(),
                grace=config.grace,
                stall_limit=config.stall_limit,
                worker=worker.name,
            )
        )

        try:
            async with anyio.create_task_group() as group:
                stop_level = StopLevel(worker, logging.DEBUG)  # the supervisor has said it already
                await group.start(obey_signals, stop_level.raise_to)
                group.start_soon(self._listen, stop_level)
                group.start_soon(self._beat, worker)
                await worker.run(renew=self._renew, leave=self._leave)
                self.left_threads = bool(worker.slots.threads.alive)
                group.cancel_scope.cancel()
        finally:
            answer_no_more()

    def _leave(self) -> None:
        self.say_goodbye(0)
        leave_at_once()

    async def _renew(
        self,
        broker: Leased,
        lease: Lease,
        queues: Sequence[str],
        config: Config,
        *,
        task_status: TaskStatus[None],
    ) -> None:
        """Have the supervisor renew this lease, and no other; once it is gone, a thread of ours."""
        if broker.leases_are_shared and broker is self._home and self._url is not None:
            if math.isinf(lease.good_until):  # nobody has renewed it until now
                lease.good_until = time.monotonic() + lease.seconds
            self._lease = lease
            self._channel.tell(
                Holding(
                    url=self._url.reveal(),
                    incarnation=lease.incarnation,
                    queues=queues,
                    seconds=lease.seconds,
                )
            )
            task_status.started()
            await self._is_gone.wait()
            task_status = anyio.TASK_STATUS_IGNORED
        await renew_lease(broker, lease, queues, config, task_status=task_status)

    async def _beat(self, worker: Worker) -> None:
        last, stood = time.monotonic(), 0.0
        while True:
            at_work, refused = worker.is_at_work, tuple(worker.refused)
            last, before = time.monotonic(), last
            stood = max(stood, last - before)
            # A supervisor that stands still is to find a few when it moves again, not thousands.
            if self._channel.is_jammed:
                self._channel.tell(None)
            else:
                running = tuple(worker.slots.some_running()) if stood > STALL else ()
                self._channel.tell(
                    Heartbeat(
                        started=worker.started,
                        memory=resident_memory(),
                        stood=stood,
                        running=running,
                        at_work=at_work,
                        refused=refused,
                        worn=worker.worn,
                    )
                )
                stood = 0.0
            # What is not at work is waited for.
            await anyio.sleep(HEARTBEAT_EVERY if at_work else HEARTBEAT_EVERY / 5)

    async def _listen(self, stop_level: StopLevel) -> None:
        while messages := await self._channel.receive():
            for message in messages:
                match message:
                    case Renewed() | Lost():
                        self._hear_of_lease(message)
                    case Stop(level=level):
                        stop_level.raise_to(level, "the supervisor")
                    case Orders():
                        log.warning("ignored a second set of orders from the supervisor")
        self._is_gone.set()
        say_stop(1, GONE)
        stop_level.raise_to(1, GONE)

    def _hear_of_lease(self, message: Renewed | Lost) -> None:
        lease = self._lease
        if lease is None or lease.incarnation != message.incarnation:
            return  # of one that has ended
        if isinstance(message, Renewed):
            lease.good_until = message.until
        else:
            lease.lose(NOT_RENEWED)


def resident_memory() -> int:
    """The bytes this process has in memory; where the system does not say, the most it ever had."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
