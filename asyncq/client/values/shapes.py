"""Shapes: what values of one annotation look like, to who sends and to who reads them.

Most annotations are msgspec's own affair. What it does not know goes to pydantic, if that is
installed: unions of texts and dates, constraints by ``pydantic.Field``, unions of models.
"""

import enum
import types
import typing
import uuid
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterator,
)
from datetime import date, timedelta
from functools import partial
from typing import Any, TypeVar, Union, cast, get_args, get_origin

import msgspec

from asyncq.client.values.encoding import (
    Decode,
    Encode,
    adapter_of,
    can_be_made,
    decoder,
    encode,
    encode_sparsely,
    encode_with,
    is_pydantic,
    read_plain,
    write,
)
from asyncq.client.values.fidelity import find_loss, is_record
from asyncq.client.values.plain import REMEDY, Unsendable
from asyncq.errors import ConfigurationError

ANYTHING: tuple[Any, ...] = (Any, object)
VARIABLES = (
    TypeVar,
    typing.TypeVarTuple,
    typing.ParamSpec,
    typing.ParamSpecArgs,
    typing.ParamSpecKwargs,
)
OTHER_NAMES: dict[Any, Any] = {typing.LiteralString: str, None: type(None)}
SCALARS = (str, int, float, bool, bytes, type(None))
COMPARABLE: tuple[Any, ...] = (
    *(*SCALARS, list, dict, tuple, uuid.UUID, date, timedelta),
    *(*ANYTHING, None, Union, types.UnionType, typing.Literal),
)
NEVER_DATA: dict[Any, str] = {
    type: "send a name, and look the class up",
    Callable: "send a name, and look the function up",
    **dict.fromkeys((Iterator, Generator), "use list[...]"),
    **dict.fromkeys((AsyncIterator, AsyncIterable, AsyncGenerator), "use list[...]"),
    **dict.fromkeys((Awaitable, Coroutine), "await it before the call"),
}
"""Of what lives in a process and is no data, what to write instead."""


UNKNOWN = object()


