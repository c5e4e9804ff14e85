"""``asyncq worker --reload``: a worker that starts anew when its code changes."""

import signal
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import NoReturn

import anyio
from anyio.abc import Process, TaskStatus

from asyncq.errors import ConfigurationError
from asyncq.loggers import get_logger
from asyncq.worker.signals import run_loop, stop_signals

log = get_logger(__name__)

DEBOUNCE = 300  # milliseconds; an editor writes several files, and each more than once


def run_reloading() -> NoReturn:
    """Run this very command without ``--reload``, again and again, and exit as it did last.

    Raises:
        ConfigurationError: watchfiles is not installed.
    """
    if find_spec("watchfiles") is None:
        raise ConfigurationError(
            "--reload needs a package that is missing: pip install 'asyncq[reload]'"
        )
    arguments = [argument for argument in sys.argv[1:] if argument != "--reload"]
    command = [sys.executable, "-m", "asyncq", *arguments]
    code = run_loop(Reloader(command).run)
    sys.exit(code if code >= 0 else 128 - code)


class Reloader:
    """A child process, and what becomes of it when a Python file in this directory changes."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._child: Process | None = None
        self._news = anyio.Event()
        """Set when the child must end: its code changed, or a signal came. One for each child."""
        self._stopping = False

    async def run(self) -> int:
        """Run the command until it ends well or a signal ends it; returns its exit code.

        A change lets it drain first. When it fails by itself, by a typing error say, the next
        change gives it another chance.
        """
        code = 0
        async with anyio.create_task_group() as group:
            await group.start(self._forward_signals)
            group.start_soon(self._watch)
            while not self._stopping:
                self._news = anyio.Event()
                code = await self._run_once()
                if self._news.is_set():
                    continue
                if code == 0:
                    break
                log.warning("the worker ended with code %d; waiting for a change", code)
                await self._news.wait()
            group.cancel_scope.cancel()
        return code

    async def _run_once(self) -> int:
        # In a session of its own: Ctrl-C reaches it through us, and so once.
        async with await anyio.open_process(
            self._command, stdin=None, stdout=None, stderr=None, start_new_session=True
        ) as child:
            self._child = child
            if self._news.is_set():  # while it was being started
                self._tell(signal.SIGTERM)
            try:
                return await child.wait()
            finally:
                self._child = None

    async def _watch(self) -> None:
        from watchfiles import PythonFilter, awatch  # pyright: ignore[reportUnknownVariableType] - an optional event loop's

        async for changes in awatch(".", watch_filter=PythonFilter(), debounce=DEBOUNCE):
            if self._news.is_set():
                continue  # it is draining already: told twice, it would cut its tasks short
            paths = sorted({path for _, path in changes})
            more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
            log.info("%s%s changed: restarting", paths[0], more)
            self._news.set()
            self._tell(signal.SIGTERM)

    async def _forward_signals(self, *, task_status: TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(*stop_signals()) as signals:
            task_status.started()
            async for number in signals:
                self._stopping = True
                self._news.set()
                self._tell(number)

    def _tell(self, number: signal.Signals) -> None:
        if self._child is not None and self._child.returncode is None:
            self._child.send_signal(number)
