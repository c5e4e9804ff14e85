"""What is in Redis, and the scripts that change it.

A queue is a list of ids that are ready, and a hash of bodies by id. A body leaves the hash only
when its result is stored. A list with one element wakes a worker that found nothing.
"""

from typing import Any
from urllib.parse import urlsplit

import hiredis
import msgspec
from redis.asyncio.connection import Connection

from benchmarks.contenders.interface import RESULT_TTL, STORE_URL

READY, BODIES, AWAKE = "ready", "bodies", "awake"
RESULT = "result:"  # and the id

PUBLISH = """
redis.call('HSET', KEYS[2], unpack(ARGV))
local ids = {}
for i = 1, #ARGV, 2 do ids[#ids + 1] = ARGV[i] end
redis.call('RPUSH', KEYS[1], unpack(ids))
if redis.call('EXISTS', KEYS[3]) == 0 then redis.call('RPUSH', KEYS[3], 1) end
"""

CLAIM = """
local ids = redis.call('LPOP', KEYS[1], ARGV[1])
if not ids then
    redis.call('DEL', KEYS[3])
    return {}
end
return redis.call('HMGET', KEYS[2], unpack(ids))
"""

# The count of results, each an id and a value; then replies, each a channel and a batch.
SETTLE = """
local last = 1 + 2 * ARGV[1]
local ids = {}
for i = 2, last, 2 do
    ids[#ids + 1] = ARGV[i]
    redis.call('SET', 'RESULT' .. ARGV[i], ARGV[i + 1], 'EX', TTL)
end
redis.call('HDEL', KEYS[2], unpack(ids))
for i = last + 1, #ARGV, 2 do redis.call('PUBLISH', ARGV[i], ARGV[i + 1]) end
""".replace("RESULT", RESULT).replace("TTL", str(RESULT_TTL))


class Message(msgspec.Struct, array_like=True):
    """One request to run one task."""

    id: str
    task: str
    args: list[Any]
    reply_to: str


class Succeeded(msgspec.Struct, array_like=True, tag=1):
    """The task returned."""

    value: Any


class Failed(msgspec.Struct, array_like=True, tag=2):
    """The task raised."""

    error: str


Outcome = Succeeded | Failed


class Store:
    """One connection to Redis; whoever holds it sends and reads in turn."""

    def __init__(self) -> None:
        place = urlsplit(STORE_URL)
        self._connection = Connection(
            host=place.hostname or "localhost",
            port=place.port or 6379,
            socket_timeout=None,
            protocol=2,
        )
        self._scripts: dict[str, bytes] = {}

    async def open(self) -> None:
        """Connect, and load the scripts."""
        await self._connection.connect()
        for script in (PUBLISH, CLAIM, SETTLE):
            self._scripts[script] = await self.call("SCRIPT", "LOAD", script)

    async def close(self) -> None:
        """Disconnect."""
        await self._connection.disconnect()

    async def call(self, *command: str | bytes | int) -> Any:
        """Send one command; return its reply."""
        await self.send(command)
        return await self.read()

    async def run(self, script: str, *arguments: str | bytes | int) -> Any:
        """Run one of the scripts."""
        await self.send(self.packed(script, *arguments))
        return await self.read()

    def packed(self, script: str, *arguments: str | bytes | int) -> tuple[str | bytes | int, ...]:
        """The command that runs a script."""
        return ("EVALSHA", self._scripts[script], 3, READY, BODIES, AWAKE, *arguments)

    async def send(self, command: tuple[str | bytes | int, ...]) -> None:
        """Send a command whose reply is read later."""
        packed = hiredis.pack_command(command)
        await self._connection.send_packed_command(packed, check_health=False)

    async def read(self) -> Any:
        """Read the next reply."""
        return await self._connection.read_response(disable_decoding=True)
