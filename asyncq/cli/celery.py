"""What hands that know Celery type: the same command, as it is written here."""

import shlex
from collections.abc import Callable, Collection, Sequence
from typing import Any

import msgspec

SHORT = {
    "-A": "--app",
    "-Q": "--queues",
    "-l": "--loglevel",
    "-P": "--pool",
    "-n": "--hostname",
    "-b": "--broker",
    "-I": "--include",
    "-X": "--exclude-queues",
    "-f": "--logfile",
    "-O": "--optimization",
    "-B": "--beat",
    "-E": "--task-events",
    "-D": "--detach",
    "--discard": "--purge",
}
NO_VALUE = ("--beat", "--task-events", "--detach", "--without-", "--purge")  # as these begin
APPLESS = {"demo"}  # its argument is a folder
LEVELS = {"fatal": "critical", "warn": "warning"}
APP = "shop:app"
# What Celery has and we have not; and what of it another command shows.
COMMANDS = {
    "inspect": "asyncq queues {app} shows what waits and what runs",
    "status": "asyncq queues {app} shows what waits and what runs",
    "events": "",
    "flower": "",
    "control": "",
    "beat": "",
    "shell": "python -m asyncio is one, in which to `async with app`",
    "report": "",
    "graph": "",
    "amqp": "",
    "logtool": "",
    "migrate": "",
    "upgrade": "",
}

NOT_HERE = {
    "--pool": "tasks that are coroutines run in an event loop, plain functions in threads; for "
    "more processes --processes N",
    "--hostname": "a worker gives itself a name",
    "--broker": "App('redis://...')",
    "--result-backend": "App(..., backend='redis://...')",
    "--include": "App(include=[...])",
    "--exclude-queues": "name the others with --queue",
    "--logfile": "the log goes to standard error: 2>FILE",
    "--pidfile": "leave it to what starts the worker (systemd, a container)",
    "--detach": "leave it to what starts the worker (systemd, a container)",
    "--prefetch-multiplier": "a worker takes what it has slots for, and no more",
    "--optimization": "a worker takes what it has slots for, and no more",
    "--time-limit": "@app.task(time_limit=...)",
    "--soft-time-limit": "@app.task(time_limit=...)",
    "--beat": "a worker sends nothing by schedule",
    "--purge": "asyncq purge",
    "--eta": "--delay SECONDS",
    "--expires": "@app.task(expires=...)",
    "--task-events": "nothing to write",
    "--without-gossip": "nothing to write",
    "--without-mingle": "nothing to write",
    "--without-heartbeat": "nothing to write",
}


class _Line(msgspec.Struct):
    """A command line as it is read."""

    command: str = ""
    app: str = ""
    rest: list[str] = []
    """What stands behind the app, in our words."""
    foreign: list[str] = []
    """What was typed and is Celery's."""
    notes: dict[str, None] = {}
    """Of what has no option here, where it has gone."""


def as_written_here(arguments: Sequence[str], ours: Any) -> str | None:
    """What to write instead, if something in there is Celery's; ``ours`` is typer's own command."""
    line, command, commands = _Line(), ours, ours.commands
    words = iter(arguments)
    for word in words:
        if word == "--":
            line.rest += [word, *words]
            break
        name, equals, value = word.partition("=")
        kind = SHORT.get(name, name)
        if name not in _options(command) and kind in (*NOT_HERE, *TRANSLATED, "--app"):
            has_value = not kind.startswith(NO_VALUE)
            _take_option(line, name, kind, value if equals or not has_value else next(words, ""))
        elif not line.command and not word.startswith("-"):
            _take_command(line, word, commands)
            command = commands.get(line.command)
        elif word in getattr(command, "commands", ()):
            line.command += f" {word}"
            command = command.commands[word]
        elif not line.app and _is_app(line, word):
            line.app = word if ":" in word else f"{word.removesuffix('.py')}:app"
        elif "multi" not in line.foreign:  # what follows that are names of workers
            line.rest.append(word)
    if line.command in COMMANDS and line.command not in commands:
        instead = COMMANDS[line.command].format(app=line.app or APP)
        there_are = f"there is no command {line.command}: asyncq has {', '.join(commands)}"
        return f"{there_are}; {instead}" if instead else there_are
    if not line.foreign or (line.command and line.command.split()[0] not in commands):
        return None
    return _sentence(line)


def _options(command: Any) -> Collection[str]:
    return {option for parameter in getattr(command, "params", ()) for option in parameter.opts}


def _is_app(line: _Line, word: str) -> bool:
    """Whether this word names the app; right behind the command it does without a colon, too."""
    if word.startswith("-"):
        return False
    return ":" in word or bool(line.command and not line.rest and line.command not in APPLESS)


def _take_command(line: _Line, word: str, commands: Collection[str]) -> None:
    if word == "multi":
        line.foreign.append(word)
        line.command = "worker"
        line.rest += ["--processes", "N"]
    elif word in commands:
        line.command = word
    elif ":" in word:
        line.app = word
        line.foreign.append("the app before its command")
    else:
        line.command = word


def _take_option(line: _Line, name: str, kind: str, value: str) -> None:
    line.foreign.append(name)
    if kind == "--app":
        line.app = line.app or (value if ":" in value else f"{value or 'shop'}:app")
    elif (translate := TRANSLATED.get(kind)) is not None:
        line.rest += translate(value)
    else:
        line.notes[f"{name}: {NOT_HERE[kind]}"] = None


def _queues(value: str) -> list[str]:
    return [word for queue in value.split(",") if queue for word in ("--queue", queue)]


def _level(value: str) -> list[str]:
    level = value.lower()
    return ["--log-level", LEVELS.get(level, level) or "info"]


def _arguments(value: str) -> list[str]:
    """``[1, "a"]`` as the arguments 1 and "a"."""
    try:
        values = msgspec.json.decode(value, type=list[msgspec.Raw])
    except msgspec.DecodeError:
        return ["ARGS"]
    return [bytes(each).decode().strip() for each in values]


TRANSLATED: dict[str, Callable[[str], list[str]]] = {
    "--queues": _queues,
    "--loglevel": _level,
    "--autoscale": lambda value: ["--concurrency", value.partition(",")[0] or "10"],
    "--countdown": lambda value: ["--delay", value],
    "--args": _arguments,
}


def _sentence(line: _Line) -> str:
    command = line.command or "worker"
    words = ["asyncq", *command.split(), line.app or APP, *line.rest]
    if command == "purge" and not line.rest:
        words.append("QUEUE")
    foreign = list(dict.fromkeys(line.foreign))
    notes = "".join(f"; {note}" for note in line.notes)
    are = "are" if len(foreign) > 1 else "is"
    return f"{', '.join(foreign)} {are} not known here; write: {shlex.join(words)}{notes}"
