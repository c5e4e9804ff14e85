"""The tasks of the laboratory. Each run notes its start and its end in the ledger."""

import asyncio
import ctypes
import math
import os
import re
import resource
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import anyio

from asyncq import App, Retry, current_context
from asyncq.config import Config
from asyncq.language.effects import Arrive, Hold
from asyncq.language.message import End, derived_id
from asyncq.seams.ledger import PENDING
from tests.chords import begin, chord, growth, ledger_of
from tests.faults.lab.ledger import Accepted, Attempted, Died, Follows, now
from tests.faults.lab.runs import ledger, noted
from tests.faults.lab.scoped import APP, beget, own
from tests.faults.lab.waiting import LOOK, until

QUEUE = "lab"
LATER = "LAB_LATER"  # the environment variable of workers of a later release
TOMORROW = "tomorrow"  # a task that only these have
FOREVER = 3600.0  # seconds
FOLLOWERS = 2
PARTS = 4  # of a chord
WIDTH = 250  # messages of one latch: three pages
CHILDREN = 2  # that one part adds
DEEP = 2  # generations of them
STAGED = "staged"  # the part of a latch that arrives when all is enqueued
STAGE_KEPT = 1.0  # seconds
CATASTROPHE = r"(a+)+$"  # takes twice as long for every "a" before a "b"
SPARE = 64 * 1024 * 1024  # bytes that a process may take before it is ended

_hoard: list[bytes] = []


def make_app(url: str, config: Config, backend: str | None = None) -> App:
    """The app as producers and workers have it."""
    app = App(url, backend=backend, config=config)
    plain = (work, block, crunch, echo, fail, gated, grind, halt, hoard, poison, relay, stubborn)
    plain = (*plain, follow, follow_in_vain, fork, fork_in_vain, fork_with_poison, fan)
    plain = (*plain, fork_and_grow, grow, grow_after, fork_in_time, open_stage, beget, own)
    for function in plain:
        app.task(name=function.__name__, queue=QUEUE)(function)
    retry = Retry(times=2, base=0.02, factor=1.0, jitter=False)
    app.task(name="flaky", queue=QUEUE, retry=retry)(flaky)
    return app


async def work(seconds: float = 0.0) -> str:
    """Take so long; return the name of the run."""
    with noted() as run:
        await anyio.sleep(seconds)
    return run


async def fail() -> None:
    """Fail for good."""
    with noted():
        raise RuntimeError("never")


async def echo(value: Any = None) -> str:
    """Take anything."""
    del value
    with noted() as run:
        return run


async def block(seconds: float) -> str:
    """Keep the whole event loop for so long."""
    with noted() as run:
        time.sleep(seconds)  # noqa: ASYNC251 - that is the fault
    return run


async def halt(gate: str) -> str:
    """Keep the whole event loop until there is a file of this name."""
    with noted() as run:
        while not os.path.exists(gate):  # noqa: ASYNC240 - that is the fault
            time.sleep(LOOK)  # noqa: ASYNC251
    return run


async def gated(gate: str) -> str:
    """Wait until there is a file of this name."""
    with noted() as run:
        await _passed(gate)
    return run


async def crunch(seconds: float) -> str:
    """Keep the interpreter lock for so long, or up to twice that, in one regular expression."""
    return grind(seconds)


def grind(seconds: float) -> str:
    """`crunch` in a thread; the loop waits for the lock."""
    length = _length_of_match(seconds)
    with noted() as run:
        assert not re.match(CATASTROPHE, "a" * length + "b")
    return run


async def hoard(size: int) -> str:
    """Take so many bytes of memory and keep them."""
    with noted() as run:
        _hoard.append(os.urandom(1) * size)
    return run


async def poison(kind: str = "abort") -> None:
    """Take the process down: "abort", "segfault", or "memory", as a kernel does that has none."""
    with noted():
        ledger().write(Died(os.getpid(), now()))
        match kind:
            case "segfault":
                ctypes.string_at(0)
            case "memory":
                _exhaust_memory()
            case _:
                os.abort()


