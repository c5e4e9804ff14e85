"""Which dead letters a command means, and how it finds and changes them, however many there are.

They are looked through page by page, and no more than a page is in memory.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from fnmatch import fnmatchcase

import msgspec

from asyncq.app import App
from asyncq.cli.apps import find_queues, hint, known_queues
from asyncq.clock import SystemClock
from asyncq.codecs.native import NativeCodec
from asyncq.errors import ConfigurationError, Undecodable
from asyncq.seams.admin import DeadLetter
from asyncq.seams.broker import MAX_BATCH

HINTED = 100  # ids of each queue among which one that was misspelled is looked for
_AGE = re.compile(r"(\d+(?:\.\d+)?)(s|m|min|h|d|w)?")
_UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}

Change = Callable[[str, Sequence[str]], Awaitable[int]]
"""What is done to the dead letters of a queue with these ids; returns how many there were."""


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """What dead letters have to be like; nothing that is None counts."""

    task: str | None = None
    """A pattern, as in ``mail.*``; of a name without a dot, the last part is enough."""
    reason: str | None = None
    """Text in the reason, in capitals or not; a pattern where there is a ``*`` in it."""
    older_than: float | None = None
    """Seconds since it died."""
    newer_than: float | None = None

    @property
    def takes_all(self) -> bool:
        return self == Filter()

    def takes(self, letter: DeadLetter, now: float) -> bool:
        age = now - letter.died_at
        if self.older_than is not None and age < self.older_than:
            return False
        if self.newer_than is not None and age > self.newer_than:
            return False
        if self.reason is not None and not _contains(letter.reason, self.reason):
            return False
        return self.task is None or _is_named(task_of(letter) or "", self.task)


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Some dead letters: those with these ids, or those that a filter takes, the oldest first."""

    queue: str | None = None
    ids: Sequence[str] = ()
    filter: Filter = Filter()
    limit: int | None = None


class Changed(msgspec.Struct, frozen=True):
    """How many were met, and which of those that were named were not there."""

    count: int
    missing: Sequence[str] = ()


def parse_age(text: str | None, option: str) -> float | None:
    """``90s``, ``15m``, ``2h``, ``7d``, ``1h30m`` in seconds; a bare number is seconds.

    Raises:
        ConfigurationError: it is none of these.
    """
    if text is None:
        return None
    parts = _AGE.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ConfigurationError(
            f"{option} takes an age, as in 90s, 15m, 2h, 7d or 1h30m, not {text[:50]!r}"
        )
    return sum(float(number) * _UNITS[unit or "s"] for number, unit in parts)


def task_of(letter: DeadLetter) -> str | None:
    """The name of its task, where the body can be read."""
    try:
        return NativeCodec().decode(letter.envelope).task
    except Undecodable:
        return None


async def resolve(
    app: App, words: Sequence[str], queue: str | None
) -> tuple[str | None, list[str]]:
    """The queue and the ids that arguments mean: the first may be a queue, unless one is given.

    Raises:
        ConfigurationError: there is no such queue.
    """
    ids = list(dict.fromkeys(words))
    if queue is not None:
        await find_queues(app, queue)
        return queue, ids
    if ids and (ids[0] in await known_queues(app) or await app.queues.is_there(ids[0])):
        return ids[0], ids[1:]
    return None, ids


async def matching(app: App, chosen: Selection) -> AsyncIterator[DeadLetter]:
    """The dead letters that the filter takes, queue by queue, up to the limit."""
    now = SystemClock().now()
    left = chosen.limit
    for name in await find_queues(app, chosen.queue):
        offset = 0
        while left != 0 and (page := await app.dead.list(name, limit=MAX_BATCH, offset=offset)):
            offset += len(page)
            for letter in page:
                if left != 0 and chosen.filter.takes(letter, now):
                    left = None if left is None else left - 1
                    yield letter


async def count(app: App, chosen: Selection) -> int:
    """How many dead letters the filter takes."""
    if chosen.filter.takes_all:
        depths = [
            (await app.queues.depth(name)).dead for name in await find_queues(app, chosen.queue)
        ]
        total = sum(depths)
        return total if chosen.limit is None else min(total, chosen.limit)
    found = 0
    async for _ in matching(app, chosen):
        found += 1
    return found


async def change(app: App, chosen: Selection, act: Change, tell: Callable[[int], None]) -> Changed:
    """Do something to all that are chosen, and tell from time to time to how many it was done."""
    if chosen.ids:
        return await _change_named(app, chosen, act, tell)
    now, done = SystemClock().now(), 0
    for name in await find_queues(app, chosen.queue):
        # No more than there are now: one that dies again meanwhile joins at the end.
        left, offset = (await app.queues.depth(name)).dead, 0
        while left > 0:
            page = await app.dead.list(name, limit=min(MAX_BATCH, left), offset=offset)
            ids = [letter.envelope.id for letter in page if chosen.filter.takes(letter, now)]
            if chosen.limit is not None:
                ids = ids[: chosen.limit - done]
            met = await act(name, ids) if ids else 0
            done += met
            left -= len(page)
            offset += len(page) - met
            tell(done)
            if not page or done == chosen.limit:
                break
    return Changed(done)


async def _change_named(
    app: App, chosen: Selection, act: Change, tell: Callable[[int], None]
) -> Changed:
    missing, done = dict.fromkeys(chosen.ids), 0
    for name in await find_queues(app, chosen.queue):
        wanted = list(missing)
        for start in range(0, len(wanted), MAX_BATCH):
            there = await app.dead.among(name, wanted[start : start + MAX_BATCH])
            if there:
                done += await act(name, there)
                tell(done)
                for id in there:
                    del missing[id]
    return Changed(done, list(missing))


async def find_one(app: App, id: str, queue: str | None) -> DeadLetter:
    """
    Raises:
        ConfigurationError: no dead letter has this id; says which may have been meant.
    """
    async for letter in matching(app, Selection(queue=queue)):
        if letter.envelope.id == id:
            return letter
    raise ConfigurationError(await not_there(app, [id], queue))


async def not_there(app: App, missing: Sequence[str], queue: str | None) -> str:
    """What to say of words that are neither dead letters nor queues."""
    where = "" if queue is None else f" of queue {queue}"
    known = list(await known_queues(app)) if queue is None else []
    for name in await find_queues(app, queue):
        letters = await app.dead.list(name, limit=HINTED)
        known += [letter.envelope.id for letter in letters]
    word = missing[0]
    nor = ", and no queue is called so" if queue is None else ""
    return f"no dead letter{where} has the id {word!r}{nor}{hint(word, known)}"


def _contains(reason: str, wanted: str) -> bool:
    if "*" in wanted:
        return fnmatchcase(reason.lower(), wanted.lower())
    return wanted.lower() in reason.lower()


def _is_named(task: str, pattern: str) -> bool:
    if fnmatchcase(task, pattern):
        return True
    return "." not in pattern and fnmatchcase(task.rpartition(".")[2], pattern)
