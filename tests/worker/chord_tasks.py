"""The tasks that chords are made of, in the tests of latches."""

from collections.abc import Sequence
from typing import Any

import msgspec

from asyncq.app import App
from asyncq.client.context import Context
from asyncq.language.effects import Effect
from asyncq.language.message import (
    Outcome,
    Succeeded,
    derived_id,
)
from asyncq.language.policies import Retry
from asyncq.language.signature import Signature
from asyncq.seams.ledger import Ledger
from tests.chords import chord
from tests.client.given import PATIENCE, until

_read = msgspec.msgpack.Decoder(Outcome).decode


def ledger_of(app: App) -> Ledger:
    ledger = app.client.backend.offers.ledger
    assert ledger is not None
    return ledger


class Tasks:
    """What chords of these tests are made of."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.ran: list[str] = []
        self.values: list[Any] = []
        self.are_well = False

        @app.task(keep_result=0)
        async def square(n: int) -> int:
            self.ran.append(f"square {n}")
            return n * n

        @app.task(retry=Retry(times=1, base=0.001, jitter=False))
        async def flaky(context: Context, n: int) -> int:
            if context.attempt == 1:
                raise ValueError("not yet")
            return n

        @app.task
        async def ill() -> int:
            if not self.are_well:
                raise ValueError("ill")
            return -1

        @app.task
        async def body(root: str, count: int) -> list[Any]:
            self.ran.append("body")
            parts = await ledger_of(app).parts(root, [str(n) for n in range(count)])
            values: list[Any] = []
            for part in parts:
                assert part is not None
                outcome = _read(part.value)
                is_value = isinstance(outcome, Succeeded)
                values.append(
                    msgspec.msgpack.decode(outcome.value) if is_value else type(outcome).__name__
                )
            self.values = values
            return values

        @app.task
        async def failed(root: str) -> None:
            self.ran.append("failed")

        self.square, self.flaky, self.ill = square, flaky, ill
        self.body, self.failed = body, failed

    def chord(self, root: str, parts: Sequence[Signature[Any]], **more: Any) -> list[Effect]:
        body, failed = self.body.s(root, len(parts)), self.failed.s(root)
        return chord(self.app, root, parts, body, failed, **more)

    async def done(self, root: str) -> Any:
        """What the body has returned."""
        await until(lambda: "body" in self.ran)
        return await self.app.result(derived_id(root, "body")).get(timeout=PATIENCE)
