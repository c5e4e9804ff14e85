"""A task's parameters: checked where it is called, decoded into their types where it runs."""

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from asyncq.context import Context
from asyncq.errors import ConfigurationError
from asyncq.message import EMPTY_ARGS, EMPTY_KWARGS
from asyncq.values import decoder

_decode_kwargs = msgspec.msgpack.Decoder(dict[str, msgspec.Raw]).decode
_decode_args = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
FIXARRAY = 0x90  # MessagePack: the head of an array of up to 15, its length in the low bits


class BadArguments(TypeError):
    """What a message brings does not fit the task's parameters; names the argument."""


class Parameters:
    """The parameters of one function, without the `Context` it may ask for.

    Types are looked at when first needed, so that a task may name a class defined below it.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self._function = function
        self._name = name
        every = list(inspect.signature(function).parameters.values())
        self.context_first, self.context_keyword = _find_context(every, function, name)
        mine = [p for p in every if p.name != self.context_keyword]
        self._all = mine[1:] if self.context_first else mine
        positional = [p for p in self._all if p.kind in _POSITIONAL]
        self._positional = tuple(p.name for p in positional)
        self._required_positional = sum(p.default is p.empty for p in positional)
        self._required_keywords = {
            p.name for p in self._all if p.kind is p.KEYWORD_ONLY and p.default is p.empty
        }
        self._by_keyword = {p.name for p in self._all if p.kind in _BY_KEYWORD}
        self._only_positional = {p.name for p in positional if p.kind is p.POSITIONAL_ONLY}
        self._variable = any(p.kind is p.VAR_POSITIONAL for p in self._all)
        mentioned = {p.name for p in every if p.kind is not p.POSITIONAL_ONLY}
        self._context_names = mentioned - {p.name for p in self._all}
        self._variable_keywords = any(p.kind is p.VAR_KEYWORD for p in self._all)
        self._by_count: dict[int, Callable[[msgspec.Raw], tuple[Any, ...]]] = {}
        self._decoders: dict[str, Callable[[msgspec.Raw], Any]] | None = None

    def check(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Compare arguments with the signature, by number and name.

        Raises:
            TypeError: one is missing, unexpected, or given twice; names it.
        """
        count = len(args)
        if not kwargs and self._required_positional <= count <= len(self._positional):
            if self._required_keywords:
                self._complain(f"missing {_names(self._required_keywords)}")
            return
        if count > len(self._positional) and not self._variable:
            takes = len(self._positional)
            self._complain(f"takes {takes} positional argument{'s' * (takes != 1)}, {count} given")
        given = set(self._positional[:count])
        if twice := (given & kwargs.keys()) - self._only_positional:
            self._complain(f"{_names(twice)} given twice")
        # Even where any name will do, the context's is taken.
        known = kwargs.keys() - self._context_names if self._variable_keywords else self._by_keyword
        if strange := kwargs.keys() - known:
            self._complain(f"unexpected {_names(strange)}")
        needed = set(self._positional[: self._required_positional]) | self._required_keywords
        if missing := needed - given - (kwargs.keys() - self._only_positional):
            self._complain(f"missing {_names(missing)}")

    def decode(
        self, args: msgspec.Raw, kwargs: msgspec.Raw
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a message, in their annotated types.

        Raises:
            BadArguments: they do not fit; names the argument.
        """
        values: tuple[Any, ...] = ()
        named: dict[str, Any] = {}
        if args != EMPTY_ARGS:
            values = self._decode_positional(args)
        if kwargs != EMPTY_KWARGS:
            named = self._decode_named(kwargs)
        try:
            self.check(values, named)
        except TypeError as error:
            raise BadArguments(str(error)) from None
        return values, named

    def prepare(self) -> None:
        """Look at every annotation now.

        Raises:
            ConfigurationError: one cannot be decoded, or names something that does not exist.
        """
        if self._decoders is not None:
            return
        hints = type_hints(self._function, self._name)
        decoders: dict[str, Callable[[msgspec.Raw], Any]] = {}
        for parameter in self._all:
            try:
                decoders[parameter.name] = decoder(hints.get(parameter.name, Any))
            except ConfigurationError as error:
                raise ConfigurationError(
                    f"task {self._name}, parameter {parameter.name}: {error}"
                ) from error
        self._decoders = decoders

    def _decode_positional(self, args: msgspec.Raw) -> tuple[Any, ...]:
        head = memoryview(args)[0]
        if not FIXARRAY <= head <= FIXARRAY + 15:
            return self._decode_each(args)
        decode = self._by_count.get(head - FIXARRAY)
        if decode is None:
            decode = self._by_count[head - FIXARRAY] = self._decoder_for(head - FIXARRAY)
        try:
            return decode(args)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self._decode_each(args)  # slower, and knows which one it was

    def _decoder_for(self, count: int) -> Callable[[msgspec.Raw], tuple[Any, ...]]:
        """One decoder for this many arguments: as fast as msgspec is."""
        if count > len(self._positional):
            return self._decode_each
        hints = type_hints(self._function, self._name)
        self.prepare()
        types = tuple(hints.get(name, Any) for name in self._positional[:count])
        return decoder(tuple[types])

    def _decode_each(self, args: msgspec.Raw) -> tuple[Any, ...]:
        try:
            raws = _decode_args(args)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadArguments(f"task {self._name}: its arguments are no array") from error
        rest = next((p.name for p in self._all if p.kind is p.VAR_POSITIONAL), None)
        if len(raws) > len(self._positional) and rest is None:
            takes = len(self._positional)
            raise BadArguments(
                f"task {self._name} takes {takes} positional argument{'s' * (takes != 1)}, "
                f"{len(raws)} given"
            )
        names = [*self._positional, *[rest or ""] * len(raws)]
        return tuple(self._decode_one(name, raw) for name, raw in zip(names, raws, strict=False))

    def _decode_named(self, kwargs: msgspec.Raw) -> dict[str, Any]:
        try:
            raws = _decode_kwargs(kwargs)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadArguments(f"task {self._name}: its keyword arguments are no map") from error
        rest = next((p.name for p in self._all if p.kind is p.VAR_KEYWORD), None)
        if rest is None and (strange := raws.keys() - self._by_keyword):
            raise BadArguments(f"task {self._name}: unexpected {_names(strange)}")
        return {
            name: self._decode_one(name if name in self._by_keyword else rest or name, raw)
            for name, raw in raws.items()
        }

    def _decode_one(self, name: str, raw: msgspec.Raw) -> Any:
        self.prepare()
        assert self._decoders is not None  # noqa: S101 - prepare has just made them
        try:
            return self._decoders[name](raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise BadArguments(f"task {self._name}, argument {name}: {why}") from error

    def _complain(self, what: str) -> typing.NoReturn:
        raise TypeError(f"task {self._name}: {what}")


def type_hints(function: Callable[..., Any], name: str) -> dict[str, Any]:
    """The resolved annotations of a task's function.

    Raises:
        ConfigurationError: an annotation names something that is not there.
    """
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            f"task {name} has an annotation that cannot be resolved: {error}"
        ) from error


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_BY_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _find_context(
    parameters: list[inspect.Parameter], function: Callable[..., Any], name: str
) -> tuple[bool, str | None]:
    """Whether the first parameter is the context, or which keyword-only one is."""
    for position, parameter in enumerate(parameters):
        if not _asks_for_context(parameter.annotation, function):
            continue
        if position == 0 and parameter.kind in _POSITIONAL:
            return True, None
        if parameter.kind is parameter.KEYWORD_ONLY:
            return False, parameter.name
        raise ConfigurationError(
            f"task {name}: put the Context parameter {parameter.name!r} first, or behind a *"
        )
    return False, None


def _asks_for_context(annotation: Any, function: Callable[..., Any]) -> bool:
    if isinstance(annotation, str):  # from __future__ import annotations
        head, _, rest = annotation.partition(".")
        value = getattr(function, "__globals__", {}).get(head)
        for part in filter(None, rest.split(".")):
            value = getattr(value, part, None)
        return value is Context
    return annotation is Context


def _names(names: typing.Collection[str]) -> str:
    kind = "argument" if len(names) == 1 else "arguments"
    return f"{kind} {', '.join(repr(name) for name in sorted(names))}"
