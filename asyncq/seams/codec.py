"""The codec seam: messages become envelopes, and back."""

from typing import Protocol

from asyncq.language.envelope import Envelope
from asyncq.language.message import Message


class Codec(Protocol):
    """Turns a message into an envelope; decoding undoes encoding, to the last byte."""

    def encode(self, message: Message) -> Envelope: ...

    def decode(self, envelope: Envelope) -> Message:
        """
        Raises:
            NewerVersion: a newer asyncq made it.
            Undecodable: it is no message; says why, never with its content.
        """
        ...
