"""Renewing leases in Redis, and ending those of the dead, from a thread or another process."""

from collections.abc import Sequence
from typing import Any

from redis import exceptions

from asyncq.drivers.redis.connection import RedisSettings, load_script
from asyncq.drivers.redis.keys import queue_key
from asyncq.errors import BrokerUnavailable

_RENEW = load_script("asyncq.drivers.redis", "renew")
_SWEEP = load_script("asyncq.drivers.redis", "sweep")

AT_ANY_TIME = "9e15"  # ms; what the script takes for the latest moment to sweep at


class RedisLeaseRenewer:
    """Holds a connection of its own; every call blocks for a round trip, or a few."""

    def __init__(self, settings: RedisSettings) -> None:
        self._settings = settings
        self._client: Any = settings.address.blocking_client()

    def renew(self, incarnation: str, queues: Sequence[str], seconds: float) -> bool:
        try:
            with self._client.pipeline(transaction=False) as pipe:
                for queue in queues:
                    # Sent whole, every few seconds: no need to ask what the server knows.
                    pipe.eval(
                        _RENEW.text,
                        1,
                        queue_key(self._settings, queue),
                        incarnation,
                        str(int(seconds * 1000)),
                    )
                answers: list[Any] = pipe.execute(raise_on_error=False)
        except (exceptions.RedisError, OSError) as error:
            raise BrokerUnavailable(
                f"lease not renewed at {self._settings.url!r}: {error}"
            ) from error
        errors = [answer for answer in answers if isinstance(answer, exceptions.RedisError)]
        if errors and len(errors) == len(answers):
            raise BrokerUnavailable(
                f"lease not renewed at {self._settings.url!r}: {errors[0]}"
            ) from errors[0]
        # A queue whose keys are of another type, or not ours to use, ends no lease in the others.
        return all(answer for answer in answers if answer not in errors)

    def release(self, incarnation: str, queues: Sequence[str]) -> int:
        recovered = 0
        try:
            for queue in queues:
                key = queue_key(self._settings, queue)
                while count := self._client.eval(_SWEEP.text, 1, key, AT_ANY_TIME, incarnation):
                    recovered += count
        except (exceptions.RedisError, OSError) as error:
            raise BrokerUnavailable(
                f"lease not released at {self._settings.url!r}: {error}"
            ) from error
        return recovered

    def close(self) -> None:
        self._client.close()
