"""Rounds of runs: every contender in turn, several times over, and never two at once."""

import argparse
import json
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.contenders import CONTENDERS, Store, on
from benchmarks.runs import Run

STORES: tuple[Store, ...] = ("redis", "sqlite")  # meant by "all"; RabbitMQ has to be asked for


def parser(
    text: str | None, able: Sequence[str] = tuple(on(*STORES)), timeout: int = 300
) -> argparse.ArgumentParser:
    """A command line with what all questions have in common, for the contenders that are able."""
    made = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    choices = [*able, "all"]
    made.add_argument("--contender", action="append", required=True, choices=choices)
    stores = sorted({CONTENDERS[name].store for name in able})
    made.add_argument(
        "--store", action="append", choices=stores, help="of those in all (redis and sqlite)"
    )
    made.add_argument("--runs", type=int, default=1, help="rounds (%(default)s)")
    made.add_argument("--out", type=Path, help="append the results to this file as well")
    made.add_argument("--timeout", type=int, default=timeout, help="s, of a run (%(default)s)")
    made.set_defaults(able=able)
    return made


def run(question: str, arguments: argparse.Namespace) -> None:
    """Ask every contender; print one JSON object per run, and say on stderr how it goes."""
    options = dict(vars(arguments))
    runs, out, timeout = (options.pop(name) for name in ("runs", "out", "timeout"))
    able, asked = options.pop("able"), options.pop("contender")
    stores = options.pop("store") or STORES
    if "all" in asked:
        asked = [name for name in able if CONTENDERS[name].store in stores]
    # The servers and workers are ended on the way out, so leave by the door.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    # A contender may hold a connection, and so a descriptor, for every sleeper.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    for number in range(1, runs + 1):
        for name in dict.fromkeys(asked):
            found = Run(question, name, options, timeout).perform() | {"run": number}
            line = json.dumps(found)
            print(line, flush=True)
            if out:
                with out.open("a") as file:
                    file.write(line + "\n")
            said = found["error"].splitlines()[0] if "error" in found else found["figures"]
            print(f"{name}: {said}", file=sys.stderr)
