"""Which app a command means: ``module:app``, or a broker's URL."""

import os
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import FunctionType, ModuleType

from asyncq.app import App
from asyncq.cli.importing import told_if_slow
from asyncq.cli.texts import complain, describe_error, outside_of_us
from asyncq.config import Url, sqlite_path
from asyncq.errors import ConfigurationError

SHOWN = 20  # names of queues in one line
DATABASES = {".db", ".sqlite", ".sqlite3"}  # what their files end in


def load_app(target: str, tell: Callable[[str], None] = complain) -> App:
    """Import the app that ``module:app`` names; the current directory is searched first.

    Where that takes seconds, ``tell`` is told where it stands.

    Raises:
        ConfigurationError: there is no such thing; says what was meant, where that can be told.
    """
    if "://" in target:
        raise ConfigurationError(
            f"{Url(target)} is a broker; this command needs the app and its tasks, as in shop:app"
        )
    name, _, attribute = target.partition(":")
    if Path(name).suffix in DATABASES:
        raise ConfigurationError(f"{name} is a database: name it by its URL, sqlite:///{name}")
    if name.endswith(".py") or "/" in name:
        raise ConfigurationError(
            f"{name} is a file: name its module, {_module_of(name, attribute or 'app')}"
        )
    if not name:
        raise ConfigurationError(f"{target!r} names no module: write it as in shop:app")
    with told_if_slow(target, tell):
        module = _import(name)
    if not attribute:
        apps = _apps(module)
        raise ConfigurationError(
            f"which app of module {name}? Write {apps}"
            if apps
            else f"module {name} has no asyncq.App{_makers(module)}"
        )
    return _find_app(module, name, attribute)


def load_store(target: str) -> App:
    """The app that ``target`` names, or one without tasks around a broker's URL.

    For those who look, and for those who change what is there: no database file is made for them.

    Raises:
        ConfigurationError: as `load_app`; or there is no such file.
    """
    app = App(target) if "://" in target else load_app(target)
    for url in (*(urls[0] for urls in app.urls.values()), app.backend_url):
        if url.scheme == "sqlite":
            _check_file(sqlite_path(url))
    return app


def _check_file(path: str) -> None:
    try:
        is_there = os.stat(path).st_size > 0
    except FileNotFoundError:
        is_there = False
    except OSError:
        return  # whoever opens it says it better
    if not is_there:
        folder = os.path.dirname(os.path.abspath(path))
        raise ConfigurationError(
            f"there is no database {os.path.basename(path)} in {folder}: it is made by the first "
            "worker or call (asyncq worker, asyncq call); is this the right folder?"
        )


async def known_queues(app: App) -> Sequence[str]:
    """The queues that messages were sent to, those of the app's tasks, and the declared ones."""
    return sorted({*await app.queues.list(), *(app.queues.declared if app.tasks else ())})


async def doubt_queues(app: App, queues: Sequence[str]) -> Sequence[str]:
    """What to warn of: a line for each of these queues that nobody knows yet."""
    known = await known_queues(app)
    return [
        f"queue {queue} is known neither to this app nor to its broker"
        + (hint(queue, known) or (f"; there are: {', '.join(known[:SHOWN])}" if known else ""))
        for queue in queues
        if queue not in known and not await app.queues.is_there(queue)
    ]


async def find_queues(app: App, queue: str | None) -> Sequence[str]:
    """The queues that ``queue`` means: itself, or all there are when it is not given.

    Raises:
        ConfigurationError: no message was ever sent to it; says which there are. Or none is given,
            and the broker does not say which it has.
    """
    known = await known_queues(app)
    if queue is None:
        if not known and not app.client.operator.lists_queues:
            raise ConfigurationError(
                f"{app.url} lists no queues: name one, or the app, whose queues are looked at then"
                " (as in shop:app instead of the URL)"
            )
        return known
    if queue not in known and not await app.queues.is_there(queue):
        raise ConfigurationError(
            f"there is no queue {queue!r} at {app.url}; "
            + (f"there are: {', '.join(known[:SHOWN])}" if known else "there are none yet")
            + hint(queue, known)
        )
    return [queue]


def hint(word: str, known: Sequence[str]) -> str:
    """A question to put behind an error: what may have been meant."""
    close = get_close_matches(word, known, n=1, cutoff=0.7)
    return f"; did you mean {close[0]}?" if close else ""


def _import(name: str) -> ModuleType:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise ConfigurationError(_failed(name, error)) from error
        parent, _, last = error.name.rpartition(".")
        if isinstance(getattr(sys.modules.get(parent), last, None), App):
            raise ConfigurationError(
                f"{name} is an app in module {parent}: write {parent}:{last}"
            ) from error
        folder = here if not parent else os.path.join(here, *parent.split("."))
        modules = [f"{parent}.{found.name}".lstrip(".") for found in iter_modules([folder])]
        raise ConfigurationError(
            f"there is no module {error.name!r} in {folder} or among what is installed"
            f"{_elsewhere(error.name, here) or hint(f'{parent}.{last}'.lstrip('.'), modules)}"
        ) from error
    # The user's module may raise anything, SystemExit included.
    except (Exception, SystemExit) as error:
        raise ConfigurationError(_failed(name, error)) from error


def _elsewhere(module: str, here: str) -> str:
    """Where it is, if the command runs in a folder beside it."""
    source = os.path.join(here, "src", module)
    if os.path.isdir(source) or os.path.isfile(f"{source}.py"):
        return "; it is in src: write PYTHONPATH=src before the command, or pip install -e ."
    if os.path.basename(here) == module and os.path.isfile(os.path.join(here, "__init__.py")):
        return "; this folder is that package: run the command in the folder above"
    return ""


def _failed(name: str, error: BaseException) -> str:
    return f"importing {name} failed: {describe_error(error, outside_of_us)}"


def _find_app(module: ModuleType, name: str, attribute: str) -> App:
    found: object = module
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            apps = _apps(module)
            which = f"its apps: {apps}" if apps else f"nor has it any asyncq.App{_makers(module)}"
            raise ConfigurationError(f"module {name} has no {attribute!r}; {which}") from None
    if not isinstance(found, App):
        apps = _apps(module)
        raise ConfigurationError(
            f"{name}:{attribute} is no asyncq.App but of type {type(found).__name__}"
            + (f"; its apps: {apps}" if apps else _makers(module))
        )
    return found


def _makers(module: ModuleType) -> str:
    """What to write, where an app is made by a call."""
    makers = [
        key
        for key, value in vars(module).items()
        if isinstance(value, FunctionType)
        and value.__module__ == module.__name__
        and ("app" in key.lower() or value.__annotations__.get("return") in {App, "App"})
    ]
    if not makers:
        return ""
    return (
        f": call what makes it there, as in 'app = {makers[0]}()', and name {module.__name__}:app"
    )


def _module_of(file: str, attribute: str) -> str:
    path = Path(os.path.relpath(file)).with_suffix("")
    if path.parts[0] != os.pardir:
        return f"as in {'.'.join(path.parts)}:{attribute}"
    folder = os.path.dirname(os.path.abspath(file))
    return f"as in {path.name}:{attribute}, and run the command in {folder}"


def _apps(module: ModuleType) -> str:
    """Those of this module, as a command takes them; empty if there are none."""
    apps = [key for key, value in vars(module).items() if isinstance(value, App)]
    return " or ".join(f"{module.__name__}:{key}" for key in apps)
