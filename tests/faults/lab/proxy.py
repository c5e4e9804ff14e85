"""A TCP proxy that breaks connections in the ways that networks do.

It runs in a thread with an event loop of its own. What it does to the bytes is its mode, which may
change at any moment.
"""

import asyncio
import random
import socket
import struct
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Literal, assert_never

import msgspec

CHUNK = 64 * 1024  # bytes read at a time
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST instead of FIN


class Pass(msgspec.Struct, frozen=True):
    """Hand everything on."""


class Cut(msgspec.Struct, frozen=True):
    """End every connection, and refuse new ones."""


class Blackhole(msgspec.Struct, frozen=True):
    """Swallow everything. A connection of that time stays silent for good: it is half-open."""


class Delay(msgspec.Struct, frozen=True):
    """Hand everything on so many seconds late."""

    seconds: float


class Slice(msgspec.Struct, frozen=True):
    """Hand everything on in pieces of so many bytes."""

    size: int


class DropReply(msgspec.Struct, frozen=True):
    """Lose this share of the replies, each with its connection: what was asked has been done."""

    share: float


class Throttle(msgspec.Struct, frozen=True):
    """Hand on so many bytes a second in each direction of a connection."""

    bytes_per_second: int


Mode = Pass | Cut | Blackhole | Delay | Slice | DropReply | Throttle


class Trap(msgspec.Struct, frozen=True):
    """What becomes of the next question that has this word in it."""

    word: bytes
    loses: Literal["question", "reply"] = "reply"
    silently: bool = False
    """Nobody is told: the connection stays, and is half-open."""


class Proxy:
    """Stands before one server of this machine; clients connect to its ``port`` instead."""

    def __init__(self, target: int, seed: int = 0) -> None:
        self.port = 0
        self.lost = 0
        self._target = target
        self._chance = random.Random(seed)
        self._mode: Mode = Pass()
        self._traps: list[Trap] = []
        self._lines: set[_Line] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._up = threading.Event()
        self._ending = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    def switch(self, mode: Mode) -> None:
        """Do this from now on."""
        self._call(lambda: self._switch(mode))

    def cut(self, *, reset: bool = False) -> None:
        """End the connections of this moment, by FIN or by RST. New ones are welcome."""
        self._call(lambda: self._end_lines(reset=reset))

    def set_trap(self, trap: Trap) -> None:
        """Let it snap once, on whichever connection."""
        self._call(lambda: self._traps.append(trap))

    def start(self) -> None:
        self._thread.start()
        self._up.wait()

    def stop(self) -> None:
        self._call(self._ending.set)
        self._thread.join()

    def _call(self, do: Callable[[], None]) -> None:
        """Have it done in the proxy's own thread, and wait for that."""
        done = threading.Event()

        def call() -> None:
            do()
            done.set()

        assert self._loop is not None, "the proxy was not started"
        self._loop.call_soon_threadsafe(call)
        done.wait()

    def _switch(self, mode: Mode) -> None:
        self._mode = mode
        if isinstance(mode, Cut):
            self._end_lines(reset=False)
        if isinstance(mode, Blackhole):
            for line in self._lines:
                line.deaf = True

    def _end_lines(self, *, reset: bool) -> None:
        for line in list(self._lines):
            line.end(reset=reset)

    def _run(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._up.set()
        await self._ending.wait()
        server.close()
        self._end_lines(reset=False)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = _Line(writer)
        if isinstance(self._mode, Cut):
            line.end()
            return
        line.deaf = isinstance(self._mode, Blackhole)
        try:
            answers, questions = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:  # the server is down, and so it looks through us
            line.end()
            return
        line.writers.append(questions)
        self._lines.add(line)
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(line, reader, questions, replies=False))
                pumps.create_task(self._pump(line, answers, writer, replies=True))
        finally:
            self._lines.discard(line)
            line.end()

    async def _pump(
        self,
        line: "_Line",
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        replies: bool,
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK):
                if not replies:
                    self._spring_trap(line, data)
                if not line.deaf:
                    await self._hand_on(line, data, writer, replies=replies)
        if line.deaf and replies:
            await line.ended.wait()  # that the server closed it is not heard either
        line.end()

    def _spring_trap(self, line: "_Line", question: bytes) -> None:
        for trap in self._traps:
            if trap.word in question:
                self._traps.remove(trap)
                line.trap = trap
                if trap.loses == "question":
                    self._lose(line)
                return

    def _lose(self, line: "_Line") -> None:
        self.lost += 1
        if line.trap is not None and line.trap.silently:
            line.deaf = True
        else:
            line.end(reset=True)

    async def _hand_on(
        self, line: "_Line", data: bytes, writer: asyncio.StreamWriter, *, replies: bool
    ) -> None:
        if line.ended.is_set():
            return
        if replies and line.trap is not None:
            self._lose(line)
            return
        match self._mode:
            case Pass():
                writer.write(data)
            case Cut() | Blackhole():
                return  # the mode changed while we were reading
            case Delay(seconds):
                await asyncio.sleep(seconds)
                writer.write(data)
            case Slice(size):
                for start in range(0, len(data), size):
                    writer.write(data[start : start + size])
                    await asyncio.sleep(0)
            case DropReply(share):
                if replies and self._chance.random() < share:
                    self._lose(line)
                    return
                writer.write(data)
            case Throttle(rate):
                await asyncio.sleep(len(data) / rate)
                writer.write(data)
            case _ as never:
                assert_never(never)
        await writer.drain()


class _Line:
    """One connection through the proxy: its two ends."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writers = [writer]
        self.deaf = False
        self.trap: Trap | None = None
        self.ended = asyncio.Event()

    def end(self, *, reset: bool = False) -> None:
        if self.ended.is_set():
            return
        self.ended.set()
        for writer in self.writers:
            if reset:
                connection: socket.socket = writer.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()


@contextmanager
def start_proxy(target: int, seed: int = 0) -> Generator[Proxy]:
    """A running proxy before the server at this port."""
    proxy = Proxy(target, seed)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
