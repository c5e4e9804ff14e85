"""Where one RabbitMQ is, who we are there, and how the way is encrypted: what its URL says."""

import ssl
from urllib.parse import unquote, urlsplit

from asyncq.config import Url, query_of
from asyncq.errors import ConfigurationError

HEARTBEAT = 60  # seconds; the server gives up a connection after two without a sign of life


class Address:
    """What one URL says: ``amqp://user:password@host:port/vhost?heartbeat=60``.

    ``amqps://`` encrypts; ``cafile``, ``certfile`` and ``keyfile`` name PEM files, and
    ``verify=no`` takes any certificate. ``prefetch`` is how much each consumer may be handed
    before it asks (default: a worker's concurrency).
    """

    def __init__(self, url: Url) -> None:
        options = query_of(url)
        try:
            parts = urlsplit(url.reveal())
            secure = parts.scheme == "amqps"
            self.host = parts.hostname or "localhost"
            self.port = parts.port or (5671 if secure else 5672)
            self.heartbeat = int(options.get("heartbeat", HEARTBEAT))
            self.prefetch = int(options["prefetch"]) if "prefetch" in options else None
        except ValueError:
            # Not "from": the original's text may hold the password.
            raise ConfigurationError(
                f"{url!r} is not a RabbitMQ URL: write amqp://[user:password@]host[:port][/vhost]"
            ) from None
        self.user = unquote(parts.username or "guest")
        self.password = unquote(parts.password or "guest")
        self.vhost = unquote(parts.path[1:]) or "/"
        self.tls = _tls(url, options) if secure else None
        self.identity = ("amqp", self.host, self.port, self.vhost)


def _tls(url: Url, options: dict[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.get("cafile"))
        if "certfile" in options:
            context.load_cert_chain(options["certfile"], options.get("keyfile"))
    except OSError as error:
        raise ConfigurationError(f"{url!r}: its certificates cannot be read: {error}") from error
    if options.get("verify") == "no":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
