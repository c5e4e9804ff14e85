"""asyncq's own message format: a MessagePack array behind a version number.

What the broker must know (the header) is in the envelope and only there. The body is

    [version, task, args, kwargs, attempt, root, parent, keep_result]

which are the other fields of a `Message`, in their order. It grows at its end alone, so that an
older worker reads a newer message of the same version.
"""

from collections.abc import Callable
from operator import attrgetter
from typing import Any

import msgspec

from asyncq.errors import NewerVersion, Undecodable
from asyncq.language.message import UNREADABLE, Message
from asyncq.seams.broker import Envelope
from asyncq.seams.packing import array_of, enclose
from asyncq.texts import counted

VERSION = 1


class _Head(msgspec.Struct, array_like=True, gc=False):
    version: int


class _Start(_Head, array_like=True):
    more: Any = None


_IN_BODY = Message.__struct_fields__[1:]  # behind the header
_in_body: Callable[[Any], tuple[Any, ...]] = attrgetter(*_IN_BODY)

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(array_of(_Head, Message, _IN_BODY)).decode
_decode_start = msgspec.msgpack.Decoder(_Start).decode


class NativeCodec:
    """Messages as asyncq writes them."""

    def encode(self, message: Message) -> Envelope:
        return enclose(message.header, _encode((VERSION, *_in_body(message))))

    def decode(self, envelope: Envelope) -> Message:
        try:
            body = _decode(envelope.body)
        except UNREADABLE as error:
            self._explain(envelope.body)
            raise Undecodable(
                f"{counted(len(envelope.body), 'byte')}, but no message: {error}"
            ) from error
        if body.version > VERSION:
            raise NewerVersion(body.version, VERSION)
        return Message(envelope, *_in_body(body))

    def _explain(self, body: bytes) -> None:
        """A body of another shape may still say that it is of a newer version."""
        try:
            start = _decode_start(body)
        except UNREADABLE:
            return
        # With bytes behind the number it is no version but the priority of an envelope that nobody
        # could read, and whose body those are.
        if start.version > VERSION and not isinstance(start.more, bytes):
            raise NewerVersion(start.version, VERSION)
