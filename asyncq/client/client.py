"""The client: what an app that is connected does with signatures, messages and results."""

import asyncio
import math
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack, aclosing, contextmanager, suppress
from itertools import islice
from typing import Any, Self, TypeVar, cast

import anyio
import anyio.lowlevel

from asyncq.client.calls import check_calls
from asyncq.client.cancelling import Canceller
from asyncq.client.context import find_context
from asyncq.client.dispatch import Dispatch, all_stored
from asyncq.client.operate import Operator
from asyncq.client.owner import Owner
from asyncq.client.places import Place, find_place
from asyncq.client.progress import follow
from asyncq.client.result import Expectation, Result
from asyncq.client.routing import DEFAULT_BROKER, Plan, Router
from asyncq.client.task import Task
from asyncq.client.waiters import Waiters
from asyncq.clock import Clock
from asyncq.config import Config
from asyncq.errors import (
    BackendError,
    BackendUnavailable,
    ConfigurationError,
    MessageTooLarge,
    first_error,
)
from asyncq.language.effects import Send
from asyncq.language.envelope import Envelope
from asyncq.language.marks import KEEP, Cancellation
from asyncq.language.message import (
    EMPTY_ARGS,
    EMPTY_KWARGS,
    End,
    Header,
    Limits,
    Message,
    Progress,
    Status,
    new_id,
    status_of,
)
from asyncq.language.scopes import SCOPE
from asyncq.language.signature import NO_OPTIONS, CallOptions, Signature
from asyncq.loggers import get_logger
from asyncq.seams.backend import Backend
from asyncq.seams.broker import MAX_BATCH, Broker
from asyncq.seams.codec import Codec
from asyncq.seams.packing import pack
from asyncq.seams.records import read_progress
from asyncq.seams.topics import progress_of

log = get_logger(__name__)

R = TypeVar("R")
CLOSE_TIMEOUT = 5.0  # seconds
WORKERS_TIMEOUT = 30.0  # seconds: each step of a worker that was cancelled has a shorter one
ANSWER_TIMEOUT = 10.0  # seconds for a question that is asked once
MOST_FORGOTTEN = 10_000  # ids


