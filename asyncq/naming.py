"""Names of functions and classes: the same in every process, however their module was started.

A module that is run as a program is called ``__main__`` there and by its name everywhere else: in
the worker, above all. What is typed in (a shell, a notebook, ``python -c``) has no other name.
"""

import inspect
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import PurePath
from types import FunctionType
from typing import Any

from asyncq.texts import plain

MAIN = ("__main__", "__mp_main__")  # the second in what multiprocessing spawns
NAME_LIMIT = 200  # characters of the name of an exception's class, which may be anybody's
_MODULE = re.compile(r"[A-Za-z0-9_-]+")  # of a file: with a dash it can be imported by name alone
_SHORT = {"builtins": "", "asyncio.exceptions": "", "asyncq.errors": "asyncq."}

# Python's own fields, past whatever the user's class has put over them.
_name_of: Callable[[type], str] = vars(type)["__qualname__"].__get__
_module_of: Callable[[type], Any] = vars(type)["__module__"].__get__


def qualified_name(thing: Any) -> str:
    """``module.qualname`` of a function or class."""
    module, name = thing.__module__, thing.__qualname__
    return f"{_real_module(thing) if module in MAIN else module}.{name}"


def exception_name(cls: type[BaseException]) -> str:
    """The name of an exception's class as failures carry it: of ours and of Python's the short one.

    Never raises; printable, and at most `NAME_LIMIT` characters.
    """
    name = str.__str__(_name_of(cls))[:NAME_LIMIT]
    try:
        module = _module_of(cls)
    except AttributeError:  # its class was deprived of it
        module = "builtins"
    if type(module) is not str:
        module = "builtins"
    if module in MAIN:
        module = _imported_as(module, vars(sys.modules.get(module, object)))
    before = _SHORT.get(module, f"{module[:NAME_LIMIT]}.")
    return plain(before + name)[:NAME_LIMIT]


def is_typed_in(function: Any) -> bool:
    """Whether it was written in a shell or a notebook, where things are defined again and again."""
    return function.__module__ in MAIN and _real_module(function) in MAIN


def is_same_definition(one: Any, other: Any) -> bool:
    """Whether these two were made by one piece of code that ran twice.

    So it is when a program's module is imported by another besides, and when an import that failed
    is tried again.
    """
    first, second = inspect.unwrap(one), inspect.unwrap(other)
    if not isinstance(first, FunctionType) or not isinstance(second, FunctionType):
        return False
    here, there = first.__code__, second.__code__
    return (
        first.__globals__ is not second.__globals__
        and here.co_filename == there.co_filename
        and here.co_firstlineno == there.co_firstlineno
    )


def _real_module(thing: Any) -> str:
    """What others call the program's module; as it is, where nobody can import it."""
    namespace: Mapping[str, Any] = vars(sys.modules.get(thing.__module__, object))
    function = inspect.unwrap(thing) if callable(thing) else thing
    if isinstance(function, FunctionType):
        # Its own, and not the module's: profilers and debuggers run a program in another.
        namespace = function.__globals__
        if function.__code__.co_filename.startswith("<"):
            return thing.__module__
    return _imported_as(thing.__module__, namespace)


def _imported_as(module: str, namespace: Mapping[str, Any]) -> str:
    spec = namespace.get("__spec__")
    if spec is not None and spec.name not in MAIN:  # python -m shop.app
        return spec.name
    stem = PurePath(namespace.get("__file__") or "").stem  # python shop.py
    return stem if _MODULE.fullmatch(stem) and stem not in MAIN else module
