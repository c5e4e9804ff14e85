"""The servers of the tests: each is found again as it was left."""

import socket
from pathlib import Path

from tests.servers import RabbitServer, ServerMissing, start_rabbitmq
from tests.servers.required import give_up

DECLARE = """
Name = rabbit_misc:r(<<"/">>, queue, <<"kept">>),
rabbit_amqqueue:declare(Name, true, false, [], none, <<"tests">>),
mnesia:sync_log()
"""  # without the last, it is written down a while later


def test_a_rabbitmq_that_was_killed_comes_back_with_what_it_kept(tmp_path: Path) -> None:
    try:
        with start_rabbitmq(tmp_path) as server:
            server.evaluate(DECLARE.strip())

            server.kill()
            could_connect = listens(server)
            server.start()

            kept = server.control("list_queues", "name").split()
    except ServerMissing as missing:
        give_up("rabbitmq", missing)
    assert not could_connect
    assert "kept" in kept
    assert not listens(server)


def test_every_vhost_is_new_and_gone_afterwards(rabbitmq_server: RabbitServer) -> None:
    with rabbitmq_server.new_vhost() as first, rabbitmq_server.new_vhost() as second:
        during = set(rabbitmq_server.control("list_vhosts").split())

    names = {url.rpartition("/")[2] for url in (first, second)}
    assert len(names) == 2
    assert names <= during
    assert not names & set(rabbitmq_server.control("list_vhosts").split())


def listens(server: RabbitServer) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", server.port)) == 0
