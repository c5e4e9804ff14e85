"""``asyncq demo``: tens of thousands of real tasks, with no server, and nothing lost on the way.

One task per file of a directory, on a broker, a worker and a backend that are all in this process
and one SQLite file. The tasks are in `asyncq.cli.demo_tasks`; here is what enqueues them and waits.

Resuming is nothing special: every message has an id made of the run and the path, a broker keeps an
id once, and does not run again what has an outcome. So the same run is just enqueued again.
"""

import hashlib
import os
import sys
import sysconfig
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import anyio
import msgspec
from anyio import to_thread
from rich import filesize
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from asyncq.cli.demo_tasks import QUEUE, Plan, Totals, add_up, app, begin, measure
from asyncq.cli.logs import LogLevel, set_up_logs
from asyncq.cli.output import print_facts, print_json
from asyncq.cli.texts import complain
from asyncq.client.gathering import as_completed, gather
from asyncq.client.result import Result
from asyncq.client.routing import DEFAULT_BROKER
from asyncq.config import Url, sqlite_path
from asyncq.errors import ConfigurationError, TaskError, TaskFailed
from asyncq.texts import counted
from asyncq.worker.signals import run_loop, stop_signals
from asyncq.worker.worker import Worker

T = TypeVar("T")

LAST_RUN = "asyncq-demo"  # the id of the message that began the last run
LIBRARY = os.fsencode(os.path.realpath(sysconfig.get_path("stdlib")))
GRACE = 2.0  # seconds that files under way get when the demo is interrupted
BATCH = 500  # results waited for at a time, and added up by one task
FAILURES_SHOWN = 10

