"""A RabbitMQ node for one run: its name, ports, files and port mapper are nobody else's."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

from benchmarks import processes
from benchmarks.servers import Server, ServerDidNotStart, free_port

BOOT = 90.0  # seconds; alone on a machine it takes five
POLL = 0.05
LOG_TAIL = 500  # characters of what a node has said that did not start
SYSTEM_PATH = "/usr/lib/rabbitmq/bin:/usr/local/sbin:/usr/sbin:/sbin"
CONF = "log.console = true\nlog.console.level = info\nlog.file = false\n"
STARTED = "Server startup complete"  # its last word before it serves


@contextmanager
def rabbitmq_server(directory: Path) -> Iterator[Server]:
    """Run a node for the length of the block, with its own settings but for where it is.

    It writes what is durable to the disk that ``directory`` is on.
    """
    directory.mkdir()
    # Debian's command in the path is a wrapper beside the real one, to run it as another user.
    # It calls what is named as itself: under its own name it would call itself for ever.
    command = _found("rabbitmq-server").resolve().with_name("rabbitmq-server")
    port, mapper = free_port(), free_port()
    environ = os.environ | _environ(directory, port, mapper)
    # Were the mapper not there, the node would leave one behind that outlives it.
    address = ["-port", str(mapper), "-address", "127.0.0.1"]
    with (
        _process([str(_found("epmd")), *address], directory / "epmd.log", environ),
        _process([str(command)], directory / "node.log", environ) as node,
    ):
        said = _wait_for(directory / "node.log", node)
        version = re.search(r"Starting RabbitMQ (\S+)", said)
        yield Server(
            url=f"amqp://guest:guest@127.0.0.1:{port}/%2F",
            version=version.group(1) if version else "unknown",
        )


def _environ(directory: Path, port: int, mapper: int) -> Mapping[str, str]:
    conf, plugins = directory / "rabbitmq.conf", directory / "plugins"
    conf.write_text(CONF)
    plugins.write_text("[].\n")
    return {
        "HOME": str(directory),  # of the cookie
        "RABBITMQ_NODENAME": f"bench{port}@localhost",
        "RABBITMQ_MNESIA_BASE": str(directory / "data"),
        "RABBITMQ_LOG_BASE": str(directory / "log"),
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_CONFIG_FILE": str(conf),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        "ERL_EPMD_PORT": str(mapper),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        # Its script then becomes the server, instead of starting it and waiting.
        "RUNNING_UNDER_SYSTEMD": "true",
    }


@contextmanager
def _process(
    command: list[str], path: Path, environ: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    with path.open("wb") as log:
        process = subprocess.Popen(
            command, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        processes.end(process)


def _wait_for(log: Path, process: subprocess.Popen[bytes]) -> str:
    """Wait until the node serves; return what it has said."""
    deadline = monotonic() + BOOT
    while STARTED not in (said := log.read_text("utf-8", "replace")):
        if monotonic() > deadline or process.poll() is not None:
            raise ServerDidNotStart(f"rabbitmq-server: …{said[-LOG_TAIL:]}")
        sleep(POLL)
    return said


def _found(command: str) -> Path:
    places = os.pathsep.join([os.environ.get("PATH", os.defpath), SYSTEM_PATH])
    found = shutil.which(command, path=places)
    if found is None:
        raise ServerDidNotStart(f"no {command} in {places}")
    return Path(found)
