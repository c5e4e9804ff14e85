"""Settlements in the file: how deliveries end. Statements, and what they are given."""

import sqlite3
from collections.abc import Callable, Sequence
from typing import assert_never

import msgspec

from asyncq.drivers.sqlite import records
from asyncq.drivers.sqlite.dead import Death, bury
from asyncq.drivers.sqlite.envelopes import Packed, pack
from asyncq.drivers.sqlite.lines import give_back
from asyncq.drivers.sqlite.statements import as_json, remove
from asyncq.language.record import Record
from asyncq.seams.broker import Ack, Completion, Delivery, Nack, Reject
from asyncq.seams.dead import DeadLimits, pack_last


class Held:
    """What a delivery's token is: the row that says whose it is."""

    __slots__ = ("claim", "seq", "suspect", "untold")

    def __init__(self, seq: int, claim: int, suspect: bool) -> None:
        self.seq = seq
        self.claim = claim
        self.suspect = suspect
        # Settled in the file, by a call that has not said so to its caller yet. Written by the
        # writer's thread.
        self.untold = False


class PackedCompletion:
    """A completion as it goes to the writer: encoded before the file is locked."""

    __slots__ = ("last", "record", "replacement", "row", "settlement", "stays", "token")

    def __init__(self, completion: Completion) -> None:
        self.stays = completion.stays
        self.settlement = completion.settlement
        self.token: Held = self.settlement.delivery.token
        self.row = (self.token.seq, self.token.claim)
        self.replacement: Packed | None = None
        self.last: bytes | None = None
        if not isinstance(self.settlement, Ack):
            if self.settlement.replacement is not None:
                self.replacement = pack(self.settlement.replacement)
            if isinstance(self.settlement, Reject) and self.settlement.last is not None:
                self.last = pack_last(self.settlement.last)
        self.record = None if completion.record is None else records.pack(completion.record)


class Ended(msgspec.Struct, frozen=True):
    """What one transaction of settlements did."""

    settled: list[Held]
    missing: list[Delivery]
    new: list[Record]
    stood: list[Record]
    given_back: int
    delayed: bool


def complete(
    connection: sqlite3.Connection,
    queue: str,
    lease: int,
    batch: Sequence[PackedCompletion],
    *,
    now: float,
    limits: DeadLimits,
    is_here: Callable[[str], bool],
) -> Ended:
    """Settle what is this lease's and does not stay, and keep the records of what is.

    ``is_here`` as for `records`.
    """
    ours, missing = _whose(connection, lease, batch)
    ending = [each for each in ours if not each.stays]
    given_back, delayed = _settle(connection, queue, ending, now, limits)
    packed = [each.record for each in ours if each.record is not None]
    new, stood = records.keep(connection, packed, now, is_here) if packed else ([], [])
    return Ended([each.token for each in ending], missing, new, stood, given_back, delayed)


def _whose(
    connection: sqlite3.Connection, lease: int, batch: Sequence[PackedCompletion]
) -> tuple[list[PackedCompletion], list[Delivery]]:
    """What is in flight under this lease, and the deliveries that are not."""
    in_flight = set(
        connection.execute(
            "SELECT seq, claim FROM held"
            " WHERE seq IN (SELECT value FROM json_each(?)) AND lease = ?",
            (as_json([each.token.seq for each in batch]), lease),
        )
    )
    ours: list[PackedCompletion] = []
    missing: list[Delivery] = []
    for each in batch:
        if each.row in in_flight:
            in_flight.remove(each.row)  # named twice, it is settled once
            ours.append(each)
        else:
            missing.append(each.settlement.delivery)
    return ours, missing


def _settle(
    connection: sqlite3.Connection,
    queue: str,
    ours: Sequence[PackedCompletion],
    now: float,
    limits: DeadLimits,
) -> tuple[int, bool]:
    """How many were given back at once, and whether any was with a delay."""
    acked: list[int] = []
    replaced: list[tuple[bytes, int, int]] = []
    delayed: list[tuple[float, int]] = []
    given_back: list[int] = []
    dead: list[Death] = []
    for each in ours:
        seq = each.token.seq
        if (new := each.replacement) is not None:
            replaced.append((new.packed, new.rank, seq))
        match each.settlement:
            case Ack():
                acked.append(seq)
            case Nack(delay=delay):
                due = now + delay if new is None else max(now + delay, new.due)
                if due > now:
                    delayed.append((due, seq))
                else:
                    given_back.append(seq)
            case Reject(reason=reason):
                dead.append((seq, reason, each.last))
            case _:
                assert_never(each.settlement)
    if ours:
        remove(connection, [each.token.seq for each in ours], "held")
    if acked:
        remove(connection, acked, "messages")
    if replaced:
        connection.executemany(
            "UPDATE messages SET envelope = ?1, rank = max(?2, coalesce((SELECT lowest_rank"
            " FROM declared d WHERE d.queue = messages.queue), 0)) WHERE seq = ?3",
            replaced,
        )
    if delayed:
        connection.executemany(
            "INSERT INTO delayed (seq, queue, due)"
            " SELECT seq, queue, ?1 FROM messages WHERE seq = ?2",
            delayed,
        )
    bury(connection, queue, dead, now, limits)
    return give_back(connection, given_back), bool(delayed)
