"""Verdicts: what it means that a task raised this, for its worker."""

import asyncio
from typing import cast

import msgspec

from asyncq.errors import Directive, Ignore, Reject, RetryLater, Snooze
from asyncq.language.message import Message
from asyncq.language.policies import Errors, Retry, is_one_of
from asyncq.worker.failures import is_a, members_of
from asyncq.worker.prepared import PreparedTask

MOST_MEMBERS = 1000  # of a group that are looked at


def _members(error: BaseException) -> list[BaseException]:
    return members_of(error, MOST_MEMBERS) if is_a(error, BaseExceptionGroup) else []


def may_retry(retry: Retry, error: BaseException, attempt: int) -> bool:
    """Whether the policy wants another attempt.

    A cancellation is no `Exception` for Python, so that code passes it on. Here it has arrived, and
    is a failure like any other: who retries on `Exception`, as by default, retries on it.
    """
    if retry.excludes(error) or any(retry.excludes(each) for each in _members(error)):
        return False
    if is_a(error, asyncio.CancelledError) and retry.allows(Exception(), attempt):
        return True
    if retry.allows(error, attempt):
        return True
    members = _members(error)
    return bool(members) and all(may_retry(retry, each, attempt) for each in members)


def directive_in(group: BaseException) -> Directive | None:
    """What a task asked for inside of a task group, which raises nothing as it was.

    Only if nobody in there raised anything else. Of several, what ends the task counts before what
    has it run again, and of several pauses the longest.
    """
    members = members_of(group, MOST_MEMBERS)
    if not members or not all(is_a(each, Directive) for each in members):
        return None
    return max(cast("list[Directive]", members), key=_weight)


def _weight(directive: Directive) -> tuple[int, float]:
    kinds = (Snooze, RetryLater, Ignore, Reject)
    order = next((at for at, kind in enumerate(kinds) if is_a(directive, kind)), -1)
    return order, getattr(directive, "delay", 0.0)


def with_arguments(message: Message, prepared: PreparedTask, asked: RetryLater) -> Message:
    """
    Raises:
        TypeError: these do not fit the task, or cannot be sent.
    """
    if asked.args_then is None and asked.kwargs_then is None:
        return message
    args, kwargs = prepared.parameters.encode(asked.args_then or (), asked.kwargs_then or {})
    args = message.args if asked.args_then is None else args
    kwargs = message.kwargs if asked.kwargs_then is None else kwargs
    prepared.parameters.decode(args, kwargs)
    return msgspec.structs.replace(message, args=args, kwargs=kwargs)


def is_expected(error: BaseException, throws: Errors) -> bool:
    """Whether the task has named this as what it may raise; of a group, all that is in it."""
    if is_one_of(error, throws):
        return True
    members = _members(error)
    return bool(members) and all(is_one_of(each, throws) for each in members)


def ends_by_request(error: BaseException) -> bool:
    """Whether this is how a cancelled task ends; what it raises in its clean-up is not."""
    kinds = (asyncio.CancelledError, Directive)
    members = _members(error) or [error]
    return all(any(is_a(each, kind) for kind in kinds) for each in members)
