"""The drivers by the scheme of their URL: nothing is imported that is not used."""

from importlib import import_module
from typing import Any

from asyncq.backends.base import Backend
from asyncq.brokers.base import Broker
from asyncq.brokers.dead import DeadLimits
from asyncq.clock import Clock
from asyncq.config import Url
from asyncq.errors import ConfigurationError

BROKERS = {
    "memory": "asyncq.brokers.memory:MemoryBroker",
    "sqlite": "asyncq.brokers.sqlite:SqliteBroker",
    "redis": "asyncq.brokers.redis:RedisBroker",
    "rediss": "asyncq.brokers.redis:RedisBroker",
    "unix": "asyncq.brokers.redis:RedisBroker",
    "amqp": "asyncq.brokers.rabbitmq:RabbitBroker",
    "amqps": "asyncq.brokers.rabbitmq:RabbitBroker",
}
BACKENDS = {
    "memory": "asyncq.backends.memory:MemoryBackend",
    "sqlite": "asyncq.backends.sqlite:SqliteBackend",
    "redis": "asyncq.backends.redis:RedisBackend",
    "rediss": "asyncq.backends.redis:RedisBackend",
    "unix": "asyncq.backends.redis:RedisBackend",
    "amqp": "asyncq.backends.rpc:RpcBackend",
    "amqps": "asyncq.backends.rpc:RpcBackend",
    "null": "asyncq.backends.null:NullBackend",
}
# scheme: the extra that installs what it needs
EXTRAS = {
    "redis": "redis",
    "rediss": "redis",
    "unix": "redis",
    "amqp": "rabbitmq",
    "amqps": "rabbitmq",
}


def make_broker(url: Url, clock: Clock, limits: DeadLimits | None = None) -> Broker:
    """The broker behind ``url``, not yet connected; its dead letters within these limits.

    Raises:
        ConfigurationError: unknown scheme, or its extra is not installed.
    """
    return _load("broker", BROKERS, url)(url, clock, limits or DeadLimits())


def make_backend(url: Url, clock: Clock) -> Backend:
    """The backend behind ``url``, not yet connected.

    Raises:
        ConfigurationError: unknown scheme, or its extra is not installed.
    """
    return _load("backend", BACKENDS, url)(url, clock)


def _load(kind: str, table: dict[str, str], url: Url) -> Any:
    if url.scheme not in table:
        known = ", ".join(f"{scheme}://" for scheme in table)
        raise ConfigurationError(f"no {kind} driver for {url!r}; known schemes: {known}")
    module, _, name = table[url.scheme].partition(":")
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get(url.scheme)
        if extra is None or (error.name or "").startswith("asyncq"):
            raise
        raise ConfigurationError(
            f"{url.scheme}:// needs a package that is missing: pip install 'asyncq[{extra}]'"
        ) from error
