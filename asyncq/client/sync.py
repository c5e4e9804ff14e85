"""The client for code without an event loop: threads, scripts, Django, Flask.

Behind it is an ordinary client in an event loop of its own, in a thread
(`asyncq.client.loop_thread`).
"""

import asyncio
import threading
import weakref
from collections.abc import Callable, Generator, Iterable
from functools import partial
from itertools import islice
from typing import Any, Generic, Self, TypeVar, overload

from asyncq.client.calls import check_calls
from asyncq.client.client import Client
from asyncq.client.connections import Here, forked, left_by_parent
from asyncq.client.loop_thread import Ask, LoopThread
from asyncq.client.result import Result
from asyncq.client.scope import Scope
from asyncq.client.task import Task
from asyncq.errors import ConfigurationError
from asyncq.language.marks import Cancellation
from asyncq.language.message import Progress, Status
from asyncq.language.quantities import Duration, wait
from asyncq.language.signature import Signature
from asyncq.seams.broker import MAX_BATCH

R = TypeVar("R")
T = TypeVar("T")


class SyncResult(Generic[R]):
    """A `Result` whose methods block."""

    def __init__(self, result: Result[R], client: "SyncClient") -> None:
        self._result = result
        self._client = client

    def __repr__(self) -> str:
        return self._result.shown("SyncResult")

    @property
    def id(self) -> str:
        return self._result.id

    def get(self, timeout: Duration | None = None) -> R:
        """As `Result.get`."""
        patience = wait("timeout", timeout)
        # Of many results most have come before they are asked for: no need to change threads then.
        record = self._result.at_hand()
        if record is not None:
            refuse_in_a_loop()
            return self._result.value_of(record)
        return self._client.call(lambda _: self._result.get(patience), patience)

    def status(self) -> Status:
        """As `Result.status`."""
        return self._client.call(lambda _: self._result.status())

    def progress(self) -> Progress | None:
        """As `Result.progress`."""
        return self._client.call(lambda _: self._result.progress())

    def progress_changes(self) -> Generator[Progress]:
        """As `Result.progress_changes`: ``for``."""
        changes = self._result.progress_changes()
        try:
            while (progress := self._client.call(lambda _: anext(changes, None))) is not None:
                yield progress
        finally:
            self._client.call(lambda _: changes.aclose())

    def cancel(self, reason: str = "") -> Cancellation:
        """As `Result.cancel`."""
        return self._client.call(lambda _: self._result.cancel(reason))

    def forget(self) -> None:
        """As `Result.forget`."""
        self._client.call(lambda _: self._result.forget())


