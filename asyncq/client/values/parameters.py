"""A task's parameters: checked where it is called, decoded into their types where it runs."""

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from asyncq.client.values.encoding import decoder, encode, write
from asyncq.client.values.hints import is_context, resolve
from asyncq.client.values.shapes import PLAIN_SHAPE, UNKNOWN, Shape, describe_refusal, shape_of
from asyncq.errors import BadArguments, ConfigurationError
from asyncq.language.message import EMPTY_ARGS, EMPTY_KWARGS

_decode_kwargs = msgspec.msgpack.Decoder(dict[str, msgspec.Raw]).decode
_decode_args = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
FIXARRAY = 0x90  # MessagePack: the head of an array of up to 15, its length in the low bits
MOST_FITTING = 64  # combinations of types that are kept; a class that is made at run time stays

NOT_YET = (NameError, AttributeError)
"""What an annotation raises that may mean something once all modules are imported."""


class _Layout:
    """Which parameters a caller gives, and how; without the `Context` that the worker gives."""

    def __init__(self, every: Sequence[inspect.Parameter], context: str | None, name: str) -> None:
        self.context_first = False
        self.context_keyword: str | None = None
        for position, parameter in enumerate(every):
            if parameter.name != context:
                continue
            if position == 0 and parameter.kind in _POSITIONAL:
                self.context_first = True
            elif parameter.kind is parameter.KEYWORD_ONLY:
                self.context_keyword = context
            else:
                raise ConfigurationError(
                    f"task {name}: put the Context parameter {context!r} first, or behind a *"
                )
        mine = [p for p in every if p.name != context]
        positional = [p for p in mine if p.kind in _POSITIONAL]
        self.all = mine
        self.positional = tuple(p.name for p in positional)
        self.required_positional = sum(p.default is p.empty for p in positional)
        self.required_keywords = {
            p.name for p in mine if p.kind is p.KEYWORD_ONLY and p.default is p.empty
        }
        self.by_keyword = {p.name for p in mine if p.kind in _BY_KEYWORD}
        self.only_positional = {p.name for p in positional if p.kind is p.POSITIONAL_ONLY}
        self.rest = next((p.name for p in mine if p.kind is p.VAR_POSITIONAL), None)
        self.more = next((p.name for p in mine if p.kind is p.VAR_KEYWORD), None)
        taken = context is not None and any(
            p.name == context and p.kind is not p.POSITIONAL_ONLY for p in every
        )
        self.context_names = {context} if taken else set[str | None]()

    def name_at(self, position: int) -> str:
        """The parameter that takes the argument at this position."""
        if position < len(self.positional):
            return self.positional[position]
        return self.rest or ""

    def name_of(self, keyword: str) -> str:
        """The parameter that takes the argument of this name."""
        return keyword if keyword in self.by_keyword else self.more or keyword


