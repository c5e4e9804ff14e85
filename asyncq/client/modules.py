"""The modules where an app's tasks are: by their names, or found below a package.

They are imported when the tasks are first needed, and not when the app is made: they import the app
themselves.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from importlib.machinery import ModuleSpec
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

from asyncq.errors import ConfigurationError


class TaskModules:
    """What to import, each once. Used by any thread: imports wait for each other by themselves."""

    def __init__(self, include: Sequence[str]) -> None:
        # Python's dictionaries are ordered: this is a set with an order, of what imports something.
        self._wanted: dict[Callable[[], object], None] = {}
        self._importing: set[int] = set()  # threads
        for name in _names("App(include=...)", include):
            self._wanted[partial(_import, name, f"App(include=[{name!r}])")] = None

    def discover(self, packages: Sequence[str], related: str | None) -> None:
        """Import later what is below these packages.

        Raises:
            ConfigurationError: what is given can be no name.
        """
        if related is not None and not (isinstance(related, str) and related.isidentifier()):  # pyright: ignore[reportUnnecessaryIsInstance] - users' values
            raise ConfigurationError(
                f"discover(related={related!r}): give the last part of the modules' names, as in "
                "'tasks', or None for every module"
            )
        for name in _names("discover(...)", packages):
            self._wanted[partial(_import_below, name, related)] = None

    def load(self) -> None:
        """Import what is wanted and was not imported yet.

        Raises:
            ConfigurationError: there is no such module, or importing it failed; it is tried again
                the next time.
        """
        thread = threading.get_ident()
        if not self._wanted or thread in self._importing:  # a module that we import asks for tasks
            return
        self._importing.add(thread)
        try:
            for wanted in list(self._wanted):
                # Done only once it is imported: another thread that comes now waits for that too.
                wanted()
                self._wanted.pop(wanted, None)
        finally:
            self._importing.discard(thread)


def _names(where: str, names: Sequence[str]) -> list[str]:
    if isinstance(names, str):
        raise ConfigurationError(f"{where}: give a list of names, as in [{names!r}]")
    for name in names:
        if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance] - users' values
            raise ConfigurationError(f"{where}: give modules by their names, not {name!r}")
        if not all(part.isidentifier() for part in name.split(".")):
            guess = name.removesuffix(".py").replace("/", ".").strip(".")
            raise ConfigurationError(
                f"{where}: {name!r} is no module's name; write it in full, as in {guess!r}"
            )
    return list(names)


def _import_below(package: str, related: str | None) -> None:
    """All modules below, or those that are called so."""
    where = f"discover({package!r})"
    path: Sequence[str] | None = getattr(_import(package, where), "__path__", None)
    if path is None:
        raise ConfigurationError(
            f"{where}: {package} is a module and no package; write App(include=[{package!r}])"
        )
    for name in sorted(_below(package, list(path), frozenset())):
        if related is None or related in name.split(".")[1:]:
            _import(name, where)


def _below(package: str, path: Sequence[str], above: frozenset[str]) -> Iterator[str]:
    """The names of every module below, found without importing any; no program (``__main__``)."""
    above |= {os.path.realpath(folder) for folder in path}
    found: set[str] = set()
    for module in iter_modules(path):
        found.add(module.name)
        name = f"{package}.{module.name}"
        inside: Sequence[str] = ()
        if module.ispkg:
            finder: Any = module.module_finder
            spec: ModuleSpec | None = finder.find_spec(name)
            inside = (spec and spec.submodule_search_locations) or ()
        if module.name == "__main__" or any(_leads_back(folder, above) for folder in inside):
            continue
        yield name
        if inside:
            yield from _below(name, inside, above)
    for folder in path:
        for inner in _namespaces(folder):
            place = os.path.join(folder, inner)
            if inner not in found and not _leads_back(place, above):
                yield from _below(f"{package}.{inner}", [place], above)


def _leads_back(folder: str, above: frozenset[str]) -> bool:
    """Whether it is a link to where we come from."""
    real = os.path.realpath(folder)
    return any(f"{place}/".startswith(f"{real}/") for place in above)


def _namespaces(folder: str) -> list[str]:
    """Folders in this one that may be packages without an ``__init__.py``."""
    if not os.path.isdir(folder):  # a package in an archive
        return []
    with os.scandir(folder) as entries:
        return [e.name for e in entries if e.name.isidentifier() and e.is_dir()]


def _import(name: str, where: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _failed(name, where, error) from error
        raise ConfigurationError(
            f"{where}: there is no module {error.name}{_hint(error.name)}"
        ) from error
    # The user's module may raise anything, SystemExit included.
    except (Exception, SystemExit) as error:
        raise _failed(name, where, error) from error


def _failed(name: str, where: str, error: BaseException) -> ConfigurationError:
    return ConfigurationError(
        f"{where}: importing {name} failed: {type(error).__qualname__}: {error}"
    )


def _hint(missing: str) -> str:
    parent, _, last = missing.rpartition(".")
    path = getattr(import_module(parent), "__path__", []) if parent else None
    close = get_close_matches(last, [m.name for m in iter_modules(path)], n=1, cutoff=0.7)
    return f"; did you mean {f'{parent}.{close[0]}'.lstrip('.')!r}?" if close else ""
