"""One worker process, as its supervisor sees it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress

import anyio
from anyio import CapacityLimiter, to_thread

from asyncq.loggers import TRACEBACK, get_logger
from asyncq.supervisor.leases import SupervisedLease
from asyncq.supervisor.stalls import Stall, is_whole, read_answer
from asyncq.texts import counted
from asyncq.worker.channel import (
    HEARTBEAT_EVERY,
    Channel,
    FromWorker,
    Goodbye,
    Heartbeat,
    Hello,
    Holding,
    Orders,
    Stop,
    import_path,
)
from asyncq.worker.stalls import ASK, told_afterwards

log = get_logger(__name__)

STALL = 0.7  # seconds without a heartbeat after which a loop stands still; it is logged in 1 s
LONG = 1.25  # seconds, a heartbeat included, after which a stall is logged when it is over
LOOK = 0.05  # seconds between two looks at it
IDLE = 2.0  # seconds without a heartbeat after which a process does not count as consuming
ANSWER_TIMEOUT = 0.5  # seconds for a process to say where it stands; busy machines take so long
WHOLE_TIMEOUT = 0.1  # seconds from its first word to its last, which may have to wait for a lock
ANSWER_LIMIT = 1 << 20  # bytes
PROGRAM = "asyncq.cli.child"


class Child:
    """A process from its start until it is dead and released."""

    def __init__(self, number: int, orders: Orders) -> None:
        """
        Raises:
            OSError: the system has no room for another process.
        """
        self.number = number
        self.told = 0
        """How hard it was told to stop, as `worker.signals.StopLevel` counts."""
        self.started = 0
        """How many deliveries it ran."""
        self.memory = 0
        self.worn = ""
        self.goodbye: Goodbye | None = None
        self.code: int | None = None
        """How it ended; None while it lives."""
        self.ready_at: float | None = None
        """When it was first seen at work, by `time.monotonic`."""
        self.refused: Sequence[str] = ()
        """The queues that do not let it in; at work, it consumes all others."""
        self._hello: Hello | None = None
        self._at_work = False
        self._stall: Stall | None = None  # the last that was logged as it went on
        self._is_deaf = False  # and that was said
        self._is_named = False  # a stall that goes on, or is just over, was logged
        self._heard_at = time.monotonic()
        self._lease: SupervisedLease | None = None
        self._renewing: anyio.CancelScope | None = None
        with ExitStack() as theirs, ExitStack() as ours:
            our_end, their_end = socket.socketpair()
            theirs.enter_context(their_end)
            ours.enter_context(our_end)
            self._answers, pipe = os.pipe()
            theirs.callback(os.close, pipe)
            ours.callback(os.close, self._answers)
            self._process = _spawn(orders, their_end.fileno(), pipe)
            ours.pop_all()
        os.set_blocking(self._answers, False)
        self._channel: Channel[FromWorker] = Channel(our_end, FromWorker)
        self._channel.tell(orders)

    @property
    def pid(self) -> int:
        return self._process.pid

    def __str__(self) -> str:
        return f"process {self.number} (pid {self.pid})"

    @property
    def is_loaded(self) -> bool:
        """It got as far as to have an app and a broker."""
        return self._hello is not None

    @property
    def is_consuming(self) -> bool:
        """It takes messages of all its queues, now: its loop turns, and its broker answers."""
        return self.is_at_work and not self.refused

    @property
    def is_at_work(self) -> bool:
        """It takes messages, now, of all its queues but for those that do not let it in.

        That is enough to take over from another: who waits until a queue that is declared otherwise
        can be consumed waits for somebody to change it, and one that is held by the other alone
        is let go only by that.
        """
        lease_is_fine = self._lease is None or self._lease.is_renewed
        return self._at_work and lease_is_fine and self.silence < IDLE

    @property
    def silence(self) -> float:
        """Seconds since its loop gave a sign of life; 0 while there is no loop."""
        if self._hello is None or self.goodbye is not None or self.code is not None:
            return 0.0
        return time.monotonic() - self._heard_at

    @property
    def is_given_up(self) -> bool:
        """Its loop has stood still for so long that it may lose its lease."""
        return self._hello is not None and self.silence > self._hello.stall_limit

    @property
    def grace(self) -> float:
        return 0.0 if self._hello is None else self._hello.grace

    async def run(self) -> None:
        """Listen, renew and watch until it is dead; `code` says how it ended."""
        log.debug("%s is started", self)
        code: int | None = None
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._listen, group)
                group.start_soon(self._watch)
                # In a thread of its own: however many children there are, it sees a death at once.
                code = await to_thread.run_sync(
                    self._process.wait, abandon_on_cancel=True, limiter=CapacityLimiter(1)
                )
                group.cancel_scope.cancel()
            for message in self._channel.receive_rest():
                self._take_in(message)
            self.code = code
            self._at_work = False
        finally:
            self._channel.close()  # should we leave before it does, it drains

    async def release(self) -> None:
        """Requeue at once what it had in flight."""
        os.close(self._answers)
        if self._lease is None:
            return
        recovered = await self._lease.release()
        await self._lease.close()
        if recovered:
            log.warning("requeued %s of %s", counted(recovered, "message"), self)

    def stop(self, level: int) -> None:
        """Tell it to drain (1), to cancel what runs (2); or end it (3)."""
        if level <= self.told or self.code is not None:
            return
        self.told = level
        if level > 2:  # noqa: PLR2004 - the third time
            self._process.kill()
        elif self._hello is None:
            self._process.terminate()  # it may be importing for long, and has nothing in flight
        self._channel.tell(Stop(level))

    def note_deafness(self, killed_after: float) -> None:
        """Say once that it cannot have heard that it is to end, if its loop stands still."""
        if self._stall is not None and not self._is_deaf and self.told:
            self._is_deaf = True
            log.warning(
                "%s has not heard that it is to end: its event loop has been blocked for %.1f s "
                "%s; after %.0f s it is killed",
                self, self.silence, self._stall.task, killed_after,
            )  # fmt: skip

    def describe_end(self) -> str:
        """How it ended, for the log."""
        code = self.code or 0
        if code < 0:
            with suppress(ValueError):
                return f"was killed by {signal.Signals(-code).name}"
            return f"was killed by signal {-code}"
        return f"exited with code {code}"

    async def _listen(self, group: anyio.abc.TaskGroup) -> None:
        while messages := await self._channel.receive():
            for message in messages:
                lease = self._lease
                self._take_in(message)
                if self._lease is not None and self._lease is not lease:
                    group.start_soon(self._renew, self._lease)

    def _take_in(self, message: FromWorker) -> None:
        match message:
            case Hello():
                self._hello = message
            case Holding():
                if self._renewing is not None:
                    self._renewing.cancel()
                self._lease = SupervisedLease(message)
            case Heartbeat():
                self._look_back(message)
                self.started = message.started
                self.memory = message.memory
                self.worn = message.worn
                self._note_readiness(message)
            case Goodbye():
                self.goodbye = message
        self._heard_at = time.monotonic()

    def _note_readiness(self, heartbeat: Heartbeat) -> None:
        self._at_work = heartbeat.at_work
        if heartbeat.at_work and (self.ready_at is None or heartbeat.refused != self.refused):
            self.ready_at = self.ready_at or time.monotonic()
            worker = self._hello.worker if self._hello else ""
            if heartbeat.refused:
                log.warning(
                    "%s works but is not ready, as it cannot consume %s: worker %s",
                    self, ", ".join(f"queue {queue}" for queue in heartbeat.refused), worker,
                )  # fmt: skip
            else:
                log.info("%s is ready: worker %s", self, worker)
        self.refused = heartbeat.refused

    async def _renew(self, lease: SupervisedLease) -> None:
        with anyio.CancelScope() as self._renewing:
            await lease.renew(lambda: not self.is_given_up, self._channel.tell)
        await lease.close()  # it is over; should it come to a release, that opens it again

    def _look_back(self, heartbeat: Heartbeat) -> None:
        """Log a stall that is over, if it was not as it went on: we may have stood still, too."""
        is_named, self._is_named = self._is_named, False
        if heartbeat.stood > LONG and not is_named:
            log.error(
                "the event loop of %s %s", self, told_afterwards(heartbeat.stood, heartbeat.running)
            )

    async def _watch(self) -> None:
        """Log where the loop stands when it begins to stand still, and when it moves again."""
        stood, since = False, 0.0
        while True:
            due = time.monotonic() + (LOOK if stood else max(STALL - self.silence, LOOK))
            await anyio.sleep(due - time.monotonic())
            if time.monotonic() - due > LOOK:
                # We stood still ourselves. What was said meanwhile is read before we judge, and who
                # stood still with us may say that it moves again.
                await anyio.sleep(HEARTBEAT_EVERY)
            stands = self.silence > STALL
            if stood and not stands:
                self._stall, self._is_deaf = None, False
                log.warning(
                    "the event loop of %s runs again, after %.1f s", self, time.monotonic() - since
                )
                stood = False
            elif stands and not stood:
                stood = self._is_named = True
                silence = self.silence
                since = time.monotonic() - silence
                where = await self._ask_where()
                log.error(
                    "the event loop of %s has been blocked for %.1f s %s%s",
                    self, silence, where.task, where.remedy, extra={TRACEBACK: where.places},
                )  # fmt: skip
                self._stall = where

    async def _ask_where(self) -> Stall:
        assert self._hello is not None  # noqa: S101 - it has said something before it fell silent
        self._read_answer()  # to an earlier question, which came too late
        self._process.send_signal(ASK)
        answer = ""
        with anyio.move_on_after(ANSWER_TIMEOUT) as patience:
            while not is_whole(answer):
                await anyio.sleep(LOOK / 10)
                if more := self._read_answer():
                    patience.deadline = min(patience.deadline, anyio.current_time() + WHOLE_TIMEOUT)
                    answer += more
        return read_answer(answer, self._hello.thread)

    def _read_answer(self) -> str:
        try:
            return os.read(self._answers, ANSWER_LIMIT).decode(errors="replace")
        except BlockingIOError:
            return ""


def _spawn(orders: Orders, channel: int, pipe: int) -> "subprocess.Popen[bytes]":
    """A fresh interpreter that imports as this one does.

    It is born deaf to SIGINT, and listens once it can answer: a Ctrl-C that finds it importing
    would leave a traceback among the log's lines.
    """
    heard = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return subprocess.Popen(  # noqa: S603 - ourselves
            # -P: what is in the current directory must not stand in for what this process imports.
            [sys.executable, "-P", "-m", PROGRAM, str(channel), str(pipe), orders.app],
            env={**os.environ, "PYTHONPATH": import_path()},
            pass_fds=(channel, pipe),
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, heard)