class Client:
    """Connections, and what goes over them. Belongs to the event loop it was entered in."""

    def __init__(
        self,
        *,
        brokers: Mapping[str, Broker],
        router: Router,
        backend: Backend,
        codec: Codec,
        config: Config,
        clock: Clock,
        here: Callable[[], "Client"],
    ) -> None:
        self.brokers = brokers
        self.backend = backend
        self._codec = codec
        self._config = config
        self._clock = clock
        self._router = router
        self._dispatch = Dispatch(brokers, router, config.publish_timeout)
        self.broker_of = router.broker_of
        """The name of the broker that has this queue."""
        self.operator = Operator(brokers, self.broker_of)
        """Which broker is asked of a queue."""
        self.waiters = Waiters(backend, self._locate)
        """Who waits for what, and what came for whom."""
        self._scopes = Owner(backend.offers.registry, config.lease)
        self.canceller = Canceller(
            backend,
            self.operator,
            decode=codec.decode,
            now=clock.now,
            keep=config.keep_result,
            keep_marks=max(config.keep_dead_letters, KEEP),
            task=router.task,
            told=self.waiters.missed,
            scope_is_over=self._scopes.hear,
        )
        self.store = backend.store
        self.loop = asyncio.get_running_loop()
        self.forgotten: set[str] = set()
        """Outcomes that were removed from here, the latest of them. Handles that were carried to
        other threads look here and add to it: each change is one step."""
        self._here = here
        self._keeps_effects = backend.offers.keeps_effects
        # Whether all brokers keep out by themselves what has ended already.
        self._knows_outcomes = all(each.store == backend.store for each in brokers.values())
        self._failure: BaseException | None = None
        self.entered = 0
        """How many blocks are inside."""
        self._workers = set[asyncio.Task[Any]]()  # that run over these connections
        self._last_worker_ended = asyncio.Event()
        self._owner: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[None] = self.loop.create_future()

    @property
    def broker(self) -> Broker:
        """The default one."""
        return self.brokers[DEFAULT_BROKER]

    async def __aenter__(self) -> Self:
        """Connect, or wait until somebody else has: any number of tasks may enter, in any order.

        What runs belongs to a task of the client's own, and not to the one that entered first: that
        one may leave before the others, and pytest's fixtures are left by another.
        """
        self.entered += 1
        if self._owner is None:
            self._ready = asyncio.get_running_loop().create_future()
            # A bare task, and owned all the same: who leaves last cancels it and waits for it.
            self._owner = asyncio.get_running_loop().create_task(self._hold(self._ready))
        try:
            await asyncio.wait({self._ready})
            self._ready.result()
        except BaseException:
            await self._leave()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._leave()

    async def _leave(self) -> None:
        self.entered -= 1
        if self.entered == 0 and (owner := self._owner) is not None:
            self._owner = None
            owner.cancel()
            # Shielded: connections are closed also by who is cancelled. Bounded: drivers may hang.
            with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
                await asyncio.wait({owner})

    async def _hold(self, ready: "asyncio.Future[None]") -> None:
        """Keep connections open and their work going until cancelled."""
        try:
            async with AsyncExitStack() as stack:
                for name, broker in self.brokers.items():
                    await stack.enter_async_context(broker)
                    await self._declare(name, broker)
                await stack.enter_async_context(self.backend)
                try:
                    async with anyio.create_task_group() as group:
                        for publisher in self._dispatch.publishers.values():
                            group.start_soon(publisher.run)
                        group.start_soon(self.waiters.listen)
                        group.start_soon(self.waiters.read)
                        group.start_soon(self._scopes.run, self.canceller.cancel_scope)
                        if self.canceller.writes_for_others:
                            group.start_soon(self.waiters.hear_of_others)
                        if self.backend.offers.keeps_nothing:
                            await self.waiters.listen_at_once()
                        ready.set_result(None)
                # Whoever waits or sends, now or later, is to hear what has ended it all.
                except Exception as error:
                    self._failure = first_error(error)
                    raise
                finally:
                    for publisher in self._dispatch.publishers.values():
                        publisher.close(self._failure)
                    self.waiters.close(self._failure)
                    await self._outlast_workers()
        # A component that must survive: whoever enters, or uses it, is to hear of it.
        except Exception as error:
            if ready.done():
                log.exception("the client has failed; nothing more can be sent or awaited")
            else:
                ready.set_exception(first_error(error))

    async def _outlast_workers(self) -> None:
        """Return once no worker needs the connections to give back what it has in hand.

        Servers that are told to stop for the second time, and `asyncio.run`, cancel every task of
        the loop at once, some of them more than once, and so this one beside the worker that is to
        end before it. A worker that goes on when everybody has left is cancelled here.
        """
        if not self.entered:
            for worker in self._workers:
                worker.cancel("the app was left")
        with anyio.move_on_after(WORKERS_TIMEOUT) as patience:
            while self._workers and self._failure is None:
                self._last_worker_ended.clear()
                try:
                    await self._last_worker_ended.wait()
                except asyncio.CancelledError:
                    if patience.cancel_called:
                        raise

    @contextmanager
    def worked_with(self) -> Generator[None]:
        """A worker runs over these connections: cancelled with it, they are closed after it."""
        worker = cast("asyncio.Task[Any]", asyncio.current_task())
        self._workers.add(worker)
        try:
            yield
        finally:
            self._workers.discard(worker)
            self._last_worker_ended.set()

    async def until_failed(self) -> None:
        """Raise what ends this client, if anything does; returns when it was left."""
        if self._owner is not None:
            await asyncio.wait({self._owner})
        if self._failure is not None:
            raise self._failure

    async def enqueue(self, signature: Signature[R]) -> Result[R]:
        """Send one call; returns once the broker keeps it. Raises as `Task.enqueue`."""
        plan = self._router.decide(signature)
        scopes, place = (), find_place()
        if place is not None and _is_scoped(signature, plan):
            scopes = await place.names(self)
        envelope = self._envelope(signature, plan, self._clock.now(), scopes=scopes)
        waiters = self.waiters
        own_id = signature.options.id is not None
        sent = waiters.sent_as(envelope.id) if own_id else waiters.sent(envelope.id)
        result = Result(envelope.id, self, plan.read, sent)
        if plan.is_default:
            await self._dispatch.default.submit([envelope])
        else:
            await all_stored(self._dispatch.submit([plan], [envelope]))
        if scopes and place is not None:
            place.add(self, [result])
        return result

    async def enqueue_many(
        self, signatures: Iterable[Signature[R]] | AsyncIterable[Signature[R]]
    ) -> list[Result[R]]:
        """Send many calls, in batches as they come; returns once the broker keeps all of them.

        Raises as `Task.enqueue`; what came before the call at fault has been sent.
        """
        results: list[Result[R]] = []
        scoped: list[Result[R]] = []  # of those that are on their way
        under_way: Sequence[asyncio.Future[None]] = ()
        decide, made, take = self._router.decide, self._envelope, _in_batches(signatures)
        place = find_place()
        while batch := await take():
            # This one is made while the one before it is on its way.
            now = self._clock.now()
            plans = [decide(signature) for signature in batch]
            paths = None if place is None else await self._paths(place, batch, plans)
            if paths is None:
                envelopes = [
                    made(signature, plan, now) for signature, plan in zip(batch, plans, strict=True)
                ]
            else:
                envelopes = [
                    made(signature, plan, now, scopes=path)
                    for signature, plan, path in zip(batch, plans, paths, strict=True)
                ]
            ids = [envelope.id for envelope in envelopes]
            together, sent_as = self.waiters.sent_together(ids), self.waiters.sent_as
            for id, signature, plan in zip(ids, batch, plans, strict=True):
                sent = together if signature.options.id is None else sent_as(id)
                results.append(Result(id, self, plan.read, sent))
            if under_way:
                await all_stored(under_way)
                if place is not None:
                    place.add(self, scoped)
            under_way = self._dispatch.submit(plans, envelopes)
            if paths is not None:
                new = zip(results[-len(batch) :], paths, strict=True)
                scoped = [result for result, path in new if path]
        if under_way:
            await all_stored(under_way)
            if place is not None:
                place.add(self, scoped)
        return results

    async def _paths(
        self, place: Place, batch: Sequence[Signature[Any]], plans: Sequence[Plan]
    ) -> Sequence[tuple[str, ...]]:
        """The scopes that each of these calls belongs to."""
        are_scoped = [
            _is_scoped(signature, plan) for signature, plan in zip(batch, plans, strict=True)
        ]
        names = await place.names(self) if any(are_scoped) else ()
        return [names if is_scoped else () for is_scoped in are_scoped]

    def follow_up(
        self, signature: Signature[Any], id: str, ends: tuple[End, ...] = ()
    ) -> list[Send]:
        """What a task is to send at its end, as effects of its record; ``id`` unless it says one.

        ``ends`` says where its own end arrives.

        Raises as `Task.enqueue`, and:
            ConfigurationError: the backend keeps no outcomes.
        """
        if not self._keeps_effects:
            raise ConfigurationError(
                "what a task sends at its end is kept with its outcome, and this app's backend "
                "keeps none: give the app one that does, as in backend='redis://localhost', or "
                "send it with enqueue(), whatever comes of the task"
            )
        plan = self._router.decide(signature)
        context, scopes = find_context(), ()
        if context is not None and _is_scoped(signature, plan):
            scopes = context.scopes  # and not where it stands: it is sent after that
        envelope = self._envelope(
            signature,
            plan,
            self._clock.now(),
            id=id,
            again=not self._knows_outcomes,
            ends=ends,
            scopes=scopes,
        )
        if envelope.headers:
            pack(envelope)  # what cannot be carried is refused here, not when the task has ended
        if plan.is_default:
            return [Send(envelope, DEFAULT_BROKER)]
        return [Send(copy, name) for name, copy in self._dispatch.place(plan, envelope)]

    def send(self, sends: Sequence[Send]) -> Sequence["asyncio.Future[None]"]:
        """Publish these; the futures are done once the brokers keep them, or will not.

        Raises:
            ConfigurationError: this app has no broker of that name.
        """
        return self._dispatch.send(sends)

    def result(self, id: str, task: Task[..., Any] | None = None) -> Result[Any]:
        """The handle to any task's outcome, whoever sent it: as plain data, or as ``task`` says."""
        try:
            id.encode()
        except (AttributeError, UnicodeEncodeError):
            raise ValueError(f"{id!r} is no id: it is the text that Result.id gives") from None
        read = None if task is None else task.read
        return Result(id, self, read, self.waiters.batch_of(id))

    def expect(self, expectation: Expectation[Any]) -> None:
        """Tell this how its task ends, now or later; or why it cannot be told."""
        if (client := self._at_hand()) is not self:
            expectation.sent = None  # nothing will be pushed to that one
        client.waiters.expect(expectation)

    def look(self, id: str) -> None:
        """Read this outcome soon, if it is waited for here."""
        with suppress(ConfigurationError):  # the app was closed: who waits has heard
            self._at_hand().waiters.look(id)

    def place_of(self, id: str) -> Status | None:
        return self._at_hand().waiters.place_of(id)

    def why_late(self) -> str | None:
        """What keeps outcomes from being heard of, if anything does."""
        return self._at_hand().waiters.why_late()

    async def status(self, id: str) -> Status:
        if (client := self._at_hand()) is not self:
            return await client.status(id)
        with self._in_time():
            [record] = await self.backend.fetch([id])
            if record is None:
                [status] = await self.operator.find([id])
                if status is not None:
                    return status
                # It may have ended between the two looks.
                [record] = await self.backend.fetch([id])
        if record is None:
            # A broker that can say has nothing to do with it any more.
            return Status.UNKNOWN if self.operator.sees_all else self.waiters.status(id)
        return status_of(record.outcome)

    async def progress(self, id: str) -> Progress | None:
        if (topics := self._at_hand().backend.offers.topics) is None:
            return None
        with self._in_time():
            [item] = await topics.last([progress_of(id)])
        return None if item is None else read_progress(id, item.data)

    async def progress_changes(self, result: Result[Any]) -> AsyncGenerator[Progress]:
        client = self._at_hand()
        if (topics := client.backend.offers.topics) is None:
            raise BackendError(
                f"{client.backend.store} keeps no progress: give the app a backend that does, as "
                'in App(broker, backend="redis://...")'
            )
        async with aclosing(follow(topics, result)) as changes:
            async for progress in changes:
                yield progress

    async def cancel(self, ids: Sequence[str], reason: str = "") -> dict[str, Cancellation]:
        """As `App.cancel`, of these ids."""
        return await self._at_hand().canceller.cancel(ids, reason)

    async def open_scope(self, task_id: str | None, told: Callable[[str], None]) -> str:
        """Open a scope that ends if we do, as `Owner.open`."""
        return await self._scopes.open(task_id, told)

    async def close_scope(self, name: str) -> None:
        """All that belongs to it has ended."""
        await self._scopes.close(name)

    async def end_scope(self, name: str, reason: str, ids: Sequence[str] = ()) -> None:
        """What belongs to this scope, which we have opened, ends; some of it are these."""
        await self._scopes.end(name, reason, ids)

    def end_scope_soon(self, name: str, reason: str, ids: Sequence[str]) -> None:
        """As `end_scope`, and is not waited for."""
        self._scopes.end_soon(name, reason, ids)

    async def spare(self, ids: Sequence[str]) -> None:
        """These are sent again, whatever was cancelled before."""
        with self._in_time():
            await self.canceller.spare(ids)

    async def forget(self, ids: Sequence[str]) -> None:
        with self._in_time():
            backend = self._at_hand().backend
            await backend.forget(ids)
            if (topics := backend.offers.topics) is not None:
                await topics.forget_topics([progress_of(id) for id in ids])
        if len(self.forgotten) > MOST_FORGOTTEN:
            self.forgotten.clear()
        self.forgotten.update(ids)
        self.waiters.forget(ids)

    @contextmanager
    def _in_time(self) -> Generator[None]:
        try:
            with anyio.fail_after(ANSWER_TIMEOUT):
                yield
        except TimeoutError:
            raise BackendUnavailable(f"no answer in {ANSWER_TIMEOUT:g} s") from None

    def _at_hand(self) -> "Client":
        """This client, or the one of the loop that asks, for a handle that was carried there.

        What this one has open wakes its own loop, and no other.

        Raises:
            ConfigurationError: the app is not connected there.
        """
        if self._owner is not None and asyncio.get_running_loop() is self.loop:
            return self
        return self._here()  # of this loop, where the app was left and entered again

    def _envelope(  # noqa: PLR0917 - called for each message, and slower by keywords
        self,
        signature: Signature[Any],
        plan: Plan,
        now: float,
        id: str | None = None,
        again: bool = False,
        ends: tuple[End, ...] = (),
        scopes: tuple[str, ...] = (),
    ) -> Envelope:
        """The message of a call; ``id``, unless that says one, of what follows from a task."""
        options = signature.options
        expires = options.expires if options.expires is not None else plan.expires
        keep = options.keep_result if options.keep_result is not None else plan.keep_result
        context = find_context()
        args, kwargs = EMPTY_ARGS, EMPTY_KWARGS
        if signature.args or signature.kwargs:
            args, kwargs = plan.encode(signature.args, signature.kwargs)
        header = Header(
            id=options.id or id or new_id(),
            queue=plan.queue,
            priority=plan.priority,
            eta=options.eta if options.delay is None else now + options.delay,
            expires=None if expires is None or expires == math.inf else now + expires,
            reply_to=self.waiters.address if id is None else None,  # nobody here waits for it
            sent_at=now,
            headers=_headers_of(options, scopes) if scopes else options.headers or {},
            again=again,
            ends=ends,
        )
        message = Message(
            header,
            task=signature.task,
            args=args,
            kwargs=kwargs,
            root=None if context is None else context.root_id,
            parent=None if context is None else context.id,
            keep_result=keep,
            limits=None if options is NO_OPTIONS else _limits_of(options),
        )
        envelope = self._codec.encode(message)
        if len(envelope.body) > self._config.max_message_size:
            raise MessageTooLarge(
                envelope.id,
                f"the message for task {signature.task}",
                len(envelope.body),
                self._config.max_message_size,
            )
        return envelope

    async def _declare(self, name: str, broker: Broker) -> None:
        queues = [queue for queue in self._router.queues.values() if queue.broker == name]
        if queues:
            await broker.declare(queues)
            if (bind := broker.offers.bind) is not None:
                await bind(queues)

    async def _locate(self, ids: Sequence[str]) -> Sequence[Status | None]:
        """Where the brokers have these; what none has may be with one that cannot say."""
        otherwise = None if self.operator.sees_all else Status.QUEUED
        return [status or otherwise for status in await self.operator.find(ids)]


