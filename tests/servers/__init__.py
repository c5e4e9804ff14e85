"""The servers that tests need: found, started on free ports, killed, and started again there."""

from tests.servers.process import ServerMissing, free_port
from tests.servers.rabbitmq import RabbitServer, start_rabbitmq, start_rabbitmq_cluster
from tests.servers.redis import RedisServer, start_redis

__all__ = [
    "RabbitServer",
    "RedisServer",
    "ServerMissing",
    "free_port",
    "start_rabbitmq",
    "start_rabbitmq_cluster",
    "start_redis",
]
