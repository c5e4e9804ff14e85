"""Pydantic's types as plain data, and back. Imported where one is met, and nowhere else.

What is sent is read again before it goes: validators and serializers are the user's, and need not
undo each other.
"""

import enum
from collections.abc import Iterable
from functools import cached_property, lru_cache
from typing import Any, cast

import msgspec
import pydantic
import pydantic_core

from asyncq.client.values.fidelity import find_loss
from asyncq.client.values.marks import mark, read_mark
from asyncq.client.values.plain import Unsendable, as_plain
from asyncq.errors import ConfigurationError

KNOWS_NAMES = tuple(int(part) for part in pydantic.VERSION.split(".")[:2]) >= (2, 11)
NAMES: dict[str, Any] = {"by_alias": True, "by_name": True} if KNOWS_NAMES else {}
"""We send the fields' own names; who writes a call by hand writes their aliases."""
REMEDY = (
    "write a subclass into the annotation, give a union a discriminator, and leave at their "
    "defaults what is private or excluded from dumps"
)
SHOWN = 5  # errors of one validation
ADAPTERS = 1000  # kept; a program has as many as it has classes in its arguments

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(ext_hook=read_mark).decode


class Adapter:
    """What pydantic makes of one annotation."""

    def __init__(self, annotation: Any) -> None:
        """
        Raises:
            NameError: it names something that is not defined (yet).
            ConfigurationError: pydantic knows nothing to do with it.
        """
        try:
            self._adapter: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(annotation)
            # What is not defined yet would show when it is first used, and has to show now.
            if not getattr(self._adapter, "pydantic_complete", True):
                self._adapter.rebuild(force=True, raise_errors=True)
        except pydantic.errors.PydanticUndefinedAnnotation as error:
            raise NameError(str(error).splitlines()[0], name=error.name) from error
        except (pydantic.errors.PydanticUserError, TypeError, ImportError) as error:
            # What it says to do next is for who writes models, and not for who writes tasks.
            why = str(error).splitlines()[0].partition(". ")[0]
            raise ConfigurationError(why) from error
        is_class = isinstance(annotation, type)
        self._remedy = "; its validators have to take what its serializers make" * is_class

    def dump(self, value: Any, *, sparse: bool) -> Any:
        """``value`` as what MessagePack can carry, after a look at what it arrives as.

        ``sparse`` leaves out what was not set, so that it is not set where it arrives either.

        Raises:
            Unsendable: it would not arrive as it is; says why.
        """
        kind = type(value).__qualname__
        why = ""
        for whole in (False, True) if sparse else (True,):
            plain = mark(self._plain(value, exclude_unset=not whole), _unwrap)
            try:
                arrived = self.load(_decode(_encode(plain)))
            except ValueError as error:
                why = f"{error}{self._remedy}"
                continue
            loss = find_loss(value, arrived, strict=True)
            if loss is None and (whole or _is_set_alike(value, arrived)):
                return plain
            why = f"a value of {kind} would not arrive as it is: {loss}; {REMEDY}"
        raise Unsendable(why)

    def load(self, plain: Any) -> Any:
        """The value that plain data stands for.

        Raises:
            ValueError: it stands for none; says why, and never quotes it.
        """
        try:
            return self._adapter.validate_python(plain, **NAMES)
        except pydantic.ValidationError as error:
            if (lax := self._load_untyped(plain)) is not None:
                return lax
            try:
                # As JSON, text may be a date also where a model is strict.
                text = pydantic_core.to_json(plain, inf_nan_mode="constants")
                return self._adapter.validate_json(text, **NAMES)
            except (ValueError, TypeError):
                raise ValueError(_describe(error)) from None
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise ValueError(f"a validator raised {type(error).__qualname__}") from error

    def _load_untyped(self, plain: Any) -> Any:
        """What is refused only because it has no type on the wire: members of enums.

        Strict models ask for the members themselves, and so does every ``Literal[Kind.CAT]``. None
        where anything else would be converted.
        """
        try:
            given = _with_members(plain, self._literals) if self._literals else plain
            value = self._adapter.validate_python(given, strict=False, **NAMES)
            again = mark(self._plain(value, exclude_unset=True), _unwrap)
            return value if _encode(again) == _encode(mark(plain, _unwrap)) else None
        # Both the user's validators and what came from outside; why not is known by now.
        except Exception:  # noqa: BLE001
            return None

    @cached_property
    def _literals(self) -> dict[Any, enum.Enum]:
        """The members of enums that literals of the annotation name, by their values."""
        found: dict[Any, enum.Enum] = {}
        todo: list[Any] = [self._adapter.core_schema]
        seen: set[int] = set()
        while todo:
            node = todo.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            if isinstance(node, dict):
                schema = cast("dict[str, Any]", node)
                if schema.get("type") == "literal":
                    named = [each for each in schema["expected"] if isinstance(each, enum.Enum)]
                    found |= {each.value: each for each in named}
                todo.extend(schema.values())
            elif isinstance(node, list | tuple):
                todo.extend(cast("list[Any]", node))
        return found

    def _plain(self, value: Any, *, exclude_unset: bool) -> Any:
        return self._adapter.dump_python(
            value,
            round_trip=True,
            exclude_unset=exclude_unset,
            by_alias=not KNOWS_NAMES,
            warnings=False,
        )


