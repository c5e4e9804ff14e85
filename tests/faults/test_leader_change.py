"""A cluster of three RabbitMQ nodes, and the one that leads a queue dies."""

from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from tests.faults.conftest import Report
from tests.faults.lab.bench import Bench
from tests.faults.lab.rabbit_bed import RabbitBed
from tests.faults.lab.tasks import QUEUE
from tests.faults.lab.waiting import until
from tests.servers import RabbitServer, ServerMissing, start_rabbitmq_cluster
from tests.servers.required import give_up

RESUMPTION = 10.0  # seconds until tasks run again
BACKLOG = 500

# On which node the queue's leader is, and how many members it has.
_LEADER = """
{ok, Q} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"VHOST">>, queue, <<"QUEUE">>)),
{ok, _, {_, Leader}} = ra:members(amqqueue:get_pid(Q)),
{Leader, length(maps:get(nodes, amqqueue:get_type_state(Q)))}
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RabbitServer]]:
    try:
        with start_rabbitmq_cluster(tmp_path_factory.mktemp("cluster"), 3) as nodes:
            yield nodes
    except ServerMissing as missing:
        give_up("rabbitmq", missing)


@pytest.mark.parametrize("known", ["another", "both"])
async def test_when_the_leader_of_a_queue_is_killed_its_messages_are_still_there(
    cluster: list[RabbitServer], tmp_path: Path, report: Report, known: str
) -> None:
    leading, other, _ = cluster
    with other.new_vhost() as url:
        vhost = url.rpartition("/")[2]
        bench = Bench(tmp_path, RabbitBed(other, url, tmp_path))
        urls = url if known == "another" else f"{leading.url_of(vhost)},{url}"
        try:
            async with bench.app(leading.url_of(vhost)) as app:
                await bench.send(app, 1)  # the queue is led by the node that it is declared at
            await bench.hired(urls)
            async with bench.app(urls) as app, anyio.create_task_group() as load:
                for _ in range(4):
                    load.start_soon(bench.produce, app, 0.005)
                await until(lambda: len(bench.ended()) > 100, 60, "tasks run")
                await bench.send(app, BACKLOG, seconds=0.02)
                question = _LEADER.replace("VHOST", vhost).replace("QUEUE", QUEUE)
                answer = other.evaluate(question)
                assert f"t{leading.port}@localhost" in answer, answer
                assert answer.rstrip("} \n").endswith(" 3"), answer

                await anyio.to_thread.run_sync(leading.kill)
                bench.healed()
                goal = len(bench.starts())
                await until(lambda: len(bench.starts()) > goal + BACKLOG, 60, "tasks run again")
                load.cancel_scope.cancel()

            findings = await bench.audit_all()
            report(findings)
        finally:
            bench.close()
            if not leading.is_running:
                leading.start()
    assert findings.ok == findings.acknowledged
    assert findings.t_resume < RESUMPTION
