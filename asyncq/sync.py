"""The client for code without an event loop: threads, scripts, Django, Flask."""

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from itertools import islice
from typing import Any, Generic, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

from asyncq.brokers.base import MAX_BATCH
from asyncq.client import Client
from asyncq.message import Progress, Status
from asyncq.result import Result
from asyncq.signature import Signature

R = TypeVar("R")


class SyncResult(Generic[R]):
    """A `Result` whose methods block."""

    def __init__(self, result: Result[R], portal: BlockingPortal) -> None:
        self._result = result
        self._portal = portal

    @property
    def id(self) -> str:
        return self._result.id

    def get(self, timeout: float | None = None) -> R:
        """As `Result.get`."""
        return self._portal.call(self._result.get, timeout)

    def status(self) -> Status:
        """As `Result.status`."""
        return self._portal.call(self._result.status)

    def progress(self) -> Progress | None:
        """As `Result.progress`."""
        return self._portal.call(self._result.progress)

    def forget(self) -> None:
        """As `Result.forget`."""
        self._portal.call(self._result.forget)


class SyncClient:
    """A client whose methods block; may be shared by threads."""

    def __init__(self, client: Client, portal: BlockingPortal) -> None:
        self._client = client
        self._portal = portal

    def enqueue(self, signature: Signature[R]) -> SyncResult[R]:
        """Send one call; returns once the broker keeps it. Raises as `Task.enqueue`."""
        return SyncResult(self._portal.call(self._client.enqueue, signature), self._portal)

    def enqueue_many(self, signatures: Iterable[Signature[R]]) -> list[SyncResult[R]]:
        """Send many calls in batches. Raises as `Task.enqueue`."""
        # Iterated here and not in the loop: what makes them may block, or belong to this thread.
        source = iter(signatures)
        results: list[SyncResult[R]] = []
        while batch := list(islice(source, MAX_BATCH)):
            sent = self._portal.call(self._client.enqueue_many, batch)
            results += [SyncResult(result, self._portal) for result in sent]
        return results

    def result(self, id: str) -> SyncResult[Any]:
        """The handle to any task's outcome, whoever sent it."""
        return SyncResult(self._client.result(id), self._portal)


@contextmanager
def open_sync(make_client: Callable[[], Client]) -> Generator[SyncClient]:
    """A client in an event loop of its own, in a thread that ends with the block."""
    with start_blocking_portal() as portal:
        client = portal.call(_make, make_client)
        with portal.wrap_async_context_manager(client):
            yield SyncClient(client, portal)


async def _make(make_client: Callable[[], Client]) -> Client:
    return make_client()  # in the loop that it will live in