@lru_cache(ADAPTERS)
def adapter_of(cls: type) -> Adapter:
    """The adapter of a class that is met inside of something else."""
    return Adapter(cls)


def _with_members(plain: Any, members: dict[Any, enum.Enum]) -> Any:
    """Plain data, in which these values are the members that have them."""
    if isinstance(plain, dict):
        pairs = cast("dict[Any, Any]", plain).items()
        return {_with_members(key, members): _with_members(value, members) for key, value in pairs}
    if isinstance(plain, list | tuple | set | frozenset):
        items = cast("list[Any]", plain)
        return type(items)(_with_members(item, members) for item in items)
    return members.get(plain, plain) if isinstance(plain, str | int) else plain


def _unwrap(value: Any) -> Any:
    """What pydantic's dumps hold beside plain data."""
    cls = cast("type[Any]", type(value))
    if issubclass(cls, pydantic.SecretStr | pydantic.SecretBytes | pydantic.types.Secret):
        return value.get_secret_value()
    if issubclass(cls, pydantic.BaseModel):
        return adapter_of(cls).dump(value, sparse=False)
    if cls.__module__.partition(".")[0] in {"pydantic", "pydantic_core"}:
        return str(value)  # URLs and their kind
    return as_plain(value)


def _is_set_alike(sent: Any, arrived: Any) -> bool:
    """Whether what was set, and what was not, is so in all models that these hold."""
    pairs: Iterable[tuple[Any, Any]]
    if isinstance(sent, pydantic.BaseModel):
        if sent.model_fields_set != arrived.model_fields_set:
            return False
        names = (*type(sent).model_fields, *(sent.model_extra or ()))
        pairs = [(getattr(sent, name), getattr(arrived, name)) for name in names]
    elif isinstance(sent, dict):
        pairs = zip(
            cast("dict[Any, Any]", sent).values(),
            cast("dict[Any, Any]", arrived).values(),
            strict=True,
        )
    elif isinstance(sent, list | tuple):
        pairs = zip(cast("list[Any]", sent), arrived, strict=True)
    else:
        return True
    return all(_is_set_alike(one, other) for one, other in pairs)


def _describe(error: pydantic.ValidationError) -> str:
    """What is wrong and where. Without the values: they may be secrets, and this is logged."""
    errors = error.errors(include_url=False, include_input=False, include_context=False)
    lines = [
        f"{'.'.join(str(part) for part in each['loc']) or 'it'}: {each['msg']}"
        for each in errors[:SHOWN]
    ]
    more = f"; and {len(errors) - SHOWN} more" if len(errors) > SHOWN else ""
    count = f"{len(errors)} validation error{'s' * (len(errors) != 1)}"
    return f"{count} for {error.title}: {'; '.join(lines)}{more}"
