"""The table of what was found, in markdown: a row for each library, its newest runs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Run = Mapping[str, Any]
Runs = Mapping[str, Sequence[Run]]  # of one library, by experiment; the shortest lease first

NONE = "-"  # there was no such run
SHOWN = 60  # characters of a fate
EXTRA = {"taskiq": "taskiq-redis"}  # what does the work beside the library itself


def table(found: Iterable[Run]) -> str:
    """All that is known, one row per library in the order in which they come first."""
    newest = {(run["contender"], run["experiment"], run["lease"]): run for run in found}
    libraries = dict.fromkeys(name for name, _, _ in newest)
    lines = [f"| {' | '.join(['', *COLUMNS])} |", f"|---|{'---:|' * len(COLUMNS)}"]
    for name in libraries:
        runs: dict[str, list[Run]] = {}
        for (library, experiment, _), run in sorted(newest.items(), key=lambda item: item[0][2]):
            if library == name:
                runs.setdefault(experiment, []).append(run)
        cells = [column(runs) for column in COLUMNS.values()]
        lines.append(f"| {_title(name, runs)} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_circumstances(list(newest.values()))])


def _title(name: str, runs: Runs) -> str:
    """The library and its version; its own row stands out."""
    known = [run["versions"] for of in runs.values() for run in of if "versions" in run]
    versions: Mapping[str, str] = known[-1] if known else {}
    said = f"{name} {versions.get(name, '')}".strip()
    if extra := EXTRA.get(name):
        said += f" ({extra} {versions.get(extra, '')})"
    return f"**{said}**" if name == "asyncq" else said


def _of(experiment: str, read: Callable[[Mapping[str, Any]], str]) -> Callable[[Runs], str]:
    """A cell that is read from the first run of one experiment."""

    def cell(runs: Runs) -> str:
        return _cell(runs[experiment][0], read) if experiment in runs else NONE

    return cell


def _cell(run: Run, read: Callable[[Mapping[str, Any]], str]) -> str:
    return "error" if "error" in run else read(run["figures"])


def _lost(figures: Mapping[str, Any]) -> str:
    """How many never came to their end, and what the library says of them."""
    lost: int = figures["lost"]
    if not lost:
        return "0"
    if not figures.get("is_over", True):
        return f"{lost} not yet back"
    fates: Mapping[str, int] = figures["fates_of_lost"]
    known = [fate.partition(":")[0] for fate in fates if fate]
    return f"{lost} ({', '.join(sorted(set(known)))})" if known else str(lost)


def _recovery(*parts: str) -> Callable[[Mapping[str, Any]], str]:
    """Some percentiles of the waits, and how many waited in vain."""

    def read(figures: Mapping[str, Any]) -> str:
        waits: Mapping[str, float] = figures["recovery"]
        said = " / ".join(_seconds(waits[part]) for part in parts) if waits else NONE
        never: int = figures["never_again"]
        if not never:
            return said
        return f"{said}; {never} {'never' if figures.get('is_over', True) else 'not yet'}"

    return read


def _blocked(runs: Runs) -> str:
    """Runs of the task that blocks, under each lease that was tried."""
    of = runs.get("loop-blocked", ())
    return " / ".join(_cell(run, lambda figures: str(figures["runs"])) for run in of) or NONE


def _poison_runs(figures: Mapping[str, Any]) -> str:
    runs: int = figures["runs"]
    return str(runs) if figures["stopped"] else f"no end: {runs} in {figures['watched']:.0f} s"


def _poison_end(figures: Mapping[str, Any]) -> str:
    fate: str = figures["fate"]
    if not fate:
        return NONE
    short = fate.replace("|", "/").replace("\n", " ")
    return short if len(short) <= SHOWN else f"{short[:SHOWN]}…"


def _resumed(figures: Mapping[str, Any]) -> str:
    waits = [wait for wait in figures["resumed_after"] if wait is not None]
    said = _seconds(max(waits)) if waits else NONE
    return f"{said}; {figures['by_hand']} by hand" if figures["by_hand"] else said


def _seconds(wait: float) -> str:
    return f"{wait:.1f} s" if wait >= 1 else f"{wait:.2f} s"


COLUMNS: Mapping[str, Callable[[Runs], str]] = {
    "child killed: lost": _of("child-kill9", _lost),
    "ran twice": _of("child-kill9", lambda figures: str(figures["ran_twice"])),
    "again after, p50 / p99 / max": _of("child-kill9", _recovery("p50", "p99", "max")),
    "tree killed: lost": _of("tree-kill9", _lost),
    "again after, p50 / max": _of("tree-kill9", _recovery("p50", "max")),
    "loop blocked: runs": _blocked,
    "poison: runs": _of("poison", _poison_runs),
    "its end": _of("poison", _poison_end),
    "neighbours lost": _of("poison", _lost),
    "Redis killed: lost": _of("broker-kill9", _lost),
    "worker exits": _of("broker-kill9", lambda figures: str(figures["restarts"])),
    "works again after, max": _of("broker-kill9", _resumed),
}


def _circumstances(runs: Sequence[Run]) -> list[str]:
    """When and where these runs were made."""
    if not runs:
        return []
    days = sorted({run["date"][:10] for run in runs})
    leases = sorted({run["lease"] for run in runs})
    machine, store = runs[-1]["machine"], runs[-1]["store"]
    python = next((run["versions"]["python"] for run in runs if "versions" in run), "")
    where = f"{machine['cores']} cores ({machine['cpu']}), Python {python}"
    redis = f"Redis {store['version']} with `appendfsync {store['appendfsync']}`"
    when = " to ".join(dict.fromkeys([days[0], days[-1]]))
    return [f"{when}, {where}, {redis}; leases of {' and '.join(map(str, leases))} s."]