Advance = Callable[[int, int], None]  # of so many tasks, so many have ended


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a run came to."""

    plan: Plan
    totals: Totals
    files: dict[bytes, Totals]
    failures: dict[bytes, str]
    ended_before: int
    """Tasks that had ended before this run was resumed."""
    tasks: int
    seconds: float


def run(
    directory: Path | None,
    limit: int | None,
    *,
    broker: str | None,
    resume: bool,
    concurrency: int,
    as_json: bool,
) -> None:
    """Run it, and say what came of it; as ``asyncq demo`` does."""
    set_up_logs(LogLevel.CRITICAL)  # what becomes of the files is in the report
    if broker is not None:
        app.urls = {DEFAULT_BROKER: (Url(broker),)}
        app.backend_url = app.url
    wanted = None if directory is None else os.path.realpath(os.fsencode(directory))
    try:
        with progress_bar() as advance:
            report = run_loop(
                partial(run_demo, wanted, limit, advance, resume=resume, concurrency=concurrency)
            )
    except KeyboardInterrupt:
        again = "asyncq demo --resume" + (f" --broker {app.url}" if broker else "")
        complain(f"interrupted; what ended is kept. To finish the rest: {again}")
        sys.stderr.flush()
        os._exit(130)  # a thread that reads a huge file cannot be told to stop
    if as_json:
        print_json(as_data(report))
    else:
        print_report(report)


async def run_demo(
    directory: bytes | None, limit: int | None, advance: Advance, *, resume: bool, concurrency: int
) -> Report:
    """Run the demo, or what is left of the last one.

    Raises:
        ConfigurationError: the run to resume is about another directory, or another limit.
        KeyboardInterrupt: SIGINT or SIGTERM came; what was running has ended, or was given back.
    """
    report: Report | None = None
    work = anyio.CancelScope()
    async with app, anyio.create_task_group() as group:
        async with app.worker(queues=[QUEUE], concurrency=concurrency, grace=GRACE) as worker:
            group.start_soon(stop_on_signals, work, worker)
            with work:
                if not resume:
                    await forget_last_run()
                plan = await find_plan(directory, limit)
                report = await measure_all(plan, advance)
            if report is None:
                group.start_soon(leave_threads, worker)
        group.cancel_scope.cancel()
    if report is None:
        raise KeyboardInterrupt
    return report


async def find_plan(directory: bytes | None, limit: int | None) -> Plan:
    """The plan of the run that is under way; a new one, if none is."""
    plan = await (await begin.options(id=LAST_RUN).enqueue(directory or LIBRARY, limit))
    if (directory or plan.directory) != plan.directory or (limit or plan.limit) != plan.limit:
        files = "all files" if plan.limit is None else counted(plan.limit, "file")
        raise ConfigurationError(
            f"the run to resume is about {files} of {os.fsdecode(plan.directory)}: name no "
            "directory and no limit, or start afresh, without --resume"
        )
    return plan


async def measure_all(plan: Plan, advance: Advance) -> Report:
    """Have every file of the plan measured, and the measures added up."""
    paths, failures = await to_thread.run_sync(find_files, plan, abandon_on_cancel=True)
    ended_before = await count_ended([message_id(plan, path) for path in paths])
    started = anyio.current_time()
    results = await app.enqueue_many(
        measure.options(id=message_id(plan, path)).s(path) for path in paths
    )

    files: dict[bytes, Totals] = {}
    sums: list[Result[Totals]] = []
    for batch in batches(list(zip(paths, results, strict=True))):
        path_of = {result.id: path for path, result in batch}
        async for result in as_completed(result for _, result in batch):
            path = path_of[result.id]
            try:
                files[path] = await result
            except TaskError as error:
                failures[path] = describe(error)
            advance(len(files) + len(failures), len(paths))
        sums.append(await enqueue_sum(plan, [files[path] for path, _ in batch if path in files]))
    totals = await (await enqueue_sum(plan, await gather(*sums)))

    return Report(
        plan=plan,
        totals=totals,
        files=files,
        failures=failures,
        ended_before=ended_before,
        tasks=len(paths) - ended_before,
        seconds=anyio.current_time() - started,
    )


async def enqueue_sum(plan: Plan, parts: Sequence[Totals]) -> Result[Totals]:
    """Have a batch added up: all parts at once might be more than a message may hold."""
    id = message_id(plan, b"".join(part.digest for part in parts))
    return await add_up.options(id=id).enqueue(list(parts))


def message_id(plan: Plan, what: bytes) -> str:
    """The same for the same thing in the same run, whoever asks."""
    return f"{plan.run}-{hashlib.blake2b(what, digest_size=16).hexdigest()}"


async def count_ended(ids: Sequence[str]) -> int:
    """How many of these messages have an outcome."""
    return sum(
        [
            sum(record is not None for record in await app.client.backend.fetch(batch))
            for batch in batches(ids)
        ]
    )


async def forget_last_run() -> None:
    """Start afresh: nothing that waits, and no plan to find."""
    await app.result(LAST_RUN).forget()
    await app.queues.purge(QUEUE)


async def stop_on_signals(work: anyio.CancelScope, worker: Worker) -> None:
    """The first signal ends the work, and lets what runs end; the second gives that back."""
    with anyio.open_signal_receiver(*stop_signals()) as signals:
        async for _ in signals:
            if work.cancel_called:
                worker.hurry()
            work.cancel()


async def leave_threads(worker: Worker) -> None:
    """Wait for threads as for all else, and no longer: this process ends, and they with it."""
    await anyio.sleep(GRACE)
    worker.hurry()


def find_files(plan: Plan) -> tuple[list[bytes], dict[bytes, str]]:
    """The files to measure, by name; and the folders that cannot be read, with the reason.

    Links are not followed, so there is no way round in circles. Our own file is left out: it
    changes while we look.
    """
    files: list[bytes] = []
    failures: dict[bytes, str] = {}
    folders = [plan.directory]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        files.append(entry.path)
        except OSError as error:
            failures[folder] = f"{type(error).__name__}: {error.strerror}"
    ours = own_files()
    return sorted(path for path in files if path not in ours)[: plan.limit], failures


def own_files() -> set[bytes]:
    """The files that the queue itself is in."""
    if app.url.scheme != "sqlite":
        return set()
    path = os.fsencode(os.path.realpath(sqlite_path(app.url)))
    return {path, path + b"-wal", path + b"-shm"}


def batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    return (items[at : at + BATCH] for at in range(0, len(items), BATCH))


def describe(error: TaskError) -> str:
    return f"{error.type}: {error.message}" if isinstance(error, TaskFailed) else str(error)


@contextmanager
def progress_bar() -> Generator[Advance]:
    """A bar on the terminal, if there is one."""
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(
        *columns,
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        bar = progress.add_task("tasks", total=None)
        yield lambda ended, total: progress.update(bar, completed=ended, total=total)


def as_data(report: Report) -> dict[str, Any]:
    """What ``--json`` prints. Names that are no text are as `os.fsdecode` has them."""
    totals = report.totals

    def name(path: bytes) -> str:
        return os.fsdecode(os.path.relpath(path, report.plan.directory))

    return {
        "run": report.plan.run,
        "directory": os.fsdecode(report.plan.directory),
        "files": totals.files,
        "bytes": totals.size,
        "lines": totals.lines,
        "digest": totals.digest.hex(),
        "failed": len(report.failures),
        "ended_before": report.ended_before,
        "tasks": report.tasks,
        "seconds": round(report.seconds, 3),
        "tasks_per_second": round(report.tasks / report.seconds),
        "measured": [
            {"path": name(path), "bytes": one.size, "lines": one.lines, "sha256": one.digest.hex()}
            for path, one in report.files.items()
        ],
        "failures": [
            {"path": name(path), "error": error} for path, error in report.failures.items()
        ],
    }


def print_report(report: Report) -> None:
    totals, rate = report.totals, report.tasks / report.seconds
    facts: list[tuple[str, object]] = [
        ("files", f"{totals.files:,}"),
        ("bytes", f"{totals.size:,} ({filesize.decimal(totals.size)})"),
        ("lines", f"{totals.lines:,}"),
        ("digest", totals.digest.hex()),
        ("failed", f"{len(report.failures):,}"),
        ("tasks", f"{report.tasks:,} in {report.seconds:.1f} s, {rate:,.0f} a second"),
    ]
    if report.ended_before:
        facts.insert(-1, ("ended before", f"{report.ended_before:,}"))
    print_facts(facts, title=os.fsdecode(report.plan.directory))
    for path, error in islice(report.failures.items(), FAILURES_SHOWN):
        complain(f"{os.fsdecode(path)}: {error}")
    if len(report.failures) > FAILURES_SHOWN:
        complain(f"and {len(report.failures) - FAILURES_SHOWN} more; --json has them all")
