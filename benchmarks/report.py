"""What came out: a table of medians, spreads and ratios, and a plot if asked for.

    python -m benchmarks.report results.jsonl --plot results.png

The spread is half the distance from the lowest to the highest run, in per cent of the median. "To
the best peer" and "to the floor" say how many times better a contender is (more per second, or
less time or memory).
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.contenders import Store
from benchmarks.rounds import STORES

WIDE = 30  # times the smallest: from here on a plot is logarithmic


@dataclass(frozen=True)
class Figure:
    """One of the figures that a question finds, and how to read it."""

    question: str
    key: str
    title: str
    more_is_better: bool = True
    stores: tuple[Store, ...] = STORES  # whose contenders are compared with one another


FIGURES = (
    Figure("throughput", "tasks_per_second", "drain, tasks/s"),
    Figure("throughput", "tasks_per_second", "drain of RabbitMQ, tasks/s", stores=("rabbitmq",)),
    Figure("enqueue", "bulk_per_second", "bulk enqueue, messages/s"),
    Figure("enqueue", "concurrent_per_second", "concurrent enqueue, messages/s"),
    Figure("latency", "p50_ms", "enqueue to result, p50 ms", more_is_better=False),
    Figure("latency", "p99_ms", "enqueue to result, p99 ms", more_is_better=False),
    Figure("sleepers", "tasks_per_second", "sleepers of 1 s, tasks/s"),
    Figure("memory", "idle_mb", "worker idle, MB", more_is_better=False),
    Figure("memory", "idle_pss_mb", "worker idle, shared pages divided, MB", more_is_better=False),
    Figure("memory", "backlog_mb", "worker before a backlog, MB", more_is_better=False),
)


@dataclass(frozen=True)
class Standing:
    """How a contender did in all its runs for one figure."""

    contender: str
    kind: str
    runs: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle run."""
        return median(self.runs)

    @property
    def spread(self) -> float:
        """Half the distance from the lowest to the highest run, in per cent of the median."""
        return 50 * (max(self.runs) - min(self.runs)) / self.median


Results = Mapping[Figure, list[Standing]]  # best first


def read(lines: Iterable[str]) -> tuple[Results, list[str]]:
    """Sort runs by figure; failed runs come back as sentences."""
    runs: defaultdict[tuple[Figure, str, str], list[float]] = defaultdict(list)
    failures = []
    for line in filter(str.strip, lines):
        run = json.loads(line)
        if "error" in run:
            reason = run["error"].splitlines()[0]
            failures.append(f"{run['question']}, {run['contender']}, run {run['run']}: {reason}")
            continue
        for figure in FIGURES:
            if figure.question == run["question"] and run["store"]["kind"] in figure.stores:
                found = run["figures"][figure.key]
                runs[figure, run["contender"], run["kind"]].append(found)
    results: defaultdict[Figure, list[Standing]] = defaultdict(list)
    for (figure, contender, kind), values in runs.items():
        results[figure].append(Standing(contender, kind, tuple(values)))
    for figure, standings in results.items():
        standings.sort(key=lambda standing: standing.median, reverse=figure.more_is_better)
    return results, failures


def tables(results: Results) -> Iterator[str]:
    """One markdown table per figure, in the order of `FIGURES`."""
    for figure in FIGURES:
        if standings := results.get(figure):
            yield f"### {figure.title}\n"
            yield "| contender | median | spread | runs | to the best peer | to the floor |"
            yield "|---|---:|---:|---:|---:|---:|"
            peer, floor = (_best(standings, kind) for kind in ("peer", "floor"))
            for one in standings:
                ratios = (_ratio(figure, one, other) for other in (peer, floor))
                counted = f"{_number(one.median)} | ±{one.spread:.0f} % | {len(one.runs)}"
                yield f"| {one.contender} | {counted} | {' | '.join(ratios)} |"
            yield ""


def plot(results: Results, path: Path) -> None:
    """Draw every figure as bars, with all runs as dots."""
    try:
        from matplotlib.figure import Figure as Canvas
    except ImportError as error:
        raise SystemExit("the plot needs matplotlib: pip install 'asyncq[bench]'") from error

    colours = {"ours": "tab:orange", "peer": "tab:blue", "floor": "tab:gray"}
    shown = [figure for figure in FIGURES if figure in results]
    rows = (len(shown) + 1) // 2
    canvas = Canvas(figsize=(14, 0.5 + 3.6 * rows), layout="constrained")
    for axes, figure in zip(canvas.subplots(rows, 2, squeeze=False).flat, shown, strict=False):
        standings = results[figure][::-1]
        names = [standing.contender for standing in standings]
        medians = [standing.median for standing in standings]
        bars = axes.barh(names, medians, color=[colours[one.kind] for one in standings])
        axes.bar_label(bars, [_number(middle) for middle in medians], padding=4)
        for standing in standings:
            axes.plot(standing.runs, [standing.contender] * len(standing.runs), "k.", markersize=3)
        if max(medians) > WIDE * min(medians):
            axes.set_xscale("log")
        axes.margins(x=0.15)
        axes.set_title(figure.title + ("" if figure.more_is_better else " (less is better)"))
    for axes in canvas.axes[len(shown) :]:
        axes.set_axis_off()
    canvas.savefig(path, dpi=120)


def _best(standings: Iterable[Standing], kind: str) -> Standing | None:
    return next((standing for standing in standings if standing.kind == kind), None)


def _ratio(figure: Figure, one: Standing, other: Standing | None) -> str:
    if other is None:
        return "-"
    ratio = one.median / other.median
    return f"{_number(ratio if figure.more_is_better else 1 / ratio)} x"


def _number(value: float) -> str:
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}"


def main() -> None:
    """Print the tables of some results, and what failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, nargs="+", help="what --out has written")
    parser.add_argument("--plot", type=Path, help="draw it as well, as PNG")
    arguments = parser.parse_args()
    lines = (line for path in arguments.results for line in path.read_text().splitlines())
    results, failures = read(lines)
    print("\n".join(tables(results)))
    for failure in failures:
        print(f"- failed: {failure}")
    if arguments.plot:
        plot(results, arguments.plot)


if __name__ == "__main__":
    main()
