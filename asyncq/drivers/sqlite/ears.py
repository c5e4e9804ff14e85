"""Ears: who listens to topics in this process, and the poll for what others append to them."""

import asyncio
import math
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress

from anyio import move_on_after
from anyio.lowlevel import checkpoint

from asyncq.drivers.sqlite.items import Mark, marks

LONGEST_WAIT = 1.0  # seconds; after that an ear says that there may be something


class SqliteEar:
    """Listens to one topic, in one event loop."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.loop = asyncio.get_running_loop()
        self._news = asyncio.Event()

    def tell(self) -> None:
        """In its event loop."""
        self._news.set()

    async def wait(self) -> None:
        with move_on_after(LONGEST_WAIT):
            await self._news.wait()
        self._news.clear()
        await checkpoint()


class SqliteEars:
    """All ears of this process for one file. They share one look at what is new."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # changed by event loops, read by the store's threads
        self._by_topic: dict[str, list[SqliteEar]] = {}
        self._heard: dict[str, Mark] = {}  # where each topic was when its ears were told

    def add(self, ear: SqliteEar) -> bool:
        """Whether it is the first of all."""
        with self._lock:
            is_first = not self._by_topic
            for deserted in [each for each in self._all() if each.loop.is_closed()]:
                self._drop(deserted)
            self._by_topic.setdefault(ear.topic, []).append(ear)
            return is_first

    def remove(self, ear: SqliteEar) -> bool:
        """Whether it was the last of all; one that was deserted was dropped before."""
        with self._lock:
            return self._drop(ear) and not self._by_topic

    def hear(self, news: Mapping[str, Mark]) -> None:
        """Tell who listens to a topic that is not where it was."""
        told: list[SqliteEar] = []
        with self._lock:
            for topic, mark in news.items():
                if topic in self._by_topic and self._heard.get(topic) != mark:
                    self._heard[topic] = mark
                    told += self._by_topic[topic]
        _tell(told)

    # The poll

    def pause(self) -> float:
        return math.inf

    def look(self, connection: sqlite3.Connection) -> None:
        with self._lock:
            topics = list(self._by_topic)
        self.hear(marks(connection, topics))

    def give_up(self) -> None:
        with self._lock:
            told = self._all()
        _tell(told)  # they read, and so learn what is wrong

    def _all(self) -> list[SqliteEar]:
        return [each for some in self._by_topic.values() for each in some]

    def _drop(self, ear: SqliteEar) -> bool:
        own = self._by_topic.get(ear.topic, [])
        if ear not in own:
            return False
        own.remove(ear)
        if not own:
            del self._by_topic[ear.topic]
            self._heard.pop(ear.topic, None)
        return True


def _tell(ears: Iterable[SqliteEar]) -> None:
    """Wake each event loop once, however many listen there."""
    by_loop: dict[asyncio.AbstractEventLoop, list[SqliteEar]] = defaultdict(list)
    for ear in ears:
        by_loop[ear.loop].append(ear)
    for loop, own in by_loop.items():
        with suppress(RuntimeError):  # it is closed: nobody waits there any more
            loop.call_soon_threadsafe(_tell_all, own)


def _tell_all(ears: Iterable[SqliteEar]) -> None:
    for ear in ears:
        ear.tell()
