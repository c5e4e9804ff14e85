"""The start of a worker whose broker or backend is not there yet: it waits, and says so."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

import anyio

from asyncq.errors import BackendUnavailable, BrokerUnavailable
from asyncq.language.message import new_id
from asyncq.language.policies import Retry
from asyncq.loggers import get_logger
from asyncq.seams.backend import Backend
from asyncq.texts import shown

log = get_logger(__name__)

PAUSE = Retry(times=0, base=0.2, ceiling=2.0, jitter=False)  # between two attempts
SAY_EVERY = 30.0  # seconds
TEXT_LIMIT = 1024  # bytes of what is wrong


@asynccontextmanager
async def connected(
    app: AbstractAsyncContextManager[object], backend: Callable[[], Backend], *, required: bool
) -> AsyncGenerator[None]:
    """``async with app``, once its brokers and its backend answer.

    A wrong set-up (a password, a virtual host) is no reason to wait: nothing but a change mends it.

    Raises:
        BrokerUnavailable, BackendUnavailable: only if they are ``required`` to be there at once.
        ConfigurationError: something there answers and cannot be used.
    """
    async with AsyncExitStack() as stack:
        wait = _Wait()
        while True:
            try:
                async with AsyncExitStack() as attempt:
                    await attempt.enter_async_context(app)
                    # Most backends connect when they are first asked; and a worker whose backend
                    # refuses it would run tasks only to lose their outcomes.
                    await backend().fetch([new_id()])
                    stack.push_async_exit(attempt.pop_all())
            except (BrokerUnavailable, BackendUnavailable) as error:
                if required:
                    raise
                await wait.after(error)
            else:
                break
        wait.end()
        yield


class _Wait:
    """What the log says of it: a line when it begins, now and then one, and one at its end."""

    def __init__(self) -> None:
        self._now = asyncio.get_running_loop().time
        self._began = self._now()
        self._said_at: float | None = None
        self._for = ""
        self._attempts = 0

    async def after(self, error: BrokerUnavailable | BackendUnavailable) -> None:
        """Say what is waited for, if that is news, and wait a little."""
        what = "broker" if isinstance(error, BrokerUnavailable) else "backend"
        now = self._now()
        if what != self._for or self._said_at is None:
            log.warning("waiting for the %s: %s; trying again", what, _why(error))
            self._for, self._said_at = what, now
        elif now - self._said_at >= SAY_EVERY:
            self._said_at = now
            waited = now - self._began
            log.warning(
                "still waiting for the %s after %.0f s: %s",
                what, waited, _why(error),
            )  # fmt: skip
        self._attempts += 1
        await anyio.sleep(PAUSE.pause(self._attempts))

    def end(self) -> None:
        if self._said_at is not None:
            log.warning("connected to the %s after %.1f s", self._for, self._now() - self._began)


def _why(error: Exception) -> str:
    return shown(str(error), TEXT_LIMIT).rstrip(".")