class Parameters:
    """The parameters of one function, without the `Context` it may ask for.

    What its annotations mean is looked at when it is made. Where one names something that is not
    there yet, it is looked at again when first needed: a task may name a class defined below it.

    Raises:
        ConfigurationError: values of an annotated type cannot be told from their bytes.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self._function = function
        self._name = name
        self._signature = list(inspect.signature(function).parameters.values())
        self._shapes: dict[str, Shape] | None = None
        self._exact: tuple[frozenset[type] | None, ...] = ()
        self._fitting: set[tuple[type, ...]] = set()  # of arguments that need no other look
        # How many positional arguments are all that is needed; none until `_look` has seen to it.
        self._least, self._most = 1, 0
        self._plainly = False  # whether all arguments have one encoder, and go through it together
        self._by_count: dict[int, Callable[[msgspec.Raw], tuple[Any, ...]]] = {}
        self._lay_out(self._find_context())
        self._look()

    def check(self, args: tuple[object, ...], kwargs: Mapping[str, Any]) -> None:
        """Compare arguments with the signature, by number and name and by their types.

        Raises:
            TypeError: one is missing, unexpected, given twice, of another type, or would not
                arrive as it is; names it.
            ConfigurationError: an annotation names something that is not there.
        """
        types: tuple[type, ...]  # by their number: a tuple of a map takes twice the time
        number = len(args)
        if number == 1:
            types = (type(args[0]),)
        elif number == 2:  # noqa: PLR2004 - the second argument
            types = (type(args[0]), type(args[1]))
        elif not number:
            types = ()
        else:
            types = tuple(map(type, args))
        if kwargs or types not in self._fitting:
            self._check_slowly(args, kwargs)

    def encode(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[msgspec.Raw, msgspec.Raw]:
        """Arguments as bytes.

        Raises:
            TypeError: one cannot be sent; names it.
        """
        if self._plainly:
            try:
                return (
                    msgspec.Raw(write(args)) if args else EMPTY_ARGS,
                    msgspec.Raw(write(kwargs)) if kwargs else EMPTY_KWARGS,
                )
            except KeyboardInterrupt:
                raise
            # The values are the user's, and so is what their methods raise.
            except BaseException:  # noqa: BLE001, S110
                pass
        return self._encode_each(args, kwargs)

    def _encode_each(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[msgspec.Raw, msgspec.Raw]:
        """Each argument by itself: slower, and says which one it was that cannot be sent."""
        self.prepare()
        name_at, name_of = self.layout.name_at, self.layout.name_of
        raws = [self._encode_one(name_at(at), value) for at, value in enumerate(args)]
        named = {key: self._encode_one(name_of(key), value) for key, value in kwargs.items()}
        return (
            encode(raws) if raws else EMPTY_ARGS,
            encode(named) if named else EMPTY_KWARGS,
        )

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
        if named or not self._least <= len(values) <= self._most:
            try:
                self._check_places(values, named)
            except TypeError as error:
                raise BadArguments(str(error)) from None
        return values, named

    def prepare(self) -> None:
        """Have every annotation looked at.

        Raises:
            ConfigurationError: one cannot be decoded, or names something that does not exist.
        """
        if self._shapes is None and (error := self._look()) is not None:
            raise error

    def _lay_out(self, context: str | None) -> None:
        self._context = context
        self.layout = _Layout(self._signature, context, self._name)

    def _find_context(self) -> str | None:
        """The parameter that asks for the context, as far as can be said now."""
        for parameter in self._signature:
            try:
                if is_context(resolve(parameter.annotation, self._function)):
                    return parameter.name
            # It is the user's text, run as Python: `_look` says what is wrong with it.
            except Exception:  # noqa: BLE001, S112
                continue
        return None

    def _look(self) -> ConfigurationError | None:
        """Look at every annotation; returns what to raise if one says nothing (yet).

        Raises:
            ConfigurationError: what one says will never do.
        """
        # A name may have become another class since: what the module says in the end is right.
        context = self._find_context()
        if context != self._context:
            self._lay_out(context)
        shapes: dict[str, Shape] = {}
        missing: ConfigurationError | None = None
        for parameter in self.layout.all:
            try:
                hint = resolve(parameter.annotation, self._function)
                shapes[parameter.name] = shape_of(hint)
            except NOT_YET as error:
                missing = missing or self._unresolved(parameter, error)
            except Exception as error:
                raise ConfigurationError(
                    f"task {self._name}, parameter {parameter.name}: {error}"
                ) from error
        if missing is None:
            self._shapes = shapes
            self._exact = tuple(shapes[name].exact for name in self.layout.positional)
            if not self.layout.required_keywords:
                self._least = self.layout.required_positional
                self._most = len(self.layout.positional)
            self._plainly = all(shape.encode is encode for shape in shapes.values())
        return missing

    def _unresolved(self, parameter: inspect.Parameter, error: Exception) -> ConfigurationError:
        written = parameter.annotation
        text = written if isinstance(written, str) else inspect.formatannotation(written)
        return ConfigurationError(
            f"task {self._name}, parameter {parameter.name}: its annotation {text} cannot be "
            f"resolved ({error}): define or import that name in the module of the function, at "
            "its top, and not only under TYPE_CHECKING"
        )

    def _check_places(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """By number and name."""
        layout, count = self.layout, len(args)
        if not kwargs and layout.required_positional <= count <= len(layout.positional):
            if layout.required_keywords:
                self._complain(f"missing {_names(layout.required_keywords)}")
            return
        if count > len(layout.positional) and layout.rest is None:
            self._complain(_too_many(len(layout.positional), count))
        given = set(layout.positional[:count])
        if twice := (given & kwargs.keys()) - layout.only_positional:
            self._complain(f"{_names(twice)} given twice")
        # Even where any name will do, the context's is taken.
        any_name = layout.more is not None
        known = kwargs.keys() - layout.context_names if any_name else layout.by_keyword
        if strange := kwargs.keys() - known:
            self._complain(f"unexpected {_names(strange)}")
        needed = set(layout.positional[: layout.required_positional]) | layout.required_keywords
        if missing := needed - given - (kwargs.keys() - layout.only_positional):
            self._complain(f"missing {_names(missing)}")

    def _check_slowly(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self.prepare()
        if kwargs or not self._least <= len(args) <= self._most:
            self._check_places(args, kwargs)
        # As many as are needed: is there nothing but their types to look at?
        elif all(
            types is None or type(value) in types
            for value, types in zip(args, self._exact, strict=False)
        ):
            if len(self._fitting) < MOST_FITTING:
                self._fitting.add(tuple(map(type, args)))
            return
        for at, value in enumerate(args):
            self._check_one(self.layout.name_at(at), value)
        for keyword, value in kwargs.items():
            self._check_one(self.layout.name_of(keyword), value, keyword)

    def _check_one(self, name: str, value: Any, given_as: str | None = None) -> None:
        try:
            self._shape(name).check(value)
        except TypeError as error:
            self._complain(f"argument {given_as or name}: {error}", error)

    def _encode_one(self, name: str, value: Any) -> msgspec.Raw:
        try:
            return self._shape(name).encode(value)
        except TypeError as error:
            self._complain(f"argument {name}: {error}", error)

    def _shape(self, name: str) -> Shape:
        self.prepare()
        assert self._shapes is not None  # noqa: S101 - prepare has just made them
        return self._shapes.get(name, PLAIN_SHAPE)

    def _decode_positional(self, args: msgspec.Raw) -> tuple[Any, ...]:
        head = memoryview(args)[0]
        if not FIXARRAY <= head <= FIXARRAY + 15:
            return self._decode_each(args)
        decode = self._by_count.get(head - FIXARRAY)
        if decode is None:
            decode = self._by_count[head - FIXARRAY] = self._decoder_for(head - FIXARRAY)
        try:
            return decode(args)
        except BadArguments:
            raise
        # What the user's classes raise as they are made, among others.
        except Exception:  # noqa: BLE001
            return self._decode_each(args)  # slower, and knows which one it was

    def _decoder_for(self, count: int) -> Callable[[msgspec.Raw], tuple[Any, ...]]:
        """One decoder for this many arguments: as fast as msgspec is."""
        if count > len(self.layout.positional):
            return self._decode_each
        hints = [self._shape(name).annotation for name in self.layout.positional[:count]]
        if any(hint is UNKNOWN for hint in hints):
            return self._decode_each
        return decoder(tuple[tuple(hints)])

    def _decode_each(self, args: msgspec.Raw) -> tuple[Any, ...]:
        try:
            raws = _decode_args(args)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadArguments(f"task {self._name}: its arguments are no array") from error
        takes = len(self.layout.positional)
        if len(raws) > takes and self.layout.rest is None:
            raise BadArguments(f"task {self._name} {_too_many(takes, len(raws))}")
        name_at = self.layout.name_at
        return tuple(self._decode_one(name_at(at), raw) for at, raw in enumerate(raws))

    def _decode_named(self, kwargs: msgspec.Raw) -> dict[str, Any]:
        try:
            raws = _decode_kwargs(kwargs)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadArguments(f"task {self._name}: its keyword arguments are no map") from error
        layout = self.layout
        if layout.more is None and (strange := raws.keys() - layout.by_keyword):
            raise BadArguments(f"task {self._name}: unexpected {_names(strange)}")
        return {name: self._decode_one(layout.name_of(name), raw) for name, raw in raws.items()}

    def _decode_one(self, name: str, raw: msgspec.Raw) -> Any:
        shape = self._shape(name)
        try:
            return shape.decode(raw)
        # What the user's classes raise as they are made, among others.
        except Exception as error:
            why = describe_refusal(error)
            raise BadArguments(f"task {self._name}, argument {name}: {why}") from error

    def _complain(self, what: str, error: TypeError | None = None) -> typing.NoReturn:
        raise TypeError(f"task {self._name}: {what}") from error


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_BY_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _too_many(takes: int, given: int) -> str:
    return f"takes {takes} positional argument{'s' * (takes != 1)}, {given} given"


def _names(names: typing.Collection[str]) -> str:
    kind = "argument" if len(names) == 1 else "arguments"
    return f"{kind} {', '.join(repr(name) for name in sorted(names))}"
