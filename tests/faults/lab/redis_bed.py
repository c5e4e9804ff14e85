"""Redis under test: its keys as an auditor reads them, and as an intruder writes them."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import msgspec
import redis

from asyncq.drivers.redis.connection import Script
from asyncq.language.envelope import Envelope
from asyncq.seams.packing import pack, unpack
from tests.faults.lab.audit import Audit, misplaced
from tests.faults.lab.tasks import QUEUE
from tests.servers import RedisServer, start_redis

# One script, so that all of it is of one moment.
_SNAPSHOT = """
local all = {}
for _, key in ipairs(redis.call('KEYS', ARGV[1])) do
  local kind, content = redis.call('TYPE', key).ok, {}
  if kind == 'list' then content = redis.call('LRANGE', key, 0, -1)
  elseif kind == 'set' then content = redis.call('SMEMBERS', key)
  elseif kind == 'zset' then content = redis.call('ZRANGE', key, 0, -1)
  elseif kind == 'hash' then content = redis.call('HKEYS', key)
  end
  all[#all + 1] = {key, content}
end
local ended = {}
for _, id in ipairs(redis.call('HKEYS', KEYS[1])) do
  if redis.call('EXISTS', ARGV[2] .. id) == 1 then ended[#ended + 1] = id end
end
return {all, ended}
"""

STEPS = ("publish", "claim", "settle", "give_back")


class RedisBed:
    """A Redis of our own, which keeps everything that it says it keeps."""

    scheme = "redis"
    keeps_hold = True
    knows_ids = True
    is_locked = False
    durable_after = 0.0
    resumes_within = 2.0

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._base = f"asyncq:{{{QUEUE}}}"
        self.url = self.backend = self.impatient_url = server.url
        self.other_backend = f"{server.url}?prefix=outcomes"
        self.port = server.port
        self.words = {step: Script(step).sha.encode() for step in STEPS}

    def url_through(self, port: int) -> str:
        return f"redis://127.0.0.1:{port}/0"

    def pause(self) -> None:
        self._server.pause()

    def resume(self) -> None:
        self._server.resume()

    def crash(self) -> None:
        self._server.kill()

    def restore(self) -> None:
        self._server.start()

    def audit(self) -> Audit:
        with self.client() as client:
            keys, ended = client.eval(_SNAPSHOT, 1, f"{self._base}:bodies",
                                      f"{self._base}:*", "asyncq:r:")  # fmt: skip
        content = {_text(key): {_text(member) for member in members} for key, members in keys}
        repeated = [_text(key) for key, members in keys if len(set(members)) < len(members)]
        return self._read(content, {_text(id) for id in ended}, repeated)

    def put_raw(self, id: bytes, blob: bytes) -> None:
        """Put bytes into the queue as somebody who is not asyncq."""
        with self.client() as client:
            client.hset(f"{self._base}:bodies", id, blob)
            client.rpush(f"{self._base}:ready:0", id)

    def wrap(self, envelope: Envelope) -> bytes:
        return pack(envelope)

    def unwrap(self, id: str, blob: bytes) -> Envelope:
        return unpack(blob, id, QUEUE)

    def put_newer(self, envelope: Envelope) -> None:
        fields = msgspec.msgpack.decode(self.wrap(envelope))
        self.put_raw(envelope.id.encode(), msgspec.msgpack.encode([*fields, {"since": "later"}]))

    def fill(self) -> None:
        with self.client() as client:
            client.config_set("maxmemory", 1)  # bytes; the policy is noeviction

    def make_room(self) -> None:
        with self.client() as client:
            client.config_set("maxmemory", 0)  # no limit

    def connections(self) -> int:
        """How many clients the server has, without the one that asks."""
        with self.client() as client:
            return len(client.client_list(_type="normal") + client.client_list(_type="pubsub")) - 1

    def client(self) -> Any:
        return cast("Any", redis.Redis).from_url(self.url)

    def _read(self, keys: dict[str, set[str]], ended: set[str], repeated: list[str]) -> Audit:
        def members(name: str) -> set[str]:
            return keys.get(f"{self._base}:{name}", set())

        held_by = {
            key.removeprefix(f"{self._base}:in_flight:"): ids
            for key, ids in keys.items()
            if key.startswith(f"{self._base}:in_flight:")
        }
        delayed = {member[1:] for member in members("delayed")}
        ready: dict[str, set[str]] = {f"ready:{n}": members(f"ready:{n}") for n in range(10)}
        waiting = {**ready, "suspects": members("suspects"), "delayed": delayed}
        in_flight = {f"in flight under {incarnation}": ids for incarnation, ids in held_by.items()}
        faults = misplaced(members("bodies"), {**waiting, **in_flight})
        faults += [f"dead: {fault}" for fault in misplaced(members("dead:bodies"), {
            "dead": members("dead")})]  # fmt: skip
        faults += [f"{key} names something twice" for key in repeated]
        faults += [f"{id} has ended and is still here" for id in ended]
        faults += [f"{id} is dead and alive" for id in members("dead") & members("bodies")]
        faults += [f"{id} has crashes and no message" for id in members("crashes")
                   - members("bodies")]  # fmt: skip
        for what in ("in_flight", "quarantine", "epochs"):
            owners = set(held_by) if what == "in_flight" else members(what)
            faults += [f"{what} of {owner} without a lease" for owner in owners - members("leases")]
        return Audit(
            waiting=set[str]().union(*waiting.values()),
            in_flight=set[str]().union(*in_flight.values()),
            suspects=members("crashes"),
            dead=members("dead"),
            faults=faults,
        )


@contextmanager
def redis_bed(directory: Path) -> Generator[RedisBed]:
    with start_redis(directory, "--appendonly", "yes", "--appendfsync", "always") as server:
        yield RedisBed(server)


def count_latches(url: str) -> int:
    """How many keys the Redis of this URL has of latches. Blocks."""
    with cast("Any", redis.Redis).from_url(url.partition("?")[0]) as client:
        return sum(1 for _ in client.scan_iter("*latch*"))


def _text(raw: bytes) -> str:
    return raw.decode(errors="backslashreplace")
