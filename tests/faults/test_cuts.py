"""Connections that end in the middle of what they carry, at any byte of it."""

import random

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

        findings = await bench.conclude()
    report(findings, seed=SEED, size=size, cuts=len(chosen) + 1)
    assert findings.ok == len(chosen) + 3
    # What a worker had in its hands whole when its connection was cut runs again, where that is
    # the lease.
    in_hands = (step, loses) == ("claim", "reply") and not bench.bed.keeps_hold
    again = sum(byte >= size for byte in chosen) if in_hands else 0
    assert len(chosen) + 3 <= len(bench.starts()) <= len(chosen) + 3 + again