def _in_batches(
    signatures: Iterable[Signature[R]] | AsyncIterable[Signature[R]],
) -> Callable[[], Awaitable[list[Signature[R]]]]:
    """What takes the next batch of any iterable, as large as a driver takes at once."""
    check_calls(signatures)
    if isinstance(signatures, AsyncIterable):
        source = aiter(signatures)

        async def take() -> list[Signature[R]]:
            batch: list[Signature[R]] = []
            with suppress(StopAsyncIteration):
                while len(batch) < MAX_BATCH:
                    batch.append(await anext(source))
            return batch

        return take
    given = iter(signatures)

    async def take_at_once() -> list[Signature[R]]:
        # A long source must not keep the loop from everything else.
        await anyio.lowlevel.checkpoint()
        return list(islice(given, MAX_BATCH))

    return take_at_once


def _is_scoped(signature: Signature[Any], plan: Plan) -> bool:
    """Of what goes to an exchange, copies are others' business."""
    return signature.options.is_scoped and plan.exchange is None


def _headers_of(options: CallOptions, scopes: tuple[str, ...]) -> dict[str, Any]:
    return {**(options.headers or {}), SCOPE: list(scopes)}


def _limits_of(options: CallOptions) -> Limits | None:
    if options.time_limit is None and options.soft_time_limit is None:
        return None
    return Limits(options.time_limit, options.soft_time_limit)
