"""``asyncq``: all commands, and how it ends when one fails."""

import os
import sys
from importlib.metadata import version
from itertools import pairwise
from typing import Annotated, Any

import typer
from typer import Option
from typer.core import TyperGroup
from typer.main import get_command

from asyncq.cli import call, control, dead, demo, queues, worker
from asyncq.cli.celery import as_written_here
from asyncq.cli.leaving import leave_soon
from asyncq.cli.streams import flush_output, set_up_streams
from asyncq.cli.texts import complain, explain
from asyncq.interrupted import INTERRUPTED, raise_if_interrupted
from asyncq.loggers import get_logger

MISUSE = 2  # the exit code
THREADS_GET = 0.5  # seconds, when a command has nothing more to do
SHELLS = ("bash", "zsh", "fish", "powershell", "pwsh")

log = get_logger(__name__)


class Commands(TyperGroup):
    """All of them; interrupted, they end without a word, but for what they say themselves."""

    def invoke(self, ctx: Any) -> Any:  # typer's own Context
        raise_if_interrupted()
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None


cli = typer.Typer(
    name="asyncq",
    cls=Commands,
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
cli.add_typer(control.commands, name="control")
cli.command()(demo.demo)


def main() -> None:
    """What the console script runs."""
    set_up_streams()
    _heed_named_shell()
    command = get_command(cli)
    _hint_at_other_words(command)
    try:
        command(prog_name="asyncq")
    # The end of the way: what comes from a hook or a broken set-up is said in a line, too.
    except Exception as error:
        log.debug("the command failed", exc_info=error)
        why, code = explain(error)
        complain(why)
        sys.exit(code)
    finally:
        flush_output()
        leave_soon(THREADS_GET, complain)


def _hint_at_other_words(command: Any) -> None:
    """Leave with the right words where these are another program's."""
    if "_ASYNCQ_COMPLETE" in os.environ:
        return  # a shell asks how a word could go on
    hint = as_written_here(sys.argv[1:], command)
    if hint is not None:
        complain(hint)
        sys.exit(MISUSE)


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