async def stubborn() -> None:
    """Do not end, and do not listen."""
    with noted():
        while True:
            with suppress(asyncio.CancelledError):
                await anyio.sleep(FOREVER)


async def relay(gate: str | None = None) -> str:
    """Send another task, under an id that follows from its own: sent twice it is there once."""
    with noted() as run:
        await _passed(gate)
        context = current_context()
        app: App = context.state[APP]
        ids = [f"{context.id}-next"]
        ledger().write(Attempted(ids, now()))
        await app.tasks["work"].options(id=ids[0]).enqueue()
        ledger().write(Accepted(ids, now()))
    return run


async def follow(seconds: float = 0.0) -> str:
    """Have two others sent if this ends well."""
    with noted() as run:
        await _have_sent(FOLLOWERS)
        await anyio.sleep(seconds)
    return run


async def follow_in_vain() -> None:
    """Have one sent if this ends well, which it does not. Nobody notes it: none may run."""
    with noted():
        context = current_context()
        await context.enqueue_after(context.state[APP].tasks["work"].s())
        raise RuntimeError("never")


async def _have_sent(count: int) -> None:
    context = current_context()
    app: App = context.state[APP]
    ids = [await context.enqueue_after(app.tasks["work"].s()) for _ in range(count)]
    ledger().write(Follows(context.id, ids))
    ledger().write(Attempted(ids, now()))


async def fork(seconds: float = 0.0) -> str:
    """Begin a chord, if this ends well."""
    with noted() as run:
        _begin_chord(["work"] * PARTS, ["body", *map(str, range(PARTS))])
        await anyio.sleep(seconds)
    return run


async def fork_in_vain(seconds: float = 0.0) -> str:
    """Begin a chord of which one part fails: what is sent then runs, and its body never."""
    with noted() as run:
        _begin_chord(["work"] * (PARTS - 1) + ["fail"], ["failed", *map(str, range(PARTS - 1))])
        await anyio.sleep(seconds)
    return run


async def fork_with_poison() -> str:
    """Begin a chord of which one part takes down whoever runs it."""
    with noted() as run:
        _begin_chord(["work"] * (PARTS - 1) + ["poison"], ["failed", *map(str, range(PARTS - 1))])
    return run


async def fan() -> str:
    """Have a latch release more messages than go in one page, if this ends well."""
    with noted() as run:
        context = current_context()
        app: App = context.state[APP]
        work, follow_up = app.tasks["work"].s(), app.client.follow_up
        ids = [derived_id(context.id, f"body {number}") for number in range(WIDTH)]
        bodies = [send for id in ids for send in follow_up(work, id)]
        part = follow_up(work, derived_id(context.id, "0"), (End(context.id, "0"),))
        begin(context, [Hold(context.id, 1, tuple(bodies), root=context.id), *part])
        ids.append(derived_id(context.id, "0"))
        ledger().write(Follows(context.id, ids))
        ledger().write(Attempted(ids, now()))
    return run


def _begin_chord(parts: list[str], wanted: list[str]) -> None:
    context = current_context()
    app: App = context.state[APP]
    work = app.tasks["work"].s()
    begin(context, chord(app, context.id, [app.tasks[each].s() for each in parts], work, work))
    ids = [derived_id(context.id, name) for name in wanted]
    ledger().write(Follows(context.id, ids))
    ledger().write(Attempted([*ids, derived_id(context.id, str(len(parts) - 1))], now()))


async def fork_and_grow(early: bool = False, gate: str | None = None) -> str:
    """Begin a chord of two parts that grow, and of one more that does so once the gate is open."""
    with noted() as run:
        context = current_context()
        app: App = context.state[APP]
        parts = [app.tasks["grow_after"].s(DEEP, early) for _ in range(2)]
        parts.append(app.tasks["grow"].s(1, gate))
        body = app.tasks["work"].s()
        begin(context, chord(app, context.id, parts, body, body))
        part_ids = [derived_id(context.id, str(number)) for number in range(3)]
        ids = [derived_id(context.id, "body"), *part_ids]
        for part_id, depth in zip(part_ids, (DEEP, DEEP, 1), strict=True):
            ids += _descendants(part_id, depth)
        ledger().write(Follows(context.id, ids))
        ledger().write(Attempted(ids, now()))
    return run


async def grow(depth: int, gate: str | None = None) -> str:
    """Add children to the chord that this is a part of, and they theirs, so many generations."""
    with noted() as run:
        await _passed(gate)
        if depth:
            context = current_context()
            app: App = context.state[APP]
            arrive, members = growth(app, context, [app.tasks["grow"].s(depth - 1)] * CHILDREN)
            begin(context, [arrive, *members])
    return run


async def grow_after(depth: int, early: bool) -> str:
    """`grow`; if they are to be early, send the children before, and end when they have arrived."""
    if not early:
        return await grow(depth)
    with noted() as run:
        context = current_context()
        app: App = context.state[APP]
        arrive, members = growth(app, context, [app.tasks["grow"].s(depth - 1)] * CHILDREN)
        for future in app.client.send(members):
            await future
        while PENDING in await _states(app, arrive.latch, arrive.adds):  # noqa: ASYNC110 - of other processes
            await anyio.sleep(LOOK)
        begin(context, [arrive])
    return run


async def fork_in_time(gates: Sequence[str], within: float) -> str:
    """Begin a chord that has so many seconds: a part for each gate, and one that ends at once."""
    with noted() as run:
        context = current_context()
        app: App = context.state[APP]
        work, gated = app.tasks["work"].s(), app.tasks["gated"]
        parts = [work, *(gated.s(gate) for gate in gates)]
        until = context.enqueued_at + within
        begin(context, chord(app, context.id, parts, work, work, until=until))
        names = ("body", "failed", *map(str, range(len(parts))))
        ledger().write(Attempted([derived_id(context.id, name) for name in names], now()))
    return run


async def open_stage(root: str, parts: int, pages: Sequence[str]) -> str:
    """Begin a chord whose parts are held: all is there."""
    with noted() as run:
        context = current_context()
        app: App = context.state[APP]
        body = app.client.follow_up(app.tasks["work"].s(), derived_id(root, "body"))
        hold = Hold(root, parts, tuple(body), keep=STAGE_KEPT, root=root)
        begin(context, [hold, *(Arrive(page, STAGED, True) for page in pages)])
    return run


async def _states(app: App, latch: str, names: Sequence[str]) -> list[int]:
    parts = await ledger_of(app).parts(latch, names)
    return [PENDING if part is None else part.state for part in parts]


def _descendants(id: str, depth: int) -> list[str]:
    if not depth:
        return []
    children = [derived_id(id, str(number)) for number in range(CHILDREN)]
    return [*children, *(each for child in children for each in _descendants(child, depth - 1))]


async def flaky(gate: str | None = None) -> str:
    """Fail twice, succeed then."""
    with noted() as run:
        await _passed(gate)
        if current_context().attempt < 3:
            raise RuntimeError("not yet")
    return run


async def _passed(gate: str | None) -> None:
    if gate is not None:
        await until(lambda: os.path.exists(gate), FOREVER, "the gate opens")


def _length_of_match(seconds: float) -> int:
    """How many "a" keep `CATASTROPHE` busy for at least so long."""
    length = 18
    began = time.thread_time()  # others on this machine have their share of the clock
    re.match(CATASTROPHE, "a" * length + "b")
    return length + math.ceil(math.log2(seconds / (time.thread_time() - began)))


def _exhaust_memory() -> None:
    with open("/proc/self/statm") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + SPARE, taken + SPARE))
    try:
        while True:
            _hoard.append(bytes(SPARE // 16))
    except MemoryError:
        os.kill(os.getpid(), signal.SIGKILL)
