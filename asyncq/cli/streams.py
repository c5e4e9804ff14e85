"""The standard streams of a command: closed ones, narrow ones, and those that nobody reads."""

import io
import os
import sys
from contextlib import suppress
from typing import Any

from asyncq.cli.texts import complain

READER_GONE = 141  # the exit code of what SIGPIPE ends: 128 and its number


class _Output(io.FileIO):
    """Standard output, which ends the command when it cannot be written.

    When nobody reads it any more (``| head``), as other programs end, without a word; the signal
    for that is not for us, as it would end the command for a broker's connection, too.
    """

    def write(self, data: Any, /) -> int | None:
        try:
            return super().write(data)
        except OSError as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())  # for what is left to write on the way out
            os.close(nowhere)
            if isinstance(error, BrokenPipeError):
                raise SystemExit(READER_GONE) from None
            complain(f"standard output cannot be written: {error.strerror}")
            raise SystemExit(1) from None


def set_up_streams() -> None:
    """Have streams that can be written to, whatever this process was started with."""
    _open_closed_streams()
    out: Any = sys.stdout
    if isinstance(out, io.TextIOWrapper):
        raw = _Output(out.fileno(), "w", closefd=False)
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(raw),
            encoding=out.encoding,
            errors="backslashreplace",  # no terminal is too old to be told
            line_buffering=out.line_buffering,
            write_through=out.write_through,
        )
    err: Any = sys.stderr
    if isinstance(err, io.TextIOWrapper):
        err.reconfigure(errors="backslashreplace")


def flush_output() -> None:
    """Write what was printed; with Python's own flush, at the exit, its reader may be gone."""
    with suppress(ValueError):  # it was closed
        sys.stdout.flush()


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
