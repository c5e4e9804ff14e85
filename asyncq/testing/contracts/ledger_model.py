"""Any operations on latches, against a model of a latch that fits on a page."""

from collections.abc import Awaitable, Callable, Sequence

import msgspec
from anyio import fail_after
from hypothesis import strategies as st

from asyncq.language.effects import Arrive, Hold, Policy, Send
from asyncq.language.message import new_id
from asyncq.seams.ledger import FAILED, OK, PENDING, Ledger, Unsent
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

    hold: Hold
    named: set[str]
    said: dict[str, list[Arrive]] = {}
    unsent: list[tuple[bool, Send]] = []
    """With whether it is sent on failure."""
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
        if FAILED in states and self.hold.policy == "fail" and not self.has_failed:
            self.has_failed = True
            self.unsent += [(True, each) for each in self.hold.on_failure]
        is_complete = PENDING not in states and (
            FAILED not in states or self.hold.policy == "collect"
        )
        if is_complete and not self.is_released:
            self.is_released = True
            self.unsent += [(False, each) for each in self.hold.sends]

    def line(self, *, is_failure: bool) -> list[Send]:
        """What is unsent of it, in its order."""
        return [each for kind, each in self.unsent if kind == is_failure]

    def take(self, sender: str) -> bool:
        """Whether this one sends what is unsent. (Nobody is silent for long.)"""
        if self.unsent and self.sender in ("", sender):
            self.sender = sender
        return bool(self.unsent) and self.sender == sender

    def confirm(self, count: int, *, is_failure: bool) -> None:
        """The first ones of this line are sent."""
        for _ in range(count):
            self.unsent.remove((is_failure, self.line(is_failure=is_failure)[0]))
        if not self.unsent:
            self.sender = ""


_NAMES = ["0", "1", "2", "a", "b", "c", "d"]
_senders = st.sampled_from([ME, OTHER])
_some_names = st.lists(st.sampled_from(_NAMES), max_size=3, unique=True).map(tuple)


async def _nowhere(sends: Sequence[Send]) -> None:
    """They are sent, and nobody looks where to."""


class LedgerRun:
    """One example: a few latches, and the models that they are compared with."""

    def __init__(
        self,
        ledgers: list[Ledger],
        data: st.DataObject,
        latches: Sequence[str] = (),
        *,
        make: Callable[[], Send] = send,
        publish: Callable[[Sequence[Send]], Awaitable[None]] = _nowhere,
    ) -> None:
        self._ledgers = ledgers
        self._data = data
        self._latches = latches or [f"{new_id()}-{number}" for number in range(2)]
        self._make = make
        self._publish = publish
        self._models: dict[str, LatchModel] = {}
        self._confirmed: dict[str, Unsent] = {}

    async def play(self) -> None:
        for _ in range(STEPS):
            await self.compare(await self.step())
        await self.leave()

    async def leave(self) -> None:
        await self._ledgers[0].forget_latches(self._latches)

    async def step(self) -> str:
        """Do anything; returns the name of the latch."""
        name = self._data.draw(st.sampled_from(self._latches))
        ledger = self._data.draw(st.sampled_from(self._ledgers))
        match self._data.draw(st.sampled_from([*["hold", "send"] * 2, *["arrive"] * 6, "forget"])):
            case "hold":
                hold, sender = self.hold(name), self._data.draw(_senders)
                heard = await ledger.apply([hold], sender)
                self.held(hold)
                assert list(heard) == ([name] if self._models[name].take(sender) else [])
            case "arrive":
                await self._arrive(name, ledger)
            case "send":
                await self._send(name, ledger)
            case _ if self._data.draw(st.integers(0, 2)) == 0:
                await ledger.forget_latches([name])
                self._models.pop(name, None)
                self._confirmed.pop(name, None)
            case _:
                pass
        return name

    def hold(self, name: str = "") -> Hold:
        draw = self._data.draw
        parts: tuple[str, ...] | int = draw(st.one_of(_some_names, st.integers(0, 3)))
        policy: Policy = draw(st.sampled_from(["fail", "collect"]))
        sends = tuple(self._make() for _ in range(draw(st.integers(1, 3))))
        on_failure = tuple(self._make() for _ in range(draw(st.integers(0, 2))))
        return Hold(name or draw(st.sampled_from(self._latches)), parts, sends, on_failure, policy)

    def held(self, hold: Hold) -> None:
        """It was applied: the first of its name stands."""
        if hold.latch not in self._models:
            parts = hold.parts
            named = set(map(str, range(parts))) if isinstance(parts, int) else set(parts)
            model = self._models[hold.latch] = LatchModel(hold, named)
            model.release()

    async def _arrive(self, name: str, ledger: Ledger) -> None:
        draw, model = self._data.draw, self._models.get(name)
        arrives = [
            Arrive(name, draw(st.sampled_from(_NAMES)), draw(st.booleans()), new_id().encode(),
                   draw(_some_names))
            for _ in range(draw(st.integers(1, 4)))
        ]  # fmt: skip
        sender = draw(_senders)
        heard = await ledger.apply(arrives, sender)
        if model is not None:
            for each in arrives:
                model.arrive(each)
        assert list(heard) == ([name] if model is not None and model.take(sender) else [])

    async def _send(self, name: str, ledger: Ledger) -> None:
        """Send some of what is unsent, and confirm that, or a part of it, or what was before."""
        draw, model = self._data.draw, self._models.get(name)
        if (last := self._confirmed.get(name)) is not None and draw(st.booleans()):
            await ledger.confirm(last)
        limit, is_failure, sender = draw(st.integers(1, 3)), draw(st.booleans()), draw(_senders)
        page = await ledger.unsent(name, sender, is_failure=is_failure, limit=limit)
        is_ours = model is not None and model.take(sender)
        line = model.line(is_failure=is_failure)[:limit] if is_ours and model is not None else []
        assert (page is None) == (not line)
        if page is None or model is None:
            return
        assert list(page.sends) == line
        assert page.is_failure == is_failure
        await self._publish(page.sends)
        count = draw(st.integers(0, len(line)))
        if count:
            page = msgspec.structs.replace(page, stop=page.start + count)
            await ledger.confirm(page)
            self._confirmed[name] = page
            model.confirm(count, is_failure=is_failure)

    async def compare_all(self) -> None:
        for name in self._latches:
            await self.compare(name)

    async def compare(self, name: str) -> None:
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
