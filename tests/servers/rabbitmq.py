"""A RabbitMQ node of our own: its name, ports, files and port mapper are nobody else's."""

import os
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from tests.servers.process import ServerMissing, ServerProcess, free_ports

START_TIMEOUT = 240.0  # seconds; alone on a machine it takes five
ANSWER_TIMEOUT = 90.0  # seconds; rabbitmqctl is slow to start on a busy machine
COOKIE = "asyncq"  # the secret between nodes; these listen on the loopback only
SYSTEM_PATH = "/usr/lib/rabbitmq/bin:/usr/local/sbin:/usr/sbin:/sbin"
CONF = "log.console = true\nlog.console.level = warning\nlog.file = false\n"
CLUSTER = """\
cluster_formation.peer_discovery_backend = classic_config
cluster_formation.classic_config.nodes.1 = {}
cluster_formation.node_type = disc
"""
OPEN_OK = b"\x00\x0a\x00\x29"


class RabbitServer:
    """A node that has no plugins, on one set of ports for its whole life.

    Alone, or in the cluster of the node that it ``joins`` when it is first started.
    """

    def __init__(self, directory: Path, joins: "RabbitServer | None" = None) -> None:
        scripts = find_rabbitmq()
        self.port, distribution, own_mapper = free_ports(3)
        self._mapper_port: int = own_mapper if joins is None else joins._mapper_port
        conf = CONF if joins is None else CONF + CLUSTER.format(joins._node)
        self.url = self.url_of("/")
        self._node: str = f"t{self.port}@localhost"
        self._vhosts = count(1)
        self._ctl = scripts / "rabbitmqctl"
        self._environment = {
            **os.environ,
            "HOME": str(directory),
            "RABBITMQ_NODENAME": self._node,
            "RABBITMQ_MNESIA_BASE": str(directory / "data"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_CONFIG_FILE": str(_written(directory / "rabbitmq.conf", conf)),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(_written(directory / "plugins", "[].\n")),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none"
            ),
            "ERL_EPMD_PORT": str(self._mapper_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            # Its script then becomes the server, instead of starting it and waiting.
            "RUNNING_UNDER_SYSTEMD": "true",
        }
        _written(directory / ".erlang.cookie", COOKIE).chmod(0o400)
        self._process = ServerProcess(
            [str(scripts / "rabbitmq-server")], directory / "rabbitmq.log", self._environment
        )
        # Were it not there, the node would leave one behind that outlives it.
        self._mapper = ServerProcess(
            [_found("epmd"), "-port", str(self._mapper_port), "-address", "127.0.0.1"],
            directory / "epmd.log",
            self._environment,
        )
        self.kill = self._process.kill
        self.pause = self._process.pause
        self.resume = self._process.resume

    def start(self) -> None:
        """Start it, or start it again with what it had written to its directory."""
        if not _listens(self._mapper_port):
            self._mapper.start(lambda: _listens(self._mapper_port), START_TIMEOUT)
        self._process.start(self._opens_a_vhost, START_TIMEOUT)

    def stop(self) -> None:
        """End it in order; what it keeps is on disk."""
        self._process.stop()
        self._mapper.kill()

    def discard(self) -> None:
        """End it at once, by somebody who will not start it again."""
        self._process.kill()
        self._mapper.kill()

    @property
    def is_running(self) -> bool:
        return self._process.is_running

    def control(self, *command: str) -> str:
        """What rabbitmqctl prints for this command."""
        return self._run([str(self._ctl), "--quiet", *command])

    def evaluate(self, erlang: str) -> str:
        """The value of this expression in the node. Fifty times as fast as `control`."""
        call = [_found("erl_call"), "-sname", self._node, "-c", COOKIE, "-e"]
        tries_until = time.monotonic() + ANSWER_TIMEOUT
        while True:
            try:
                return self._run(call, f"{erlang}.\n")
            except RuntimeError as error:
                # On a busy machine the node may take longer to answer than erl_call waits for it;
                # then it has been asked nothing.
                is_unasked = "failed to connect to node" in str(error)
                if not is_unasked or not self.is_running or time.monotonic() > tries_until:
                    raise

    @contextmanager
    def new_vhost(self) -> Generator[str]:
        """The URL of an empty virtual host; it is deleted with what is in it."""
        name = f"test-{next(self._vhosts)}"
        self.evaluate(
            f'ok = rabbit_vhost:add(<<"{name}">>, <<"tests">>),'
            f'rabbit_auth_backend_internal:set_permissions(<<"guest">>, <<"{name}">>,'
            ' <<".*">>, <<".*">>, <<".*">>, <<"tests">>)'
        )
        try:
            yield self.url_of(name)
        finally:
            self.evaluate(f'rabbit_vhost:delete(<<"{name}">>, <<"tests">>)')

    def url_of(self, vhost: str, port: int | None = None) -> str:
        """The URL of this virtual host; ``port`` is another's, such as a proxy's."""
        return f"amqp://guest:guest@127.0.0.1:{port or self.port}/{vhost.replace('/', '%2F')}"

    def _run(self, command: list[str], question: str = "") -> str:
        done = subprocess.run(
            command,
            env=self._environment,
            input=question,
            capture_output=True,
            text=True,
            timeout=ANSWER_TIMEOUT,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed: {done.stdout} {done.stderr}")
        return done.stdout

    def _opens_a_vhost(self) -> bool:
        """It listens before its queues are back: only an opened vhost is an answer."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5.0) as connection:
                connection.sendall(_handshake())
                answer = b""
                while OPEN_OK not in answer:
                    more = connection.recv(4096)
                    if not more:
                        return False
                    answer += more
                return True
        except OSError:
            return False


@contextmanager
def start_rabbitmq(directory: Path) -> Generator[RabbitServer]:
    """A running node that keeps its files in ``directory``.

    Raises:
        ServerMissing: there is no rabbitmq-server here.
    """
    server = RabbitServer(directory)
    try:
        server.start()
        yield server
    finally:
        server.discard()


@contextmanager
def start_rabbitmq_cluster(directory: Path, size: int) -> Generator[list[RabbitServer]]:
    """So many running nodes that are one cluster. The first has to outlive the others.

    Raises:
        ServerMissing: there is no rabbitmq-server here.
    """
    nodes: list[RabbitServer] = []
    try:
        for number in range(size):
            place = directory / f"node-{number}"
            place.mkdir()
            nodes.append(RabbitServer(place, nodes[0] if nodes else None))
            nodes[-1].start()
        yield nodes
    finally:
        for node in reversed(nodes):
            node.discard()


def find_rabbitmq() -> Path:
    """The folder of RabbitMQ's own scripts.

    The command that Debian puts into the PATH wraps them, to run them as another user.
    """
    script = Path(_found("rabbitmq-server")).resolve()
    return script.parent


def _found(command: str) -> str:
    places = os.pathsep.join([os.environ.get("PATH", os.defpath), SYSTEM_PATH])
    found = shutil.which(command, path=places)
    if found is None:
        raise ServerMissing(f"no {command} in {places}")
    return found


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
        return True
    return False


def _handshake() -> bytes:
    """All that a client says until its vhost is open (AMQP 0-9-1, section 1.4), in one go."""
    start = struct.pack(">HHI", 10, 11, 0) + _short("PLAIN") + _long("\0guest\0guest")
    start += _short("en_US")
    tune = struct.pack(">HHHIH", 10, 31, 2047, 131_072, 0)
    opening = struct.pack(">HH", 10, 40) + _short("/") + _short("") + b"\0"
    return b"AMQP\x00\x00\x09\x01" + b"".join(_frame(method) for method in (start, tune, opening))


def _frame(method: bytes) -> bytes:
    return struct.pack(">BHI", 1, 0, len(method)) + method + b"\xce"


def _short(text: str) -> bytes:
    return struct.pack(">B", len(text)) + text.encode()


def _long(text: str) -> bytes:
    return struct.pack(">I", len(text)) + text.encode()
