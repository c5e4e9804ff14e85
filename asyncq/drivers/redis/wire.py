"""One open connection to Redis: questions out, answers in, pushes as they come.

redis-py opens it (TLS, passwords, databases); then the socket is ours. Its own reader and writer
stand between every reply and its caller with four coroutines and two time-outs: half of what a
call costs. Here a call is one write, one future, and hiredis.
"""

import asyncio
import re
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

import hiredis
import redis.asyncio as aioredis

MOST_PUSHES = 1000  # unread; then the server has to wait


# What stops a script is wrapped before version 7: "ERR Error running script (...): ...: -OOM ...".
_IN_SCRIPT = re.compile(r"@user_script: ?\d+: -?([A-Z]+) ")


class ReplyError(Exception):
    """What Redis answers when it cannot do what it was asked; `code` is the word for why."""

    @property
    def code(self) -> str:
        text = str(self)
        in_script = _IN_SCRIPT.search(text)
        return in_script[1] if in_script else text.partition(" ")[0]


class Wire(asyncio.Protocol):
    """A connection that somebody opened. One call at a time; what comes unasked is a push."""

    def __init__(self, connection: aioredis.Connection) -> None:
        self._opener: Any = connection  # would warn if it were forgotten with its socket open
        self._parser = hiredis.Reader(replyError=ReplyError)
        self._loop = asyncio.get_running_loop()
        self._wanted = 0
        self._answers: list[Any] = []
        self._answered: asyncio.Future[list[Any] | None] | None = None
        self._pushes: deque[Any] = deque()
        self._pushed: asyncio.Future[None] | None = None
        self._is_paused = False
        self._take_push: Callable[[Any], None] | None = None
        self._lose: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._late_at = 0.0  # loop time at which who waits is told that nothing came
        self.is_open = True
        self._heard_at = self._loop.time()
        # Nothing has been read ahead: the handshake has taken the answer to each of its questions,
        # and Redis says nothing else.
        self._transport: asyncio.Transport = self._opener._writer.transport  # noqa: SLF001 - no public way
        self._transport.set_protocol(self)

    def ask(
        self, questions: bytes, count: int, patience: float
    ) -> Coroutine[Any, Any, list[Any] | None]:
        """Send so many commands, packed; their answers, among them `ReplyError`s.

        None when they have not all come yet: then `wait_on`. A call that is cancelled closes the
        connection: its answer must not be taken for the next one's.

        Raises:
            OSError: the connection is gone.
        """
        self._wanted = count
        self._answered = self._loop.create_future()
        return self.wait_on(patience, questions)

    async def wait_on(self, patience: float, questions: bytes = b"") -> list[Any] | None:
        """The answers to what was asked; None when they have still not all come.

        Raises:
            OSError: the connection is gone.
        """
        answered = self._answered
        assert answered is not None, "nothing was asked"  # noqa: S101 - only after `ask`
        self._be_patient(patience)
        try:
            if questions:
                self.tell(questions)
            return await answered
        except BaseException:
            answered.cancel()
            self.close()
            raise

    def silent_for(self) -> float:
        """Seconds since the server last said anything here."""
        return self._loop.time() - self._heard_at

    def tell(self, question: bytes) -> None:
        """Send a command whose answer comes as a push."""
        if not self.is_open:
            raise ConnectionResetError("the connection was closed")
        try:
            self._transport.write(question)
        except RuntimeError as error:
            # What uvloop raises when the connection was reset while nobody looked.
            raise ConnectionResetError(str(error)) from error

    def hand_on(self, take: Callable[[Any], None], lose: Callable[[], None]) -> None:
        """Hand on pushes as they come, instead of keeping them for `next_push`.

        When the connection is gone, say so once.
        """
        if not self.is_open:
            raise ConnectionResetError("the server closed the connection")
        self._take_push, self._lose = take, lose

    async def next_push(self, timeout: float) -> Any:
        """What the server says next, unasked; None when nothing came in time.

        Raises:
            ConnectionError: the connection is gone.
        """
        if not self._pushes:
            if not self.is_open:
                raise ConnectionResetError("the connection was closed")
            pushed = self._pushed = self._loop.create_future()
            self._be_patient(timeout)
            try:
                await pushed
            finally:
                self._pushed = None
            if not self._pushes:
                if not self.is_open:
                    raise ConnectionResetError("the server closed the connection")
                return None
        push = self._pushes.popleft()
        if self._is_paused and not self._pushes and self.is_open:
            self._is_paused = False
            self._transport.resume_reading()
        return push

    def close(self) -> None:
        """At once, without a word."""
        self._transport.abort()
        self._end(ConnectionResetError("the connection was closed"))

    def _be_patient(self, seconds: float) -> None:
        """Have who waits told after so long.

        One timer serves many calls, which end long before it: to make and cancel one for each would
        cost a tenth of a call.
        """
        self._late_at = late_at = self._loop.time() + seconds
        timer = self._timer
        if timer is None or timer.when() > late_at:
            if timer is not None:
                timer.cancel()
            self._timer = self._loop.call_at(late_at, self._look_at_clock)

    def _look_at_clock(self) -> None:
        self._timer = None
        waits = self._answered or self._pushed
        if waits is None or waits.done():
            return
        if self._loop.time() < self._late_at:  # others have asked since
            self._timer = self._loop.call_at(self._late_at, self._look_at_clock)
        elif waits is self._pushed:
            waits.set_result(None)
        else:  # who asked is to think again; the answers may still come
            self._answered = self._loop.create_future()
            waits.set_result(None)

    def _end(self, error: Exception) -> None:
        self.is_open = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._opener._reader = self._opener._writer = None  # noqa: SLF001 - it is closed, though not by it
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(error)
            # Who asked may have lost patience; then nobody looks at it, and Python would complain.
            self._answered.exception()
        if self._pushed is not None and not self._pushed.done():
            self._pushed.set_result(None)
        if self._lose is not None:
            lose, self._lose = self._lose, None
            lose()

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        parser = self._parser
        try:
            parser.feed(data)
            while (reply := parser.gets()) is not False:
                self._take(reply)
        except hiredis.ProtocolError as error:
            self.close()
            self._end(ConnectionResetError(f"this is not Redis: {error}"))

    def _take(self, reply: Any) -> None:
        answered = self._answered
        if answered is None:
            if self._take_push is not None:
                self._take_push(reply)
                return
            self._pushes.append(reply)
            if self._pushed is not None and not self._pushed.done():
                self._pushed.set_result(None)
            if len(self._pushes) >= MOST_PUSHES and not self._is_paused:
                self._is_paused = True
                self._transport.pause_reading()
            return
        self._answers.append(reply)
        if len(self._answers) == self._wanted:
            answers, self._answers, self._answered = self._answers, [], None
            if not answered.done():
                answered.set_result(answers)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(ConnectionResetError(str(exc) if exc else "the server closed the connection"))
