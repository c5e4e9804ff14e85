"""asyncq's own message format: a MessagePack array behind a version number.

What the broker must know (the header) is in the envelope and only there. The body is

    [version, task, args, kwargs, attempt, root, parent, keep_result, ends, limits]

which are the other fields of a `Message`, in their order; the last two only where there are any. It
grows at its end alone, so that an
older worker reads a newer message of the same version. A message whose end arrives somewhere has
version 2: an older worker would tell nobody, and gives it back to a newer one. It does not know
that field of the envelope, and leaves it out when it writes that again, while a body that it cannot
read stays as it is: so the body of such a message has it, too.
"""

from typing import Any

import msgspec

from asyncq.errors import NewerVersion, Undecodable
from asyncq.language.envelope import Envelope
from asyncq.language.message import EMPTY_ARGS, EMPTY_KWARGS, UNREADABLE, End, Limits, Message
from asyncq.seams.packing import enclose
from asyncq.texts import counted

VERSION = 2
WITHOUT_ENDS = 1  # the version of most messages: what every worker can carry out


class _Body(msgspec.Struct, frozen=True, array_like=True, gc=False):
    version: int
    task: str
    args: msgspec.Raw = EMPTY_ARGS
    kwargs: msgspec.Raw = EMPTY_KWARGS
    attempt: int = 1
    root: str | None = None
    parent: str | None = None
    keep_result: float | None = None
    ends: tuple[End, ...] = ()
    limits: Limits | None = None


class _Start(msgspec.Struct, frozen=True, array_like=True):
    version: int
    more: Any = None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Body).decode
_decode_start = msgspec.msgpack.Decoder(_Start).decode


class NativeCodec:
    """Messages as asyncq writes them."""

    def encode(self, message: Message) -> Envelope:
        header = message.header
        fields = (  # a _Body to whoever reads it; to make one takes longer than to encode it
            WITHOUT_ENDS,
            message.task,
            message.args,
            message.kwargs,
            message.attempt,
            message.root,
            message.parent,
            message.keep_result,
        )
        if header.ends or message.limits is not None:
            version = VERSION if header.ends else WITHOUT_ENDS
            return enclose(header, _encode((version, *fields[1:], header.ends, message.limits)))
        return enclose(header, _encode(fields))

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
        if body.ends and not envelope.ends:  # an older worker had it
            envelope = msgspec.structs.replace(envelope, ends=body.ends)
        return Message(
            envelope,
            body.task,
            body.args,
            body.kwargs,
            body.attempt,
            body.root,
            body.parent,
            body.keep_result,
            body.limits,
        )

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
