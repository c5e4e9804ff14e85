"""asyncq's own message format: a MessagePack array behind a version number.

What the broker must know (id, queue, times, headers) is in the envelope and only there. The body is

    [version, task, args, kwargs, attempt, root, parent, keep_result]

and grows at its end alone, so that an older worker reads a newer message of the same version.
"""

from typing import Any

import msgspec

from asyncq.errors import NewerVersion, Undecodable
from asyncq.language.message import EMPTY_ARGS, EMPTY_KWARGS, UNREADABLE, Message
from asyncq.seams.broker import Envelope
from asyncq.texts import counted

VERSION = 1


class _Body(msgspec.Struct, frozen=True, array_like=True, gc=False):
    version: int
    task: str
    args: msgspec.Raw = EMPTY_ARGS
    kwargs: msgspec.Raw = EMPTY_KWARGS
    attempt: int = 1
    root: str | None = None
    parent: str | None = None
    keep_result: float | None = None


class _Head(msgspec.Struct, frozen=True, array_like=True):
    version: int
    more: Any = None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Body).decode
_decode_head = msgspec.msgpack.Decoder(_Head).decode


class NativeCodec:
    """Messages as asyncq writes them."""

    def encode(self, message: Message) -> Envelope:
        return Envelope(
            id=message.id,
            queue=message.queue,
            body=_encode(
                (  # a _Body to whoever reads it; to make one takes longer than to encode it
                    VERSION,
                    message.task,
                    message.args,
                    message.kwargs,
                    message.attempt,
                    message.root,
                    message.parent,
                    message.keep_result,
                )
            ),
            priority=message.priority,
            eta=message.eta,
            expires=message.expires,
            reply_to=message.reply_to,
            sent_at=message.enqueued_at,
            headers=message.headers,
        )

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
        return Message(
            id=envelope.id,
            task=body.task,
            args=body.args,
            kwargs=body.kwargs,
            queue=envelope.queue,
            priority=envelope.priority,
            eta=envelope.eta,
            expires=envelope.expires,
            attempt=body.attempt,
            enqueued_at=envelope.sent_at,
            root=body.root,
            parent=body.parent,
            reply_to=envelope.reply_to,
            keep_result=body.keep_result,
            headers=envelope.headers,
        )

    def _explain(self, body: bytes) -> None:
        """A body of another shape may still say that it is of a newer version."""
        try:
            head = _decode_head(body)
        except UNREADABLE:
            return
        # With bytes behind the number it is no version but the priority of an envelope that nobody
        # could read, and whose body those are.
        if head.version > VERSION and not isinstance(head.more, bytes):
            raise NewerVersion(head.version, VERSION)
