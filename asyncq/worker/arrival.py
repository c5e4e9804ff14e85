"""The start of a worker whose broker or backend is not there yet: it waits, and says so."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

import anyio

from asyncq.errors import BackendUnavailable, BrokerUnavailable
from asyncq.language.message import new_id
from asyncq.outages import Outage
from asyncq.seams.backend import Backend

REMIND = 30.0  # seconds between two lines of what is waited for


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
        no_broker, no_backend = (
            Outage(f"waiting for the {what}", f"connected to the {what}", remind=REMIND)
            for what in ("broker", "backend")
        )
        while True:
            try:
                async with AsyncExitStack() as attempt:
                    await attempt.enter_async_context(app)
                    # Most backends connect when they are first asked; and a worker whose backend
                    # refuses it would run tasks only to lose their outcomes.
                    await backend().fetch([new_id()])
                    stack.push_async_exit(attempt.pop_all())
                break
            except (BrokerUnavailable, BackendUnavailable) as error:
                if required:
                    raise
                if isinstance(error, BrokerUnavailable):
                    pause = no_broker.fail(error)
                else:
                    no_broker.end()
                    pause = no_backend.fail(error)
                await anyio.sleep(pause)
        no_broker.end()
        no_backend.end()
        yield
