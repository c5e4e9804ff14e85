"""An envelope as bytes: the one place that writes it and reads it, for all drivers.

It is a MessagePack array of the priority, the body and the rest of the `Header`; the id and the
queue are said by the place where it lies. The priority comes first because Redis' scripts read it
there, one digit in the second byte. A field that is added to the header comes last.
"""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, TypeVar, cast

import msgspec

from asyncq.language.message import Header

S = TypeVar("S", bound=msgspec.Struct)

fields_of: Callable[[Header], tuple[Any, ...]] = attrgetter(*Header.__struct_fields__)
"""What a header says, in its order: ``Header(*fields_of(envelope))``."""


def array_of(begin: type[S], source: type[msgspec.Struct], names: Sequence[str]) -> type[S]:
    """What to decode an array to that begins like ``begin`` and goes on with these fields."""
    fields = {field.name: field for field in msgspec.structs.fields(source)}
    goes_on = [(name, fields[name].type, _default(fields[name])) for name in names]
    made = msgspec.defstruct(source.__name__, goes_on, bases=(begin,), array_like=True, gc=False)
    return cast("type[S]", made)


def _default(field: msgspec.structs.FieldInfo) -> Any:
    if field.default_factory is not msgspec.NODEFAULT:
        return msgspec.field(default_factory=field.default_factory)
    return msgspec.field(default=field.default)
