"""Options that there are not: what asyncq calls what other task queues call something else.

An unknown option raises `UnknownOption`, which says what to write instead: by a table of the names
that Celery, Dramatiq, RQ, arq, taskiq and kombu have for it, else by likeness.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar, cast

from msgspec import StructMeta

from asyncq.errors import UnknownOption

S = TypeVar("S")

_ON_RETRY = "retry=Retry({}=...)"
_TIMES, _BASE, _CEILING, _ON = (
    _ON_RETRY.format(name) for name in ("times", "base", "ceiling", "on")
)
_WHEN = _ON_RETRY.format("when")
_NO_LATE = "nothing: a message is acknowledged only after its task has ended"
_FORGET = "keep_result=0"
_BINDINGS = "bindings=[Binding(Exchange(...), key=...)]"
_FOR_A_CALL = "it for a call, as in task.options({}=...).enqueue()"

# By where it was written; what stands under "" counts everywhere.
_FOREIGN: Mapping[str, Mapping[str, str]] = {
    "": {
        "timeout": "time_limit",
        "job_timeout": "time_limit",
        "soft_timeout": "soft_time_limit",
        "hard_time_limit": "time_limit",
        "task_time_limit": "time_limit",
        "timelimit": "time_limit",
        "max_retries": _TIMES,
        "retries": _TIMES,
        "max_tries": f"{_TIMES}, without the first",
        "max_attempts": f"{_TIMES}, without the first",
        "attempts": f"{_TIMES}, without the first",
        "times": _TIMES,
        "default_retry_delay": _BASE,
        "retry_delay": _BASE,
        "min_backoff": _BASE,
        "backoff": _BASE,
        "retry_backoff": "retry=Retry(base=..., factor=...)",
        "retry_backoff_max": _CEILING,
        "max_backoff": _CEILING,
        "retry_jitter": _ON_RETRY.format("jitter"),
        "jitter": _ON_RETRY.format("jitter"),
        "autoretry_for": _ON,
        "retry_for": _ON,
        "retry_when": _WHEN,
        "retry_if": _WHEN,
        "dont_autoretry_for": _ON_RETRY.format("not_on"),
        "max_elapsed": _ON_RETRY.format("for_seconds"),
        "retry_on": _ON,
        "retry_on_error": "retry=True, or retry=Retry(...)",
        "retry_kwargs": "retry=Retry(...)",
        "retry_policy": "retry=Retry(...)",
        "ignore_result": _FORGET,
        "store_results": "keep_result, in seconds; 0 keeps nothing",
        "store_result": "keep_result, in seconds; 0 keeps nothing",
        "result_ttl": "keep_result",
        "result_expires": "keep_result",
        "failure_ttl": "keep_result",
        "ttl": "expires",
        "max_age": "expires",
        "expire": "expires",
        "acks_late": _NO_LATE,
        "task_acks_late": _NO_LATE,
        "reject_on_worker_lost": _NO_LATE,
        "acks_on_failure_or_timeout": _NO_LATE,
        "bind": "nothing: a first parameter annotated as asyncq.Context is given the context",
        "pass_context": "nothing: a first parameter annotated as asyncq.Context gets the context",
        "serializer": "nothing: arguments and results travel as MessagePack",
        "result_serializer": "nothing: arguments and results travel as MessagePack",
        "queue_name": "queue",
        "actor_name": "name",
        "task_name": "name",
        "labels": "headers",
        "meta": "headers",
        "task_id": "id",
        "job_id": "id",
        "key": "id",
        "defer_by": "delay",
        "defer_until": "eta",
        "run_at": "eta",
        "at": "eta",
        "at_front": "priority=9",
    },
    "@app.task": {
        "countdown": _FOR_A_CALL.format("delay"),
        "delay": _FOR_A_CALL.format("delay"),
        "defer_by": _FOR_A_CALL.format("delay"),
        "eta": _FOR_A_CALL.format("eta"),
        "headers": _FOR_A_CALL.format("headers"),
        "id": _FOR_A_CALL.format("id"),
    },
    "options": {
        "retry": "it for the task, as in @app.task(retry=...)",
        "time_limit": "it for the task, as in @app.task(time_limit=...)",
        "timeout": "it for the task, as in @app.task(time_limit=...), or get(timeout=...)",
        "args": "the arguments in enqueue(...) or s(...)",
        "kwargs": "the arguments in enqueue(...) or s(...)",
        "ignore_result": _FORGET,
    },
    "Retry": {
        **dict.fromkeys(("max_retries", "retries", "max", "count", "limit"), "times"),
        **dict.fromkeys(
            ("max_tries", "max_attempts", "attempts", "tries"), "times, without the first"
        ),
        **dict.fromkeys(
            ("delay", "countdown", "initial", "wait", "backoff", "interval", "min_backoff"), "base"
        ),
        **dict.fromkeys(("multiplier", "exponent", "interval_step", "rate"), "factor"),
        **dict.fromkeys(("max_delay", "maximum", "max_backoff", "interval_max"), "ceiling"),
        **dict.fromkeys(("exceptions", "errors", "retry_for", "autoretry_for", "when"), "on"),
    },
    "Queue": {
        **dict.fromkeys(("maxsize", "max_size", "size", "limit", "x_max_length"), "max_length"),
        **dict.fromkeys(("expires", "message_ttl", "x_message_ttl", "timeout"), "ttl"),
        **dict.fromkeys(("queue_type", "type", "x_queue_type"), "kind"),
        **dict.fromkeys(("exchange", "routing_key", "binding"), _BINDINGS),
        "durable": "nothing: every queue outlives its broker's restart",
        "priority": "max_priority",
        "exclusive": "single_active=True",
        "x_max_priority": "max_priority",
        "x_single_active_consumer": "single_active",
    },
    "Config": {
        **dict.fromkeys(("worker_concurrency", "max_jobs", "threads", "processes"), "concurrency"),
        **dict.fromkeys(("result_expires", "result_ttl", "keep_results"), "keep_result"),
        **dict.fromkeys(("visibility_timeout", "lock_timeout"), "lease"),
        **dict.fromkeys(("shutdown_timeout", "graceful_timeout", "grace_period"), "grace"),
        **dict.fromkeys(("broker", "broker_url", "url"), "the broker's URL in App(url)"),
        **dict.fromkeys(("backend", "result_backend"), "App(..., backend=...)"),
        "time_limit": "it for the task, as in @app.task(time_limit=...)",
        "timeout": "publish_timeout, or @app.task(time_limit=...)",
    },
    "App": {
        **dict.fromkeys(("broker_url", "url", "redis_url", "redis_settings", "dsn"), "broker"),
        **dict.fromkeys(("result_backend", "backend_url"), "backend"),
        "task_routes": "routes",
        "task_queues": "queues",
        "main": "nothing: an app has no name",
        "name": "nothing: an app has no name",
    },
    "worker": {
        **dict.fromkeys(("queue", "queue_names", "queue_name"), "queues=[...]"),
        **dict.fromkeys(("max_jobs", "threads", "prefetch", "pool_size"), "concurrency"),
        **dict.fromkeys(("shutdown_timeout", "timeout", "graceful_timeout"), "grace"),
    },
}
_FIELDS_OF_CONFIG = "config=Config({}=...)"


def unknown_option(
    where: str, given: Iterable[str], known: Iterable[str], settings: Iterable[str] = ()
) -> UnknownOption:
    """The error for what of ``given`` is not ``known`` at ``where``.

    ``settings`` are fields of the app's config, for those who look for them here.
    """
    known = [name for name in known if not name.startswith("_")]
    name = next((name for name in given if name not in known), "")
    plain = name.strip("_").replace("-", "_").lower()
    foreign = _FOREIGN.get(where, {}).get(plain)
    if foreign is None and plain in settings:
        foreign = _FIELDS_OF_CONFIG.format(plain)
    if foreign is None and where in {"@app.task", "options"}:
        foreign = _FOREIGN[""].get(plain)
    if foreign is not None:
        return UnknownOption(where, name, f"write {foreign}")
    if alike := get_close_matches(plain, known, n=3, cutoff=0.6):
        return UnknownOption(where, name, f"do you mean {' or '.join(alike)}?")
    return UnknownOption(where, name, f"there are {', '.join(known)}")


def parameters_of(function: Callable[..., Any]) -> list[str]:
    """The names of what a function takes by name."""
    parameters = inspect.signature(function).parameters.values()
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [each.name for each in parameters if each.kind in named and each.name != "self"]


def nearest(name: str, known: Iterable[str]) -> str:
    """`` (do you mean ...?)`` where something known is like this; else nothing."""
    alike = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (do you mean {alike[0]}?)" if alike else ""


def same_function(name: str, known: Iterable[str]) -> list[str]:
    """Those tasks that are called as this one in other modules: ``shop.app.add`` by ``app.add``."""
    called = name.rpartition(".")[2]
    return sorted(each for each in known if each.rpartition(".")[2] == called)


def nearest_task(name: str, known: Iterable[str]) -> str:
    """As `nearest`; a task of another module counts before one that is called otherwise."""
    names = list(known)
    alike = get_close_matches(name, same_function(name, names), n=1, cutoff=0.0)
    return f" (do you mean {alike[0]}?)" if alike else nearest(name, names)


class Suggesting(StructMeta):
    """Makes records that say what to write when they are given a field that they do not have.

    A metaclass, because msgspec's constructors are C and nothing of a class is called before them.
    """

    def __call__(cls: type[S], *args: Any, **fields: Any) -> S:  # noqa: N805 - of a metaclass
        known = cast("tuple[str, ...]", cast("Any", cls).__struct_fields__)
        if not fields.keys() <= set(known):
            raise unknown_option(cls.__name__, fields, known)
        return super().__call__(*args, **fields)
