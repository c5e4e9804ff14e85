"""What is lost, repeated or held up when processes are killed, stuck or poisoned?

    python -m benchmarks.reliability --contender all --experiment all --out reliability.jsonl
    python -m benchmarks.reliability --report reliability.jsonl

Each library runs with its most reliable documented settings, on a Redis server of its own that
loses nothing it has acknowledged. `benchmarks/README.md` says what the experiments are.
"""

import argparse
import json
import shutil
import signal
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

from benchmarks.environments import EnvironmentMissing
from benchmarks.reliable.durable import OPTIONS
from benchmarks.reliable.experiments import EXPERIMENTS
from benchmarks.reliable.stage import Terms, WorkerNeverRan, open_stage
from benchmarks.reliable.table import table
from benchmarks.runs import commit, machine
from benchmarks.servers import ServerDidNotStart, version

CONTENDERS = ("asyncq", "celery", "dramatiq", "taskiq", "streaq", "saq", "arq")
TAIL = 1500  # characters of a log

Found = dict[str, Any]


def perform(name: str, experiment: str, terms: Terms, logs: Path | None) -> Found:
    """Do one experiment with one library; return everything needed to believe it."""
    found: Found = {
        "experiment": experiment,
        "contender": name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "store": {"kind": "redis", "version": version()} | OPTIONS,
        "lease": terms.lease,
        "patience": terms.lease + terms.patience,
    }
    begun = monotonic()
    asked = EXPERIMENTS[experiment]
    with tempfile.TemporaryDirectory(prefix="asyncq-reliable-") as place:
        directory = Path(place)
        try:
            with open_stage(name, terms, asked.concurrency, directory) as stage:
                found |= {key: stage.about[key] for key in ("versions", "settings")}
                found["figures"] = dict(asked.run(stage))
        except (EnvironmentMissing, ServerDidNotStart, WorkerNeverRan) as error:
            found["error"] = f"{type(error).__name__}: {error}; {_said(directory)}"
        if logs:
            shutil.copytree(
                directory, logs / f"{experiment}-{name}-{terms.lease}", dirs_exist_ok=True
            )
    return found | {"duration": round(monotonic() - begun, 1)}


def _said(directory: Path) -> str:
    """The ends of what the client and the workers have said."""
    return "\n".join(
        f"{path.name}: …{path.read_text('utf-8', 'replace')[-TAIL:]}"
        for path in sorted(directory.glob("*.log"))
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--contender", action="append", choices=[*CONTENDERS, "all"])
    parser.add_argument("--experiment", action="append", choices=[*EXPERIMENTS, "all"])
    parser.add_argument(
        "--tasks", type=int, default=Terms.tasks, help="of child-kill9 (%(default)s)"
    )
    parser.add_argument(
        "--kills", type=int, default=Terms.kills, help="of child-kill9 (%(default)s)"
    )
    parser.add_argument("--lease", type=int, default=Terms.lease, help="s (%(default)s)")
    parser.add_argument(
        "--patience", type=int, default=Terms.patience, help="s beyond the lease (%(default)s)"
    )
    parser.add_argument("--out", type=Path, help="append the results to this file as well")
    parser.add_argument("--logs", type=Path, help="keep what processes said in this folder")
    parser.add_argument("--report", type=Path, help="print the table of these results instead")
    return parser.parse_args()


def main() -> None:
    """Do what was asked for, or report what was found."""
    arguments = _arguments()
    if arguments.report:
        print(table(json.loads(line) for line in arguments.report.read_text().splitlines()))
        return
    # Servers and workers are ended on the way out, so leave by the door.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    asked = (arguments.contender or ["all"], arguments.experiment or ["all"])
    names, experiments = (
        list(every) if "all" in some else some
        for some, every in zip(asked, (CONTENDERS, EXPERIMENTS), strict=True)
    )
    terms = Terms(arguments.tasks, arguments.kills, arguments.lease, arguments.patience)
    for experiment in experiments:
        for name in names:
            found = perform(name, experiment, terms, arguments.logs)
            line = json.dumps(found)
            print(line, flush=True)
            if arguments.out:
                with arguments.out.open("a") as file:
                    file.write(line + "\n")
            said = found["error"].splitlines()[0] if "error" in found else found["figures"]
            print(f"{experiment}, {name}, {found['duration']} s: {said}", file=sys.stderr)


if __name__ == "__main__":
    main()