class SyncClient:
    """A client whose methods block; may be shared by threads.

    Connected while somebody is inside of ``with client:``, which may be nested and entered by
    several threads. Entered and never left, as a module may do that is imported once, it ends with
    the process. In a forked child it connects anew, when it is first used there.

    Its methods raise `ConfigurationError` when it is not connected, and in an event loop, which
    they would keep from everything else.
    """

    def __init__(self, make_client: Callable[[Here], Client]) -> None:
        self._make_client = make_client
        self._lock = threading.Lock()  # for who opens and closes
        self._users = 0
        self._was_open = False
        self._thread: LoopThread | None = None
        self._finalizer: weakref.finalize[..., Any] | None = None
        forked.add(self)

    def __enter__(self) -> Self:
        """Connect, unless it is. Raises as ``async with app``."""
        with self._lock:
            self._open()
            self._users += 1
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            thread = self._thread
            if self._users or thread is None:
                return
            self._thread = None
            if self._finalizer is not None:
                self._finalizer.detach()
        thread.close()

    def enqueue(self, signature: Signature[R]) -> SyncResult[R]:
        """Send one call; returns once the broker keeps it. Raises as `Task.enqueue`."""
        return SyncResult(self.call(lambda client: client.enqueue(signature)), self)

    def enqueue_many(self, signatures: Iterable[Signature[R]]) -> list[SyncResult[R]]:
        """Send many calls in batches. Raises as `Task.enqueue`."""
        check_calls(signatures)
        # Iterated here and not in the loop: what makes them may block, or belong to this thread.
        source = iter(signatures)
        results: list[SyncResult[R]] = []
        while batch := list(islice(source, MAX_BATCH)):
            results += [SyncResult(result, self) for result in self._send(batch)]
        return results

    @overload
    def result(self, id: str, task: None = None) -> SyncResult[Any]: ...
    @overload
    def result(self, id: str, task: Task[..., R]) -> SyncResult[R]: ...
    def result(self, id: str, task: Task[..., Any] | None = None) -> SyncResult[Any]:
        """As `App.result`."""
        return SyncResult(self._present().client.result(id, task), self)

    def cancel(
        self,
        messages: Iterable[SyncResult[Any] | str] | SyncResult[Any] | str | None = None,
        reason: str = "",
        *,
        task: str | Task[..., Any] | None = None,
        queue: str | None = None,
        headers: dict[str, Any] | None = None,
        scope: Scope | str | None = None,
    ) -> dict[str, Cancellation]:
        """As `App.cancel`."""
        given: Any = messages
        if isinstance(messages, SyncResult):
            given = messages.id
        elif isinstance(messages, Iterable) and not isinstance(messages, str):
            given = [each.id if isinstance(each, SyncResult) else each for each in messages]
        return self.call(
            lambda client: client.canceller.cancel_any(
                given, reason, task=task, queue=queue, headers=headers, scope=scope
            )
        )

    def call(self, ask: Ask[T], timeout: float | None = None) -> T:
        """Have this done in the client's loop, and wait for it; ``timeout`` is its own.

        Raises:
            ConfigurationError: as the class says.
            TimeoutError: the loop does not answer.
        """
        return self._present().call(ask, timeout)

    def _send(self, batch: list[Signature[R]]) -> list[Result[R]]:
        return self.call(lambda client: client.enqueue_many(batch))

    def _present(self) -> LoopThread:
        """Where to ask."""
        refuse_in_a_loop()
        thread = self._thread
        if thread is not None and not thread.is_over:
            return thread
        with self._lock:
            if not self._users:
                raise ConfigurationError(
                    f"this client is not connected{' any more' if self._was_open else ''}: use it "
                    "inside of 'with app.sync() as client:'"
                )
            # We are in a child of the process that entered it, or its thread came to harm.
            return self._open()

    def _open(self) -> LoopThread:
        """Connect, unless it is; under the lock."""
        if self._thread is None or self._thread.is_over:
            # Weak: a client that nobody has any more ends, and with it its thread.
            thread = LoopThread(partial(self._make_client, partial(_at_hand, weakref.ref(self))))
            thread.open()
            self._finalizer = weakref.finalize(self, thread.stop)
            self._thread = thread
            self._was_open = True
        return self._thread

    def at_hand(self) -> Client:
        """The client of the loop that asks: that of our thread. Raises `ConfigurationError`."""
        thread = self._thread
        if thread is None or asyncio.get_running_loop() is not thread.loop:
            raise ConfigurationError(_CLOSED)
        return thread.client

    def forget_parent(self) -> None:
        """In a forked child: what the parent has open is neither used nor closed."""
        self._lock = threading.Lock()  # somebody may have held it
        if self._thread is not None:
            left_by_parent.append((self._thread, self._finalizer))
            self._thread = self._finalizer = None


_CLOSED = "this client was closed: use its results inside of 'with app.sync() as client:'"


def _at_hand(reference: "weakref.ref[SyncClient]") -> Client:
    client = reference()
    if client is None:
        raise ConfigurationError(_CLOSED)
    return client.at_hand()


def refuse_in_a_loop() -> None:
    """Raise `ConfigurationError` where an event loop runs, also if this once nothing would wait."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise ConfigurationError(
        "this client blocks, and would stop the event loop that this code runs in: write "
        "'await task.enqueue(...)' inside of 'async with app:', or use the client in a "
        "thread, with 'await asyncio.to_thread(...)'"
    )
