"""Any operations on latches, against a model of a latch that fits on a page."""

import msgspec
from anyio import fail_after
from hypothesis import strategies as st

from asyncq.language.effects import Arrive, Hold, Policy, Send
from asyncq.language.message import new_id
from asyncq.seams.ledger import FAILED, OK, PENDING, Ledger
from asyncq.testing.contracts.given import PATIENCE, envelope
from asyncq.testing.contracts.model import STEPS

ME, OTHER = "me", "größer 🙂"  # senders


def send(body: bytes = b"hello") -> Send:
    return Send(envelope(body), "default")


async def send_line(
    ledger: Ledger, latch: str, sender: str = ME, limit: int = 100, *, is_failure: bool
) -> list[bytes]:
    """Confirm all that is unsent in one line; returns the bodies."""
    bodies: list[bytes] = []
    with fail_after(PATIENCE):
        while page := await ledger.unsent(latch, sender, is_failure=is_failure, limit=limit):
            assert page.is_failure == is_failure
            bodies += [each.envelope.body for each in page.sends]
            await ledger.confirm(page)
    return bodies


async def send_all(ledger: Ledger, latch: str, sender: str = ME, limit: int = 100) -> list[bytes]:
    """Confirm all that is unsent, on failure first; returns the bodies."""
    failed = await send_line(ledger, latch, sender, limit, is_failure=True)
    return failed + await send_line(ledger, latch, sender, limit, is_failure=False)


class LatchModel(msgspec.Struct):
    """A latch as it is said to be: who was named, and what was said of each."""

    named: set[str]
    policy: Policy
    said: dict[str, list[Arrive]] = {}
    unsent: list[bytes] = []
    sender: str = ""
    is_released: bool = False
    has_failed: bool = False

    def state_of(self, name: str) -> int:
        return max([OK if each.ok else FAILED for each in self.said.get(name, ())], default=PENDING)

    def value_of(self, name: str) -> bytes:
        state = self.state_of(name)
        said = self.said.get(name, ())
        return next((each.value for each in said if state == (OK if each.ok else FAILED)), b"")

    def arrive(self, arrive: Arrive) -> None:
        before = self.state_of(arrive.part)
        self.said.setdefault(arrive.part, []).append(arrive)
        after = self.state_of(arrive.part)
        if after == before:
            self.said[arrive.part].pop()
        elif arrive.part in self.named and not self.is_released:
            self.name(arrive.adds)
        self.release()

    def name(self, names: tuple[str, ...]) -> None:
        for name in names:
            if name not in self.named:
                self.named.add(name)
                if said := self.said.get(name):
                    self.name(said[-1].adds)

    def release(self) -> None:
        states = [self.state_of(name) for name in self.named]
        if FAILED in states and self.policy == "fail" and not self.has_failed:
            self.has_failed = True
            self.unsent.insert(0, b"failed")
        is_complete = PENDING not in states and (FAILED not in states or self.policy == "collect")
        if is_complete and not self.is_released:
            self.is_released = True
            self.unsent.append(b"body")

    def take(self, sender: str) -> bool:
        """Whether this one sends what is unsent. (Nobody is silent for long.)"""
        if self.unsent and self.sender in ("", sender):
            self.sender = sender
        return bool(self.unsent) and self.sender == sender

    def send(self, sender: str, body: bytes) -> list[bytes]:
        if not self.take(sender) or body not in self.unsent:
            return []
        self.unsent.remove(body)
        if not self.unsent:
            self.sender = ""
        return [body]


_NAMES = ["0", "1", "2", "a", "b", "c", "d"]
_some_names = st.lists(st.sampled_from(_NAMES), max_size=3, unique=True).map(tuple)


class LedgerRun:
    """One example: a few latches, and the models that they are compared with."""

    def __init__(self, ledgers: list[Ledger], data: st.DataObject) -> None:
        self._ledgers = ledgers
        self._data = data
        self._latches = {f"{new_id()}-{number}": number for number in range(2)}
        self._models: dict[str, LatchModel] = {}

    async def play(self) -> None:
        for _ in range(STEPS):
            name = self._data.draw(st.sampled_from(list(self._latches)))
            await self._step(name, self._data.draw(st.sampled_from(self._ledgers)))
        await self._ledgers[0].forget_latches(list(self._latches))

    async def _step(self, name: str, ledger: Ledger) -> None:
        draw, model = self._data.draw, self._models.get(name)
        what = draw(st.sampled_from(["hold", "arrive", "arrive", "arrive", "send", "forget"]))
        sender = draw(st.sampled_from([ME, OTHER]))
        if what == "hold":
            parts: tuple[str, ...] | int = draw(st.one_of(_some_names, st.integers(0, 3)))
            policy: Policy = draw(st.sampled_from(["fail", "collect"]))
            hold = Hold(name, parts, (send(b"body"),), (send(b"failed"),), policy)
            heard = await ledger.apply([hold], sender)
            if model is None:
                named = set(map(str, range(parts))) if isinstance(parts, int) else set(parts)
                model = self._models[name] = LatchModel(named, policy)
                model.release()
            assert list(heard) == ([name] if model.take(sender) else [])
        elif what == "arrive":
            arrives = [
                Arrive(name, draw(st.sampled_from(_NAMES)), draw(st.booleans()), new_id().encode(),
                       draw(_some_names))
                for _ in range(draw(st.integers(1, 4)))
            ]  # fmt: skip
            heard = await ledger.apply(arrives, sender)
            if model is not None:
                for each in arrives:
                    model.arrive(each)
            assert list(heard) == ([name] if model is not None and model.take(sender) else [])
        elif what == "send":
            is_failure = draw(st.booleans())
            sent = await send_line(ledger, name, sender, 1, is_failure=is_failure)
            body = b"failed" if is_failure else b"body"
            assert sent == ([] if model is None else model.send(sender, body))
        elif draw(st.integers(0, 5)) == 0:
            await ledger.forget_latches([name])
            self._models.pop(name, None)
        await self._compare(name)

    async def _compare(self, name: str) -> None:
        model = self._models.get(name)
        [state] = await self._ledgers[0].look([name])
        assert (state is None) == (model is None)
        if state is None or model is None:
            return
        states = [model.state_of(each) for each in model.named]
        assert (state.missing, state.failed) == (states.count(PENDING), states.count(FAILED))
        assert (state.is_released, state.has_failed) == (model.is_released, model.has_failed)
        assert state.unsent == len(model.unsent)
        for part, each in zip(await self._ledgers[0].parts(name, _NAMES), _NAMES, strict=True):
            if model.state_of(each) != PENDING:
                assert part is not None
                assert (part.state, part.value) == (model.state_of(each), model.value_of(each))
                assert part.is_member == (each in model.named)
