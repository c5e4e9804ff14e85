"""RabbitMQ under test: its queues as the node itself counts them.

RabbitMQ does not find messages by their ids, so an audit has placeholders in their stead: how many
there are, and where. Outcomes are in SQLite, beside it.
"""

import socket
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pamqp.commands as amqp
import pamqp.frame

from asyncq.drivers.rabbitmq.content import Parcel, frames
from asyncq.language.envelope import Envelope
from tests.faults.lab.audit import Audit
from tests.faults.lab.tasks import QUEUE
from tests.servers import RabbitServer

# Of each queue: name, ready, in hands, the two of one moment. Asked of the queues themselves: what
# the node reports of them is up to five seconds old.
_COUNT = """
Counted = lists:map(fun(Q) ->
    {resource, _, queue, Name} = amqqueue:get_name(Q),
    Leader = amqqueue:get_pid(Q),
    Both = fun(S) ->
        [rabbit_fifo:query_messages_ready(S), rabbit_fifo:query_messages_checked_out(S)]
    end,
    Counts = case ra:leader_query(Leader, Both) of
        {ok, {_, Found}, _} -> Found;
        {ok, Found, _} -> Found
    end,
    [Name | Counts]
  end, [Q || Q <- rabbit_amqqueue:list(<<"VHOST">>), amqqueue:get_type(Q) =:= rabbit_quorum_queue]),
binary_to_list(iolist_to_binary(rabbit_json:encode(Counted)))
"""
_CONNECTIONS = "length(rabbit_networking:local_connections())"
OPEN_TIMEOUT = 30.0  # seconds, of a busy machine
CONFIRMED, RETURNED = b"\x00\x3c\x00\x50", b"\x00\x3c\x00\x32"  # Basic.Ack, Basic.Return

_decode = msgspec.json.Decoder(list[tuple[str, int, int]]).decode


class RabbitBed:
    """A virtual host of its own in a node that others use as well, one after the other."""

    scheme = "rabbitmq"
    keeps_hold = False
    knows_ids = False
    is_locked = False
    durable_after = 6.0  # RabbitMQ 3.10 writes down what quorum queues it has every five seconds
    resumes_within = 5.0

    def __init__(self, server: RabbitServer, url: str, directory: Path) -> None:
        self._server = server
        self._vhost = url.rpartition("/")[2]
        self.url = url
        self.impatient_url = f"{url}?heartbeat=1"  # it gives up who misses two
        self.port = server.port
        self._has_queue = False
        self.backend = f"sqlite:///{directory}/outcomes.db"
        self.other_backend = f"sqlite:///{directory}/others.db"
        # Methods, as their frames begin. Messages are pushed; with the answer to what is asked
        # behind a settlement. What was left is given back when a connection opens.
        self.words = {
            "publish": b"\x00\x3c\x00\x28",
            "claim": b"\x00\x3c\x00\x0a",
            "settle": b"\x00\x3c\x00\x50",
            "give_back": b"\x00\x0a\x00\x0b",
        }

    def url_through(self, port: int) -> str:
        return self._server.url_of(self._vhost, port)

    def pause(self) -> None:
        self._server.pause()

    def resume(self) -> None:
        self._server.resume()

    def crash(self) -> None:
        self._server.kill()

    def restore(self) -> None:
        self._server.start()

    def connections(self) -> int:
        return int(self._server.evaluate(_CONNECTIONS).strip("{}ok, \n"))

    def audit(self) -> Audit:
        counted = self._counted()
        waiting: set[str] = set()
        in_flight: set[str] = set()
        for name, (ready, in_hands) in counted.items():
            if name != f"{QUEUE}:dead":
                waiting |= {f"{name} {number}" for number in range(ready)}
            if name in {QUEUE, f"{QUEUE}:suspects"}:
                in_flight |= {f"held from {name} {number}" for number in range(in_hands)}
        suspects = sum(counted.get(f"{QUEUE}:suspects", (0, 0)))
        return Audit(
            waiting=waiting,
            in_flight=in_flight,
            suspects={f"suspect {number}" for number in range(suspects)},
            # In hands are those that somebody looks through, and has not given back yet.
            dead={f"dead {number}" for number in range(sum(counted.get(f"{QUEUE}:dead", (0, 0))))},
            faults=[],
        )

    def put_raw(self, id: bytes, blob: bytes) -> None:
        """Put bytes into the queue as somebody who is not asyncq."""
        stand_in = "?" * len(id)
        message = frames(Parcel("", QUEUE, stand_in, blob), 1, 131_072)
        message = message.replace(stand_in.encode(), id, 1)
        handshake = [
            b"AMQP\x00\x00\x09\x01",
            pamqp.frame.marshal(
                amqp.Connection.StartOk(
                    client_properties={}, response="\0guest\0guest", locale="en_US"
                ),
                0,
            ),
            pamqp.frame.marshal(amqp.Connection.TuneOk(2047, 131_072, 0), 0),
            pamqp.frame.marshal(amqp.Connection.Open(self._vhost), 0),
            pamqp.frame.marshal(amqp.Channel.Open(), 1),
            pamqp.frame.marshal(amqp.Confirm.Select(), 1),
            message,
        ]
        while not self._has_queue:  # a worker that begins has not declared it yet, or not quite:
            self._has_queue = (
                QUEUE in self._counted()
            )  # what comes without a leader may stay unsaid
        while not self._takes(b"".join(handshake)):
            time.sleep(0.05)

    def wrap(self, envelope: Envelope) -> bytes:
        return envelope.body  # all else is properties, which AMQP reads and writes

    def unwrap(self, id: str, blob: bytes) -> Envelope:
        return Envelope(id=id, queue=QUEUE, body=blob)

    def put_newer(self, envelope: Envelope) -> None:
        self.put_raw(envelope.id.encode(), envelope.body)  # which has its own later fields

    def fill(self) -> None:
        self._server.control("set_vm_memory_high_watermark", "absolute", "1")

    def make_room(self) -> None:
        self._server.control("set_vm_memory_high_watermark", "0.4")

    def _counted(self) -> dict[str, tuple[int, int]]:
        """Ready and in hands, of each queue; of none while one has no leader."""
        answer = self._server.evaluate(_COUNT.replace("VHOST", self._vhost))
        text = answer[answer.index("[[") : answer.rindex("]]") + 2] if "[[" in answer else "[]"
        return {
            name: (ready, in_flight) for name, ready, in_flight in _decode(text.replace('\\"', '"'))
        }

    def _takes(self, message: bytes) -> bool:
        """Whether RabbitMQ keeps it; False if no queue takes it."""
        with socket.create_connection(("127.0.0.1", self.port), OPEN_TIMEOUT) as connection:
            connection.sendall(message)
            answer = b""
            while CONFIRMED not in answer:
                more = connection.recv(4096)
                if not more:
                    raise RuntimeError(f"RabbitMQ did not take it: {answer!r}")
                answer += more
            return RETURNED not in answer


@contextmanager
def rabbit_bed(server: RabbitServer, directory: Path) -> Generator[RabbitBed]:
    with server.new_vhost() as url:
        bed = RabbitBed(server, url, directory)
        try:
            yield bed
        finally:
            if server.is_running:
                bed.resume()
            else:
                bed.restore()  # for who comes next
