"""What can be wrong with TLS, and what to write then."""

import ssl
from collections.abc import Mapping
from typing import Any

from asyncq.config import Url
from asyncq.errors import ConfigurationError

_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNEXPECTED_EOF_WHILE_READING")


def check_certificates(url: Url, options: Mapping[str, Any]) -> None:
    """See that the files in a ``rediss://`` URL can be read, before anybody waits for them.

    Raises:
        ConfigurationError: one of them cannot.
    """
    authority, certificate = options.get("ssl_ca_certs"), options.get("ssl_certfile")
    try:
        context = ssl.create_default_context(cafile=authority)
        if certificate:
            context.load_cert_chain(certificate, options.get("ssl_keyfile"))
    except OSError as error:  # ssl.SSLError is one
        raise ConfigurationError(f"{url!r}: its certificates cannot be read: {error}") from error


def refusal_of_tls(url: Url, error: BaseException) -> ConfigurationError | None:
    """What to raise where a connection failed for its certificates; None where it did not."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return ConfigurationError(
                f"{url!r} has a certificate that we do not trust: {cause.verify_message}; "
                "name its authority with ?ssl_ca_certs="
            )
        if isinstance(cause, ssl.SSLError) and cause.reason in _NO_TLS:
            return ConfigurationError(f"{url!r} does not speak TLS there: write redis://")
    return None


def hint_of_tls(url: Url, error: BaseException) -> str:
    """What else may be wrong where a server says nothing, or ends the connection at once."""
    if url.scheme == "redis" and "closed by server" in str(error):
        return "; if it takes TLS alone, write rediss://"
    if url.scheme == "rediss" and isinstance(error, TimeoutError):
        return "; if it takes no TLS, write redis://"
    return ""


def _causes(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
