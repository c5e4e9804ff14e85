"""Leases that the supervisor renews: what a broker says to it ends neither lease nor supervisor."""

from pathlib import Path

import anyio
import pytest

from asyncq.clock import SystemClock
from asyncq.config import Url
from asyncq.drivers.sqlite.broker import SqliteBroker
from asyncq.language.message import new_id
from asyncq.seams.broker import Lease
from asyncq.supervisor.leases import SupervisedLease
from asyncq.worker.channel import Holding, Lost, Renewed
from tests.client.given import PATIENCE, until
from tests.contracts.rabbit_given import MAIL


def allow(folder: Path, mode: int) -> None:
    folder.chmod(mode)


async def test_a_file_that_will_not_do_for_a_while_costs_no_lease(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = Url(f"sqlite:///{tmp_path / 'queue.db'}")
    lease = Lease(new_id(), 60.0)
    told: list[Renewed | Lost] = []

    async with SqliteBroker(url, SystemClock()) as broker, broker.consume(MAIL, lease):
        kept = SupervisedLease(
            Holding(url=str(url), incarnation=lease.incarnation, queues=[MAIL.name], seconds=0.1)
        )
        allow(tmp_path, 0o777)
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(kept.renew, lambda: True, told.append)
                await until(lambda: "cannot be renewed" in caplog.text)
                assert not kept.is_renewed

                allow(tmp_path, 0o700)
                await until(lambda: kept.is_renewed)
                group.cancel_scope.cancel()
        await kept.close()

    assert not [each for each in told if isinstance(each, Lost)]
    assert "everybody may write to" in caplog.text


async def test_what_refuses_to_release_is_asked_again_and_then_left_to_the_lease(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncq.supervisor.leases.RELEASE_TIMEOUT", 0.2)
    file = tmp_path / "queue.db"
    file.symlink_to("elsewhere.db")
    kept = SupervisedLease(
        Holding(url=f"sqlite:///{file}", incarnation="a", queues=["x"], seconds=7.5)
    )

    with anyio.fail_after(PATIENCE):
        assert await kept.release() == 0

    assert "could not be requeued: it runs again when its 7.5 s are over" in caplog.text
