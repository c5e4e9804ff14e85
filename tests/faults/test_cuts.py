"""Connections that end in the middle of what they carry, at any byte of it."""

import random
from collections.abc import Sequence

import pytest

from tests.faults.conftest import Report
from tests.faults.lab.beds import ServerBed
from tests.faults.lab.bench import Bench
from tests.faults.lab.proxy import Proxy, Side, Trap
from tests.faults.lab.scale import scaled
from tests.faults.lab.waiting import until

SAMPLES = scaled(7, 100_000)  # cuts of each kind, at most one for each byte
SEED = 11


@pytest.mark.parametrize("loses", ["question", "reply"])
@pytest.mark.parametrize("step", ["publish", "claim", "settle"])
async def test_a_cut_at_any_byte_changes_nothing(
    server_bench: Bench[ServerBed], proxy: Proxy, report: Report, step: str, loses: Side
) -> None:
    bench = server_bench
    url = bench.bed.url_through(proxy.port)
    async with bench.app(url) as app:
        await bench.hired(url)
        await bench.send(app, 1)
        await bench.settled()

        async def cut(byte: int) -> None:
            # What the last cut left would be settled with what this one is for.
            await bench.until_audit(lambda audit: audit.is_idle, "all is settled")
            before = proxy.lost
            if (step, loses) == ("claim", "reply"):
                # There the message is: in no other reply is the name of its argument.
                trap = Trap(b"seconds", heard_in="reply", loses="reply", after=byte)
            else:
                trap = Trap(bench.bed.words[step], loses=loses, after=byte)
            proxy.set_trap(trap)
            await bench.send(app, 1, seconds=0.0)
            await bench.settled()
            await until(lambda: proxy.lost == before + 1, 30, f"{step} is cut at byte {byte}")

        await cut(0)
        size = proxy.caught
        chosen = [1, size - 1, size, *random.Random(SEED).sample(range(size), min(SAMPLES, size))]
        for byte in chosen:
            await cut(byte)
        await bench.send(app, 1)

        findings = await bench.audit_all()
    report(findings, seed=SEED, size=size, cuts=len(chosen) + 1)
    whole = [False, *(byte >= size for byte in chosen)]
    assert findings.ok == len(chosen) + 3
    runs = len(bench.starts())
    assert len(chosen) + 3 <= runs <= len(chosen) + 3 + may_repeat(bench.bed, step, loses, whole)


def may_repeat(bed: ServerBed, step: str, loses: Side, whole: Sequence[bool]) -> int:
    """How many messages may run again, of those at whose cuts the piece came through whole or not.

    Where the connection is the lease, it is what a worker had in its hands whole. Where nobody
    knows ids, what is published again after its confirm was lost; the later copy does not run if
    the first has ended by then.
    """
    if bed.keeps_hold:
        return 0
    if (step, loses) == ("claim", "reply"):
        return sum(whole)
    return len(whole) if step == "publish" else 0
