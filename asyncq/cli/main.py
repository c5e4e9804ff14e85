"""``asyncq``: all commands, and how it ends when one fails."""

import io
import os
import sys
from importlib.metadata import version
from itertools import pairwise
from typing import Annotated

import typer
from typer import Option

from asyncq.cli import call, dead, demo, queues, worker
from asyncq.cli.texts import complain, explain
from asyncq.loggers import get_logger

SHELLS = ("bash", "zsh", "fish", "powershell", "pwsh")

log = get_logger(__name__)

cli = typer.Typer(
    name="asyncq",
    help="A distributed task queue that is asyncio all the way down.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
cli.command()(worker.worker)
cli.command(context_settings={"ignore_unknown_options": True})(call.call)  # -1 is an argument
cli.command()(call.result)
cli.add_typer(queues.commands, name="queues")
cli.command()(queues.purge)
cli.add_typer(dead.commands, name="dead")
cli.command()(demo.demo)


def main() -> None:
    """What the console script runs."""
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # no terminal is too old to be told
    _heed_named_shell()
    try:
        cli(prog_name="asyncq")
    # The end of the way: what comes from a hook or a broken set-up is said in a line, too.
    except Exception as error:
        log.debug("the command failed", exc_info=error)
        why, code = explain(error)
        complain(why)
        sys.exit(code)


def _open_closed_streams() -> None:
    """Have what was started without standard streams (``2>&-``) write to nowhere.

    Otherwise the next file or connection would get the number of standard error, and what anybody
    prints there.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            os.set_inheritable(number, True)  # for what this process becomes and starts
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115


def _heed_named_shell() -> None:
    """Let ``--install-completion zsh`` mean zsh, whatever shell it is typed in.

    Typer takes a name only where it is told not to look for the shell itself.
    """
    for option, value in pairwise(sys.argv[1:3]):
        if option in {"--install-completion", "--show-completion"} and value in SHELLS:
            os.environ["_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"] = "1"


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"asyncq {version('asyncq')}")
        raise typer.Exit


@cli.callback()
def _options(  # pyright: ignore[reportUnusedFunction] - typer calls it
    _version: Annotated[
        bool,
        Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass
