"""The supervisor: keeps so many worker processes at work, and ends with them.

             ┌─ child ── channel ── worker process 1: loop, tasks
 supervisor ─┤             orders, leases renewed ▶
             └─ child ──   ◀ heartbeats, leases  ── worker process 2

Whatever is decided about processes is decided in `_tend`; a `Child` carries it out.
"""

import signal
import time
from collections.abc import Sequence
from typing import Any

import anyio
import msgspec
from anyio.abc import TaskGroup

from asyncq.config import MIB
from asyncq.language.policies import Retry
from asyncq.loggers import get_logger
from asyncq.supervisor.child import Child
from asyncq.supervisor.health import HealthServer
from asyncq.supervisor.orphans import reap_orphans
from asyncq.texts import counted
from asyncq.worker.channel import Goodbye, Orders
from asyncq.worker.signals import obey_signals, say_stop, stop_signals

log = get_logger(__name__)

LOOK = 0.1  # seconds between two looks at everything; a death is seen at once
EARLY = 1.0  # seconds; a process that dies sooner after it was ready died early
PAUSE = Retry(times=0, base=0.2, ceiling=10.0, jitter=False)  # after repeated early deaths
RECYCLE_PAUSE = 1.0  # seconds; where a new process is over its limit, that is not all we do
DEAF = 5.0  # seconds that a loop which is to end may stand still, if its grace is shorter
MISUSE = 2  # the exit code of a process whose set-up is wrong


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How many processes there are to be, and when they are replaced."""

    orders: Orders
    processes: int = 1
    max_tasks: int | None = None
    """Deliveries that a process may run."""
    max_memory: int | None = None
    """Resident bytes that a process may have."""
    health_host: str = "127.0.0.1"
    health_port: int | None = None
    """Where to tell how we are; nowhere if None."""


class Place:
    """One of the processes that there are to be, whoever fills it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.child: Child | None = None
        self.successor: Child | None = None
        """On its way to take over."""
        self.why_replaced = ""
        self.retired: list[Child] = []
        """Taken over from; they drain."""
        self.early_deaths = 0
        self.not_before = 0.0
        """The next process is not started sooner, by `time.monotonic`."""
        self.is_done = False
        """Nothing is left to do in a burst."""

    @property
    def children(self) -> Sequence[Child]:
        """Those that live or are to be released."""
        ours = (self.child, self.successor, *self.retired)
        return [child for child in ours if child is not None]


