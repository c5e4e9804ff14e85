"""The proxy does to bytes what its modes say, and nothing else."""

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import pytest
from anyio import fail_after

from tests.faults.lab.proxy import (
    Blackhole,
    Cut,
    CutAt,
    Delay,
    DropReply,
    Halve,
    Mode,
    Pass,
    Proxy,
    Slice,
    Throttle,
    Trap,
    start_proxy,
)
from tests.faults.lab.waiting import until

QUESTION = bytes(range(200))
PATIENCE = 30.0  # seconds


class Echo:
    """A server that answers with what it was sent, and remembers it."""

    def __init__(self) -> None:
        self.heard = b""
        self.hung_up = asyncio.Event()
        self._all_gone = asyncio.Event()
        self._clients = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients += 1
        self._all_gone.clear()
        with suppress(OSError):  # the connection may be reset
            while data := await reader.read(1 << 16):
                self.heard += data
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
        self.hung_up.set()
        self._clients -= 1
        if not self._clients:
            self._all_gone.set()

    async def has_heard(self, wanted: bytes) -> None:
        """Return once this is all it has heard."""
        while self.heard != wanted:  # noqa: ASYNC110 - a look costs nothing
            await asyncio.sleep(0.001)

    async def left_alone(self) -> None:
        """Return once every client is gone."""
        await self._all_gone.wait()


@asynccontextmanager
async def echoing() -> AsyncGenerator[tuple[Echo, Proxy]]:
    echo = Echo()
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    with fail_after(20):
        with start_proxy(server.sockets[0].getsockname()[1]) as proxy:
            yield echo, proxy
        await echo.left_alone()
    server.close()


class Client:
    """A connection through the proxy that remembers what came back."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, question: bytes) -> bytes:
        """The answer, as long as the question."""
        self._writer.write(question)
        return await self._reader.readexactly(len(question))

    async def ask_in_vain(self, question: bytes) -> bytes:
        """What came of the answer until the connection ended."""
        self._writer.write(question)
        try:
            return await self._reader.read()
        except ConnectionResetError:
            return b""

    def tell(self, question: bytes) -> None:
        self._writer.write(question)

    @property
    def has_news(self) -> bool:
        """Whether anything can be read, the end of the connection included."""
        connection: socket.socket = self._writer.get_extra_info("socket")
        with socket.socket(fileno=socket.dup(connection.fileno())) as peeker:
            peeker.setblocking(False)
            try:
                peeker.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                return False
        return True

    def close(self) -> None:
        self._writer.transport.abort()


@asynccontextmanager
async def connected(proxy: Proxy) -> AsyncGenerator[Client]:
    client = Client(*await asyncio.open_connection("127.0.0.1", proxy.port))
    try:
        yield client
    finally:
        client.close()


@pytest.mark.parametrize("mode", [Pass(), Slice(7), Delay(0.01), Throttle(100_000)])
async def test_what_only_slows_things_down_hands_everything_on(mode: Mode) -> None:
    async with echoing() as (echo, proxy), connected(proxy) as client:
        proxy.switch(mode)

        assert await client.ask(QUESTION) == QUESTION
        assert echo.heard == QUESTION


@pytest.mark.parametrize("byte", [0, 1, 100, 199, 200])
async def test_a_connection_is_cut_at_this_very_byte_of_a_question(byte: int) -> None:
    async with echoing() as (echo, proxy), connected(proxy) as client:
        await client.ask(b"before")
        proxy.switch(CutAt(byte, "question"))
        await client.ask_in_vain(QUESTION)
        await echo.hung_up.wait()

        assert echo.heard == b"before" + QUESTION[:byte]
        assert proxy.lost == 1
        async with connected(proxy) as next_one:
            assert await next_one.ask(QUESTION) == QUESTION


@pytest.mark.parametrize("byte", [0, 1, 100, 199, 200])
async def test_a_connection_is_cut_at_this_very_byte_of_a_reply(byte: int) -> None:
    async with echoing() as (echo, proxy), connected(proxy) as client:
        await client.ask(b"before")
        proxy.switch(CutAt(byte, "reply"))
        came = await client.ask_in_vain(QUESTION)

        assert came == QUESTION[:byte]
        assert echo.heard == b"before" + QUESTION


@pytest.mark.parametrize("after", [0, 3, 200])
async def test_a_trap_cuts_the_question_that_has_its_word(after: int) -> None:
    async with echoing() as (echo, proxy), connected(proxy) as client:
        proxy.set_trap(Trap(b"\x40\x41", loses="question", after=after))
        await client.ask(b"another word")
        await client.ask_in_vain(QUESTION)
        await echo.hung_up.wait()

        assert echo.heard == b"another word" + QUESTION[:after]


async def test_a_trap_cuts_the_reply_to_the_question_that_has_its_word() -> None:
    async with echoing() as (echo, proxy), connected(proxy) as client:
        proxy.set_trap(Trap(b"\x40\x41", after=10))

        assert await client.ask_in_vain(QUESTION) == QUESTION[:10]
        assert echo.heard == QUESTION


async def test_a_trap_cuts_the_reply_that_has_its_word() -> None:
    async with echoing() as (echo, proxy), connected(proxy) as client:
        proxy.set_trap(Trap(b"\x40\x41", heard_in="reply", after=10))
        await client.ask(b"another word")

        assert await client.ask_in_vain(QUESTION) == QUESTION[:10]
        assert echo.heard == b"another word" + QUESTION
        assert proxy.caught == len(QUESTION)


async def test_half_a_connection_dies_and_the_other_half_lives() -> None:
    async with echoing() as (echo, proxy), connected(proxy) as client, connected(proxy) as other:
        await client.ask(b"before")
        await other.ask(b"before")
        echo.heard = b""
        proxy.switch(Halve("reply"))
        client.tell(QUESTION)
        await echo.has_heard(QUESTION)
        proxy.switch(Pass())
        async with connected(proxy) as fresh:
            await fresh.ask(b"heals")

        assert not client.has_news
        proxy.switch(Halve("question"))
        other.tell(QUESTION)
        opened = proxy.opened
        async with connected(proxy) as deaf:
            await until(lambda: proxy.opened > opened, PATIENCE, "it is taken on")
            deaf.tell(QUESTION)
        proxy.switch(Pass())
        async with connected(proxy) as fresh:
            await fresh.ask(b"again")
        assert echo.heard == QUESTION + b"heals" + b"again"


async def test_a_blackhole_says_nothing_and_never_gives_a_connection_back() -> None:
    async with echoing() as (echo, proxy), connected(proxy) as client:
        await client.ask(b"before")
        proxy.switch(Blackhole())
        client.tell(QUESTION)
        proxy.switch(Pass())
        client.tell(QUESTION)
        async with connected(proxy) as fresh:
            await fresh.ask(b"after")

        assert echo.heard == b"before" + b"after"
        assert not client.has_news


async def test_a_cut_ends_every_connection_and_refuses_new_ones() -> None:
    async with echoing() as (_, proxy), connected(proxy) as client:
        await client.ask(b"before")
        proxy.switch(Cut())

        assert await client.ask_in_vain(QUESTION) == b""
        async with connected(proxy) as refused:
            assert await refused.ask_in_vain(QUESTION) == b""


async def test_a_dropped_reply_was_asked_for() -> None:
    async with echoing() as (echo, proxy), connected(proxy) as client:
        proxy.switch(DropReply(1.0))

        assert await client.ask_in_vain(QUESTION) == b""
        assert echo.heard == QUESTION
        assert proxy.lost == 1
