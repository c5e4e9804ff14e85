"""Letters: what goes to the dead letters, and how it would be sent again from there.

From there it has everything anew: it begins with its first attempt, and nobody has looked for its
task yet.
"""

from contextlib import suppress

import msgspec

from asyncq.errors import NewerVersion, Undecodable
from asyncq.language.envelope import Envelope, LastAttempt
from asyncq.language.message import Failure, Message
from asyncq.language.record import Record
from asyncq.seams.broker import Delivery, Reject
from asyncq.seams.codec import Codec

UNKNOWN_SINCE = "asyncq-unknown-since"  # header: when a worker first could not run this message


class DeadLetters:
    """Makes those of one worker."""

    def __init__(self, codec: Codec, worker: str) -> None:
        self._decode = codec.decode
        self._encode = codec.encode
        self._worker = worker

    def of_failure(self, delivery: Delivery, message: Message, error: Failure) -> Reject:
        """Of an attempt that failed for good."""
        last = LastAttempt(error, message.attempt, self._worker)
        return Reject(delivery, _reason(error), last, self._anew(message))

    def of_unrun(self, delivery: Delivery, error: Failure) -> Reject:
        """Of what could not be run."""
        last = LastAttempt(error, worker=self._worker)
        return Reject(delivery, _reason(error), last, _unseen(delivery.envelope))

    def of_record(self, delivery: Delivery, record: Record, error: Failure) -> Reject:
        """Of what another worker has recorded as failed, as that one would have made it."""
        attempt = record.attempt if record.task else 0  # what was never run has none in its record
        last = LastAttempt(error, attempt, record.worker)
        replacement = _unseen(delivery.envelope)
        if attempt > 1 or delivery.envelope.again:
            with suppress(NewerVersion, Undecodable):  # to us; then it lies there as it came
                replacement = self._anew(self._decode(delivery.envelope))
        return Reject(delivery, _reason(error), last, replacement)

    def _anew(self, message: Message) -> Envelope | None:
        """What lies there instead, if it is not what came."""
        header = message.header
        if message.attempt > 1 or header.again:
            header = msgspec.structs.replace(header, again=False)  # it is to run, whatever stands
            return self._encode(msgspec.structs.replace(message, header=header, attempt=1))
        return None


def _reason(error: Failure) -> str:
    return f"{error.type}: {error.message}"


def _unseen(envelope: Envelope) -> Envelope | None:
    """What lies there instead, if it may have been sent before or looked for in vain."""
    if UNKNOWN_SINCE not in envelope.headers and not envelope.again:
        return None
    headers = {name: value for name, value in envelope.headers.items() if name != UNKNOWN_SINCE}
    return msgspec.structs.replace(envelope, headers=headers, again=False)