class Supervisor:
    """Runs worker processes until they are told to end, or have nothing left to do."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._places = [Place(number + 1) for number in range(plan.processes)]
        self._level = 0  # how hard we were told to stop
        self._end = Goodbye()
        self._is_introduced = False  # one process has loaded the app, and said what it is
        self._is_proven = False  # one process was ready: the set-up can work
        self._news = anyio.Event()

    async def run(self) -> Goodbye:
        """Keep the processes at work; returns how it ended, and why if it was not well.

        Raises:
            ConfigurationError: the port to tell our health at cannot be had.
        """
        async with anyio.create_task_group() as upkeep:
            ours = stop_signals()
            await upkeep.start(obey_signals, self._obey)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ours)  # what came earlier has waited
            upkeep.start_soon(reap_orphans, self._pids)
            if self._plan.health_port is not None:
                checks = {"/live": self._check_life, "/ready": self._check_readiness}
                server = HealthServer(checks, self._plan.health_host, self._plan.health_port)
                await upkeep.start(server.run)
            async with anyio.create_task_group() as lives:
                while not self._is_over():
                    self._news = anyio.Event()
                    for place in self._places:
                        self._tend(place, lives)
                    with anyio.move_on_after(LOOK):
                        await self._news.wait()
            upkeep.cancel_scope.cancel()
        return self._end

    def _pids(self) -> set[int]:
        return {child.pid for place in self._places for child in place.children}

    def _is_over(self) -> bool:
        if any(place.children for place in self._places):
            return False
        return self._level > 0 or all(place.is_done for place in self._places)

    def _obey(self, level: int, by: str) -> None:
        self._level = level
        say_stop(level, by)
        self._news.set()

    def _tend(self, place: Place, lives: TaskGroup) -> None:
        """See what became of a place's processes, and do what that asks for."""
        for child in place.children:
            self._is_introduced = self._is_introduced or child.is_loaded
            self._is_proven = self._is_proven or child.ready_at is not None
            if child.code is not None:
                self._take_leave(place, child)
        if self._level:
            for child in place.children:
                self._stop(child)
            return
        if place.child is not None and place.successor is not None and place.successor.is_at_work:
            self._hand_over(place, place.child, place.successor)
        if time.monotonic() < place.not_before:
            return
        if place.child is None:
            # The first process shows whether the set-up is right; the others wait for it.
            may_start = place is self._places[0] or self._is_introduced
            if may_start and not place.is_done:
                place.child = self._start(place, lives)
        elif place.successor is None and (why := self._wear_of(place.child)):
            place.why_replaced = why
            place.successor = self._start(place, lives)

    # How we are

    def _check_readiness(self) -> tuple[bool, dict[str, Any]]:
        """Whether a place's process takes messages now; none does once we were told to stop."""
        children = [] if self._level else [place.child for place in self._places if place.child]
        count = sum(child.is_consuming for child in children)
        facts: dict[str, Any] = {
            "ready": count > 0,
            "consuming": count,
            "processes": len(self._places),
        }
        if refused := {queue for child in children for queue in child.refused}:
            some = counted(len(refused), "queue")  # names are not for whoever may ask
            facts["why"] = f"{some} cannot be consumed; the log says which, and why"
        return count > 0, facts

    def _check_life(self) -> tuple[bool, dict[str, Any]]:
        """Whether there is hope: not when every loop stands still for good."""
        children = [child for place in self._places for child in place.children]
        stuck = sum(child.is_given_up for child in children)
        live = not children or stuck < len(children)
        return live, {"live": live, "stuck": stuck, "processes": len(self._places)}

    # Beginnings

    def _start(self, place: Place, lives: TaskGroup) -> Child | None:
        orders = msgspec.structs.replace(self._plan.orders, introduce=not self._is_introduced)
        try:
            child = Child(place.number, orders)
        except OSError as error:
            log.error(  # noqa: TRY400 - the system's
                "process %d cannot be started: %s; trying again in %.0f s",
                place.number,
                error,
                PAUSE.ceiling,
            )
            place.not_before = time.monotonic() + PAUSE.ceiling
            return None
        lives.start_soon(self._live, child)
        return child

    async def _live(self, child: Child) -> None:
        await child.run()
        self._news.set()
        await child.release()

    # Replacements

    def _wear_of(self, child: Child) -> str | None:
        """Why this process is to be replaced, if it is."""
        if self._plan.max_tasks is not None and child.started >= self._plan.max_tasks:
            return f"has run {counted(child.started, 'task')}"
        if self._plan.max_memory is not None and child.memory >= self._plan.max_memory:
            return f"takes {child.memory // MIB} MiB of memory"
        return child.worn or None

    def _hand_over(self, place: Place, child: Child, successor: Child) -> None:
        log.info("%s %s: %s takes over", child, place.why_replaced, successor)
        place.child, place.successor = successor, None
        place.retired.append(child)
        place.not_before = time.monotonic() + RECYCLE_PAUSE
        child.stop(1)

    # Ends

    def _stop(self, child: Child) -> None:
        child.stop(min(self._level, 3))
        patience = max(child.grace, DEAF)
        child.note_deafness(patience)
        if child.silence > patience:
            log.error(
                "%s does not respond to being told to end, its event loop is blocked: killing it",
                child,
            )
            child.stop(3)

    def _take_leave(self, place: Place, child: Child) -> None:
        """Note that a process has ended, and decide what follows from that."""
        was_at_work = child is place.child
        if was_at_work:
            place.child, place.successor = place.successor, None
        elif child is place.successor:
            place.successor = None
        else:
            place.retired.remove(child)
        goodbye = child.goodbye or Goodbye()
        if self._level:
            self._note_end(child, goodbye)
        elif child.code == 0 and (child.told or self._plan.orders.burst):
            log.info("%s has ended", child)
            place.is_done = was_at_work and self._plan.orders.burst
        elif child.told:
            log.error("%s %s while it drained", child, child.describe_end())
        elif goodbye.why is not None:
            self._note_failure(place, child, goodbye)
        else:
            log.error("%s %s; %s", child, child.describe_end(), self._pause(place, child))

    def _note_end(self, child: Child, goodbye: Goodbye) -> None:
        """It was told to end, and so are all."""
        if goodbye.why is not None:
            self._end = goodbye
        elif child.code == 0 or (not child.is_loaded and child.told):
            log.info("%s has ended", child)
        else:
            log.error("%s %s", child, child.describe_end())
            self._end = Goodbye(self._end.code or 1, self._end.why)

    def _note_failure(self, place: Place, child: Child, goodbye: Goodbye) -> None:
        """It says itself why it cannot work. If that holds for all of them, it is the end."""
        is_one_at_work = any(each.child and each.child.is_at_work for each in self._places)
        if not self._is_proven or (goodbye.code == MISUSE and not is_one_at_work):
            self._end = goodbye
            self._level = 1
        else:
            log.error("%s failed: %s; %s", child, goodbye.why, self._pause(place, child))

    def _pause(self, place: Place, child: Child) -> str:
        """Decide when the next process is started; says so."""
        now = time.monotonic()
        lasted = child.ready_at is not None and now - child.ready_at > EARLY
        place.early_deaths = 0 if lasted else place.early_deaths + 1
        pause = PAUSE.pause(place.early_deaths - 1) if place.early_deaths > 1 else 0.0
        place.not_before = now + pause
        return f"the next is started in {pause:.1f} s" if pause else "the next is started"
