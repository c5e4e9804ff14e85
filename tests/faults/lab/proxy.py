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

Side = Literal["question", "reply"]  # what goes to the server, what comes from it


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


class Halve(msgspec.Struct, frozen=True):
    """Swallow one direction alone. A connection of that time stays so for good."""

    loses: "Side"


class CutAt(msgspec.Struct, frozen=True):
    """End the connection that is first to carry so many bytes one way, at that byte; then pass.

    Each connection counts from the moment of the switch.
    """

    byte: int
    loses: "Side"


class Throttle(msgspec.Struct, frozen=True):
    """Hand on so many bytes a second in each direction of a connection."""

    bytes_per_second: int


Mode = Pass | Cut | Blackhole | Halve | CutAt | Delay | Slice | DropReply | Throttle


class Trap(msgspec.Struct, frozen=True):
    """What becomes of the next question that has this word in it, or of the reply to it."""

    word: bytes
    loses: Side = "reply"
    heard_in: Side = "question"
    """In a reply: it is that reply which is lost."""
    silently: bool = False
    """Nobody is told: the connection stays, and is half-open."""
    after: int | None = None
    """So many bytes of it are handed on first. Without, it is lost before its first, by RST."""


class Proxy:
    """Stands before one server of this machine; clients connect to its ``port`` instead."""

    def __init__(self, target: int, seed: int = 0) -> None:
        self.port = 0
        self.opened = 0
        """Connections that it has ever taken on, each in the mode of that moment."""
        self.lost = 0
        self.caught = 0
        """Bytes of the last piece in which a connection was cut."""
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
        for line in self._lines:
            line.enter(mode)

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
        while self._lines:  # also those that are just being opened
            self._end_lines(reset=False)
            await asyncio.sleep(0.001)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = _Line(writer)
        if isinstance(self._mode, Cut):
            line.end()
            return
        line.enter(self._mode)
        self.opened += 1
        try:
            answers, questions = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:  # the server is down, and so it looks through us
            line.end()
            return
        line.writers.append(questions)
        self._lines.add(line)
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(line, reader, questions, "question"))
                pumps.create_task(self._pump(line, answers, writer, "reply"))
        finally:
            self._lines.discard(line)
            line.end()

    async def _pump(
        self, line: "_Line", reader: asyncio.StreamReader, writer: asyncio.StreamWriter, side: Side
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK):
                self._spring_trap(line, data, side)
                if side not in line.swallows:
                    await self._hand_on(line, data, writer, side)
        if side == "reply" and side in line.swallows:
            await line.ended.wait()  # that the server closed it is not heard either
        line.end()

    def _spring_trap(self, line: "_Line", data: bytes, side: Side) -> None:
        for trap in self._traps:
            if trap.heard_in == side and trap.word in data:
                self._traps.remove(trap)
                line.trap = trap
                if trap.after is not None:
                    line.left = {trap.loses: trap.after}
                elif trap.loses == "question":
                    self._lose(line)
                return

    def _lose(self, line: "_Line") -> None:
        self.lost += 1
        if line.trap is not None and line.trap.silently:
            line.swallows = {"question", "reply"}
        else:
            line.end(reset=True)

    async def _hand_on(
        self, line: "_Line", data: bytes, writer: asyncio.StreamWriter, side: Side
    ) -> None:
        if line.ended.is_set():
            return
        if side in line.left:
            await self._count(line, data, writer, side)
            return
        if side == "reply" and line.trap is not None and line.trap.after is None:
            self._lose(line)
            return
        match self._mode:
            case Pass() | Halve() | CutAt():
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
                if side == "reply" and self._chance.random() < share:
                    self._lose(line)
                    return
                writer.write(data)
            case Throttle(rate):
                await asyncio.sleep(len(data) / rate)
                writer.write(data)
            case _ as never:
                assert_never(never)
        await writer.drain()

    async def _count(
        self, line: "_Line", data: bytes, writer: asyncio.StreamWriter, side: Side
    ) -> None:
        """Hand on what this connection may still carry; with the last byte it ends, by FIN."""
        left = line.left[side]
        self.caught = len(data)
        line.left[side] = left - len(data)
        writer.write(data[:left])
        await writer.drain()
        if line.left[side] > 0:
            return
        self.lost += 1
        if isinstance(self._mode, CutAt):
            self._switch(Pass())
        line.end()


class _Line:
    """One connection through the proxy: its two ends."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writers = [writer]
        self.swallows: set[Side] = set()
        self.left: dict[Side, int] = {}  # bytes that it may still carry
        self.trap: Trap | None = None
        self.ended = asyncio.Event()

    def enter(self, mode: Mode) -> None:
        """Take on what a mode does to a connection, rather than to bytes."""
        self.left = {mode.loses: mode.byte} if isinstance(mode, CutAt) else {}
        if isinstance(mode, Blackhole):
            self.swallows = {"question", "reply"}
        elif isinstance(mode, Halve):
            self.swallows.add(mode.loses)

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
