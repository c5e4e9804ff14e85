"""The command ``asyncq demo``."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from asyncq.config import DEFAULTS


def demo(
    directory: Annotated[
        Path | None,
        Argument(
            metavar="DIRECTORY",
            exists=True,
            file_okay=False,
            show_default="the folder of Python's standard library",
        ),
    ] = None,
    *,
    resume: Annotated[
        bool, Option("--resume", help="Finish the last run, if there is one.")
    ] = False,
    broker: Annotated[
        str | None,
        Option(
            metavar="URL",
            help="Where the queue is kept.",
            show_default="$ASYNCQ_BROKER, else sqlite:///asyncq-demo.db",
        ),
    ] = None,
    concurrency: Annotated[
        int, Option("--concurrency", "-c", metavar="N", min=1, help="Files to read at a time.")
    ] = DEFAULTS.concurrency,
    limit: Annotated[
        int | None,
        Option(metavar="N", min=1, help="Take the first so many files.", show_default="all"),
    ] = None,
    as_json: Annotated[bool, Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure every file of a directory, one task each, on a queue in a file: no server needed.

    Interrupt it, as harshly as you like, and run it again with --resume: it finishes what is left,
    and repeats nothing that ended.
    """
    # Not before: its app may be set up wrongly ($ASYNCQ_BROKER), which concerns no other command.
    from asyncq.cli import demo_run

    demo_run.run(
        directory, limit, broker=broker, resume=resume, concurrency=concurrency, as_json=as_json
    )
