"""Records that are shown to users as they are: FastAPI and pydantic take them for dictionaries."""

import base64
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial
from types import FunctionType
from typing import Any, cast, get_args, get_origin, get_type_hints

import msgspec

from asyncq.naming import exception_name


class Shown(msgspec.Struct, frozen=True):
    """What can be returned from an endpoint as it is, alone or inside of anything.

    As JSON has none, bytes are text there, in Base64, and a class is its name.
    """

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """Pairs of names and values, as of a pydantic model: ``dict(progress)``."""
        return iter([(name, _shown(getattr(self, name))) for name in self.__struct_fields__])

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> dict[str, Any]:
        """How pydantic reads and writes it, in its own words, without an import of it."""
        hints = get_type_hints(cls)
        required = {field.name for field in msgspec.structs.fields(cls) if field.required}
        fields = {
            name: {
                "type": "typed-dict-field",
                "schema": _schema_of(hints[name], handler),
                "required": name in required,
            }
            for name in cls.__struct_fields__
        }
        shape = {"type": "typed-dict", "fields": fields, "cls_name": cls.__name__}
        in_bytes = frozenset(name for name in cls.__struct_fields__ if hints[name] is bytes)
        return {
            "type": "function-wrap",
            "function": {"type": "no-info", "function": partial(_read, cls, in_bytes)},
            "schema": shape,
            "serialization": {
                "type": "function-plain",
                "function": _as_dict,
                "return_schema": shape,
            },
        }

    @property
    def __pydantic_serializer__(self) -> Any:
        """What pydantic asks a value for where an annotation says nothing: ``dict[str, Any]``."""
        return _serializer_of(type(self))


def _schema_of(hint: Any, handler: Any) -> dict[str, Any]:
    if hint is bytes:
        return {"type": "str"}
    if _has_code(hint):
        return {"type": "any"}
    try:
        return handler.generate_schema(hint)
    # A hint that is for type checkers; which errors pydantic has is not known without importing it.
    except Exception:  # noqa: BLE001
        return {"type": "any"}


def _has_code(hint: Any) -> bool:
    """Whether values of this may be classes, and not only of them, or functions."""
    return get_origin(hint) in (type, Callable) or any(
        _has_code(each) for each in get_args(hint) if not isinstance(each, list)
    )


@lru_cache
def _serializer_of(cls: type[Shown]) -> Any:
    from pydantic import TypeAdapter  # noqa: PLC0415 - it is pydantic that asks

    return TypeAdapter(cls).serializer


def _read(cls: type[Shown], in_bytes: frozenset[str], value: Any, read_fields: Any) -> Shown:
    if isinstance(value, cls):
        return value
    given: dict[str, Any] = read_fields(value)
    read = {name: base64.b64decode(given[name]) for name in in_bytes & given.keys()}
    return cls(**{**given, **read})


def _as_dict(value: Any) -> Any:
    return dict(value) if isinstance(value, Shown) else value


def _shown(value: Any) -> Any:
    """A field's value as JSON can have it; what is `Shown` stays as it is."""
    match value:
        case bytes():
            return base64.b64encode(value).decode()
        case type():
            return exception_name(value)
        case Mapping():
            pairs = cast("Mapping[Any, Any]", value).items()
            return {key: _shown(each) for key, each in pairs}
        case tuple():
            return tuple(_shown(each) for each in cast("tuple[Any, ...]", value))
        case list() | set() | frozenset():
            return [_shown(each) for each in cast("list[Any]", value)]
        case FunctionType():
            return value.__qualname__
        case _:
            return value
