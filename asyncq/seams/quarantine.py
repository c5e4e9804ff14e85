"""Where a worker runs what outlived another worker, so that a crash points at the guilty."""

from collections.abc import Collection
from threading import Lock
from typing import NamedTuple

from asyncq.seams.losses import Losses


class Admission(NamedTuple):
    """Which suspects a claim may bring now."""

    together: int
    """Those with fewer crashes than this, as many as there are; 0: none."""
    alone: bool
    """If the first has as many or more, that one, and no other."""


NO_ADMISSION = Admission(0, alone=False)


class Quarantine:
    """Where one worker runs suspects, whatever queues and brokers it has.

    Those with fewer than ``alone_from`` crashes run together: a machine that dies with a hundred
    tasks is no reason to run them one by one. With as many or more, a suspect runs with no other
    beside it, so that a crash points at one message.

    Each reservation is occupied, by nobody if need be. A driver may do either in any thread.

    A suspect that waits for another's result may `lend` its place, or it would wait for ever for
    one that waits for room here. Should the process die then, both have outlived one worker more:
    which of them it was cannot be told.
    """

    __slots__ = ("_inside", "_is_kept_shut", "_is_shut", "_lock", "_losses", "alone_from")

    def __init__(self, alone_from: int = 1) -> None:
        self.alone_from = max(alone_from, 1)
        self._inside = 0  # suspects, and reservations
        self._is_shut = False
        self._is_kept_shut = False  # by one that is to be alone and has its place again
        self._lock = Lock()
        self._losses: dict[str, Losses] = {}

    def losses(self, queue: str) -> Losses:
        """What the worker knows of connections that it lost; it outlives each of its leases."""
        return self._losses.setdefault(queue, Losses())

    @property
    def admission(self) -> Admission:
        """What a reservation would get."""
        return NO_ADMISSION if self._is_shut else Admission(self.alone_from, alone=self.is_empty)

    @property
    def is_empty(self) -> bool:
        return self._inside <= 0  # less, where one was taken from us that had lent its place

    def reserve(self) -> Admission:
        """Have room for suspects, before they are claimed. What comes of it is said to `occupy`."""
        with self._lock:
            admission = self.admission
            if admission != NO_ADMISSION:
                self._inside += 1
                self._is_shut = admission.alone  # one may come that is to be alone
            return admission

    def occupy(self, admission: Admission, crashes: Collection[int] = ()) -> None:
        """Take the place of a reservation: suspects with so many crashes each, or none."""
        if admission == NO_ADMISSION:
            return
        with self._lock:
            self._inside += len(crashes) - 1
            if admission.alone:
                alone = any(count >= self.alone_from for count in crashes)
                self._is_shut = alone or self._is_kept_shut

    def leave(self, count: int = 1) -> None:
        """So many suspects are settled, or were taken from us."""
        with self._lock:
            self._inside -= count
            if self.is_empty:
                self._is_shut = self._is_kept_shut = False

    def lend(self) -> None:
        """One that is inside waits for others, and does nothing meanwhile."""
        self.leave()

    def take_back(self, crashes: int) -> None:
        """It goes on, whoever else has come; it had so many crashes."""
        with self._lock:
            self._inside += 1
            if crashes >= self.alone_from and not self.is_empty:
                self._is_shut = self._is_kept_shut = True
