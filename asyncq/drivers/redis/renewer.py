"""Renewing leases in Redis, and ending those of the dead, from a thread or another process."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

from redis import exceptions

from asyncq.drivers.redis.connection import RedisStore, Script
from asyncq.errors import BrokerUnavailable

_RENEW = Script("renew")
_SWEEP = Script("sweep")

AT_ANY_TIME = "9e15"  # ms; what the script takes for the latest moment to sweep at


class RedisLeaseRenewer:
    """Holds a connection of its own; every call blocks for a round trip, or a few."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store
        self._client: Any = store.address.blocking_client()

    def renew(self, incarnation: str, queues: Sequence[str], seconds: float) -> bool:
        lease = str(int(seconds * 1000))
        with self._telling("renewed"), self._client.pipeline(transaction=False) as pipe:
            for queue in queues:
                # Sent whole, every few seconds: no need to ask what the server knows.
                pipe.eval(_RENEW.text, 1, self._store.queue_key(queue), incarnation, lease)
            answers: list[Any] = pipe.execute(raise_on_error=False)
            errors = [answer for answer in answers if isinstance(answer, exceptions.RedisError)]
            if errors and len(errors) == len(answers):
                raise errors[0]
        # A queue whose keys are of another type, or not ours to use, ends no lease in the others.
        return all(answer for answer in answers if answer not in errors)

    def release(self, incarnation: str, queues: Sequence[str]) -> int:
        recovered = 0
        with self._telling("released"):
            for queue in queues:
                key = self._store.queue_key(queue)
                while count := self._client.eval(_SWEEP.text, 1, key, AT_ANY_TIME, incarnation):
                    recovered += count
        return recovered

    @contextmanager
    def _telling(self, what: str) -> Generator[None]:
        try:
            yield
        except (exceptions.RedisError, OSError) as error:
            raise BrokerUnavailable(f"lease not {what} at {self._store.url!r}: {error}") from error

    def close(self) -> None:
        self._client.close()
