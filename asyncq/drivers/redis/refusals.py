"""What Redis means when it cannot do what it was asked, and what to do about that."""

import re
import ssl
from collections.abc import Mapping
from typing import Any

import hiredis
from redis import exceptions

from asyncq.config import Url
from asyncq.errors import BackendUnavailable, BrokerUnavailable, ConfigurationError

# The set-up is wrong: nothing but a change mends it.
FORBIDDEN: Mapping[str, str] = {
    "NOAUTH": "it wants a password (NOAUTH): write redis://:password@host, or redis://user:password@host",
    "WRONGPASS": "user or password is wrong (WRONGPASS), or the user is disabled: see ACL LIST",
}
# The server is there but cannot serve us now: reconnecting (to the next master, say) may help.
PASSING: Mapping[str, str] = {
    "OOM": "its memory is full (OOM, maxmemory is reached): make room, or raise maxmemory",
    "MISCONF": "it cannot write its files (MISCONF): see its log, and the room on its disk",
    "LOADING": "it loads its data from disk (LOADING), which ends by itself",
    "READONLY": "it is a replica, which takes no writes (READONLY): name its master in the URL, "
    "unless it is about to become one",
    "MASTERDOWN": "it is a replica that has lost its master (MASTERDOWN)",
    "NOREPLICAS": "it has too few replicas to write (NOREPLICAS): see min-replicas-to-write",
    "BUSY": "a script of somebody keeps it busy (BUSY): SCRIPT KILL ends it",
    "CLUSTERDOWN": "",
    "TRYAGAIN": "",
    "UNKILLABLE": "",
}
# Inside of a script, where it says so in words of its own.
_NOT_IN_SCRIPT = re.compile(r"user executing the script can't|ACL failure in script")
_NO_DATABASE = re.compile(r"DB index is out of range|invalid DB index", re.IGNORECASE)
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNEXPECTED_EOF_WHILE_READING")

ENOUGH = 4  # words of a command, until its key has come: EVALSHA, sha, 1, key


class BrokerCannotServe(BrokerUnavailable):
    """It answers, and says why not now: another reason than no answer, for who reads the log."""


class BackendCannotServe(BackendUnavailable):
    """As `BrokerCannotServe`."""


class NoPermission(ConfigurationError):
    """The user may not use a command or a key; the message says what was asked."""


def refusal(url: str, code: str, said: str, asked: str = "") -> ConfigurationError | None:
    """What to raise for an answer that only a change of the set-up mends; else None."""
    if code == "NOPERM" or _NOT_IN_SCRIPT.search(said):
        return NoPermission(
            f"{url} refuses us: the user lacks rights{asked}; ACL SETUSER gives them: "
            f"+command to a command, ~prefix:* to keys, &prefix:* to channels ({said})"
        )
    if "without any password configured" in said:
        return ConfigurationError(
            f"{url} refuses us: the server has no password, and the URL has one: take it out "
            f"({said})"
        )
    if code in FORBIDDEN:
        return ConfigurationError(f"{url} refuses us: {FORBIDDEN[code]} ({said})")
    if _NO_DATABASE.search(said):
        return ConfigurationError(
            f"{url}: the server has no database of this number ({said}): write a lower one, or "
            "raise 'databases' in redis.conf (16 unless it says otherwise)"
        )
    if "unknown command" in said:
        return ConfigurationError(
            f"{url} cannot be used: it lacks a command that asyncq needs{asked}, or another name "
            f"was given to it ({said})"
        )
    return None


def refusal_to_connect(url: Url, error: Exception) -> ConfigurationError | None:
    """As `refusal`, for what redis-py raises while it connects."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return ConfigurationError(
                f"{url!r} has a certificate that we do not trust: {cause.verify_message}; "
                "name its authority with ?ssl_ca_certs="
            )
        if isinstance(cause, ssl.SSLError) and cause.reason in _NO_TLS:
            return ConfigurationError(f"{url!r} does not speak TLS there: write redis://")
    said = str(error)
    if isinstance(error, exceptions.AuthenticationError):  # it has taken the code away
        code = "NOAUTH" if said.startswith("Authentication") else "WRONGPASS"
    elif isinstance(error, exceptions.NoPermissionError):
        code = "NOPERM"
    elif isinstance(error, exceptions.ResponseError):
        code = said.partition(" ")[0]
    else:
        return None
    return refusal(repr(url), code, said) or ConfigurationError(f"{url!r} refuses us: {said}")


def hint_of_tls(url: Url, error: BaseException) -> str:
    """What else may be wrong where a server says nothing, or ends the connection at once."""
    if url.scheme == "redis" and "closed by server" in str(error):
        return "; if it takes TLS alone, write rediss://"
    if url.scheme == "rediss" and isinstance(error, TimeoutError):
        return "; if it takes no TLS, write redis://"
    return ""


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


def asked_for(packed: bytes, place: int = 0) -> str:
    """How a message goes on that says what was asked with the command at this place of some.

    Only asked when it was refused, so nothing is kept for it.
    """
    commands = hiredis.Reader()  # a command is packed as an answer is
    commands.feed(packed)
    command: Any = [commands.gets() for _ in range(place + 1)][place]
    if not command:
        return ""
    words = [word[:200].decode(errors="replace") for word in command[:ENOUGH]]
    is_script = words[0] in {"EVAL", "EVALSHA"}
    keys = words[3:4] if is_script else words[1:2]
    about = f" on {keys[0]!r}" if keys else ""
    return f" for {words[0]}{about}{' and the keys that begin so' if is_script else ''}"


def _causes(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