class Shape(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """How values of one annotation are checked, encoded and decoded."""

    exact: frozenset[type] | None
    """Values of exactly these classes need no look; None if none does."""
    encode: Encode
    """For who reads it with this annotation."""
    encode_whole: Encode
    """For who may read it as plain data."""
    decode: Decode
    annotation: Any
    """Of use to msgspec; `UNKNOWN` where it knows nothing to do with it."""
    strict: bool
    """Every type in it is known."""
    comparable: bool = False
    """What is equal is the same: no class is in it whose values leave something out of that."""

    def check(self, value: Any) -> None:
        """Look at what arrives if this is sent.

        Raises:
            TypeError: nothing does, or something else; says why.
        """
        if self.exact is None or type(value) in self.exact:
            return
        if loss := self._find_loss(value, self.encode(value)):
            raise Unsendable(f"{loss}: pass what the annotation says, or change it")

    def result_encoder(self, most: int) -> Encode:
        """What makes bytes of values that a task returned, and looks at what arrives.

        Not of more than ``most`` bytes, which are not sent. It raises `TypeError`: a value has no
        representation, or would be read as another one.
        """
        exact, encode_whole, find_loss = self.exact, self.encode_whole, self._find_loss
        if exact is None:
            return encode_whole

        def encode_result(value: Any) -> msgspec.Raw:
            if type(value) in exact:
                try:
                    return msgspec.Raw(write(value))
                except Exception:  # noqa: BLE001 - told below: text that is none, a number too large
                    return encode_whole(value)
            raw = encode_whole(value)
            if len(memoryview(raw)) <= most and (loss := find_loss(value, raw)):
                raise Unsendable(f"{loss}: return what the annotation says, or change it")
            return raw

        return encode_result

    def _find_loss(self, value: Any, raw: msgspec.Raw) -> str | None:
        """What of the value does not arrive with these bytes.

        Raises:
            Unsendable: nothing does; says why.
        """
        try:
            arrived = self.decode(raw)
            kind = cast("type[Any]", type(value))
            if self.comparable and type(arrived) is kind and arrived == value:
                return None
            return find_loss(value, arrived, strict=self.strict or is_record(kind))
        except KeyboardInterrupt:
            raise
        # Of what the user's classes raise as they are made or compared.
        except BaseException as error:
            raise Unsendable(describe_refusal(error)) from error


PLAIN_SHAPE = Shape(
    exact=None,
    encode=encode,
    encode_whole=encode,
    decode=read_plain,
    annotation=Any,
    strict=False,
)


def shape_of(annotation: Any) -> Shape:
    """The shape of what is annotated so.

    Raises:
        NameError: it names something that is not defined (yet).
        ConfigurationError: no value of this type can be told from bytes; says what to write.
    """
    if isinstance(annotation, TypeVar) and annotation.__bound__ is not None:
        annotation = annotation.__bound__
    if annotation in ANYTHING or isinstance(annotation, VARIABLES):
        return PLAIN_SHAPE
    if get_origin(annotation) is typing.Unpack:  # it has as many types as names
        return PLAIN_SHAPE
    if annotation in OTHER_NAMES:
        annotation = OTHER_NAMES[annotation]
    nodes = list(_walk(annotation, set()))
    for node in nodes:
        _refuse_what_is_no_data(node)
    if any(_is_constraint(node) for node in nodes):
        return _shape_by_pydantic(annotation, "its constraints are pydantic's")
    try:
        found = _Findings(msgspec.inspect.type_info(annotation))
    except TypeError as error:
        return _shape_by_pydantic(annotation, str(error).partition(" - type ")[0])
    if found.unknown is not None:
        return _shape_by_pydantic(
            annotation, f"values of {found.unknown.__qualname__} cannot be made from bytes"
        )
    for model in found.models:
        adapter_of(model)
    return Shape(
        exact=_exact_types(annotation),
        encode=encode_sparsely if found.models else encode,
        encode_whole=encode,
        decode=decoder(annotation),
        annotation=annotation,
        strict=not found.has_any,
        comparable=all(map(_is_comparable, nodes)),
    )


def describe_refusal(error: BaseException) -> str:
    """What a class has against a value, in one line."""
    match error:
        case RecursionError():
            return "it is nested too deeply"
        case msgspec.DecodeError() if "got `ext`" in str(error):
            return f"{error}: its type has to be in the annotation, as in deque[...]"
        case msgspec.DecodeError() | UnicodeDecodeError() | Unsendable():
            return str(error)
        case _:
            return f"{type(error).__qualname__} was raised as it was made from what is sent"


def _shape_by_pydantic(annotation: Any, why: str) -> Shape:
    try:
        from asyncq.client.values.models import Adapter  # noqa: PLC0415 - only who needs pydantic imports it
    except ImportError:
        raise ConfigurationError(f"{why}: {REMEDY}; pydantic, if installed, knows more") from None
    try:
        adapter = Adapter(annotation)
    except ConfigurationError as error:
        raise ConfigurationError(f"{why}, and pydantic cannot help: {error}: {REMEDY}") from error

    def load(raw: msgspec.Raw | bytes) -> Any:
        plain = read_plain(raw)
        try:
            return adapter.load(plain)
        except ValueError as error:
            raise msgspec.ValidationError(str(error)) from error

    return Shape(
        exact=_exact_types(annotation),
        encode=partial(encode_with, partial(adapter.dump, sparse=True)),
        encode_whole=partial(encode_with, partial(adapter.dump, sparse=False)),
        decode=load,
        annotation=UNKNOWN,
        strict=True,
    )


class _Findings:
    """What is in a type's description by msgspec."""

    def __init__(self, info: Any) -> None:
        self.unknown: type | None = None
        """The first class that nothing is known of."""
        self.models: list[type] = []
        """Of pydantic's."""
        self.has_any = False
        seen: set[int] = set()
        todo = [info]
        while todo:
            node = todo.pop()
            if isinstance(node, tuple | list):
                todo.extend(node)  # pyright: ignore[reportUnknownArgumentType] - of any nodes
            elif isinstance(node, msgspec.Struct) and id(node) not in seen:
                seen.add(id(node))
                self._look_at(node)
                todo.extend(getattr(node, name) for name in node.__struct_fields__)

    def _look_at(self, node: msgspec.Struct) -> None:
        match node:
            case msgspec.inspect.AnyType():
                self.has_any = True
            case msgspec.inspect.CustomType(cls=cls):
                self.has_any |= cls is object
                if is_pydantic(cls):
                    self.models.append(cls)
                if not can_be_made(cls):
                    self.unknown = self.unknown or cls
            case msgspec.inspect.DataclassType(cls=cls) if is_pydantic(cls):
                self.unknown = self.unknown or cls  # msgspec would make it without a check
            case _:
                pass


def _is_comparable(node: Any) -> bool:
    cls = get_origin(node) or node
    is_enum = isinstance(cls, type) and issubclass(cls, enum.Enum)
    return is_enum or any(cls is each for each in COMPARABLE)


def _exact_types(annotation: Any) -> frozenset[type]:
    """The classes whose values need no look, where there are any."""
    if annotation in SCALARS:
        return frozenset({annotation})
    if get_origin(annotation) in {Union, types.UnionType}:
        members = [_exact_types(member) for member in get_args(annotation)]
        return frozenset[type]().union(*members)
    return frozenset()


def _walk(annotation: Any, seen: set[int]) -> Iterator[Any]:
    """Every annotation in this one, and what `Annotated` says of them."""
    if id(annotation) in seen:
        return
    seen.add(id(annotation))
    yield annotation
    if get_origin(annotation) is typing.Literal:
        return
    inner: list[Any] = [*get_args(annotation)]
    if isinstance(annotation, typing.NewType):
        inner.append(annotation.__supertype__)
    elif hasattr(annotation, "__value__"):  # what `type X = ...` makes
        inner.append(annotation.__value__)
    cls: Any = get_origin(annotation) or annotation
    if isinstance(cls, type) and _has_hints(cls):
        inner += typing.get_type_hints(cls, include_extras=True).values()
    for each in inner:
        yield from _walk(each, seen)


def _has_hints(cls: type[Any]) -> bool:
    if is_pydantic(cls):
        return False  # it looks at them by itself
    return is_record(cls) or typing.is_typeddict(cls) or hasattr(cls, "_fields")


def _refuse_what_is_no_data(node: Any) -> None:
    cls = get_origin(node) or node
    remedy = NEVER_DATA.get(cls) if isinstance(cls, type) else None
    if remedy is not None:
        raise ConfigurationError(f"values of {cls.__qualname__} cannot be sent: {remedy}")


def _is_constraint(node: Any) -> bool:
    """Whether this stands in an ``Annotated``, for pydantic to read."""
    cls = cast("type[Any]", node if isinstance(node, type) else type(node))
    home = cls.__module__.partition(".")[0]
    if home == "annotated_types":
        return True
    if home == "pydantic":
        return not isinstance(node, type) or hasattr(cls, "__prepare_pydantic_annotations__")
    return not isinstance(node, type) and hasattr(cls, "__get_pydantic_core_schema__")
