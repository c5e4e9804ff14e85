"""Opening the file: what is checked, how it is set up, and how its write lock is taken.

Plain and blocking. Whatever SQLite raises passes through here as it is; the drivers say it in our
words (`translated`).
"""

import os
import sqlite3
import stat
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from functools import partial
from importlib.resources import files

from asyncq.config import Url, query_of, sqlite_path
from asyncq.errors import BackendError, BackendUnavailable, BrokerError, ConfigurationError

APPLICATION_ID = 0x61737171  # "asqq": says whose database the file is
SCHEMA_VERSION = 7  # each is a step from the one before
OLDEST = (3, 34, 0)  # upsert, row values, JSON; what RHEL 9 has
PATIENCE = 5.0  # seconds to wait for the write lock of other processes
LONGEST_PAUSE = 0.002  # seconds between two tries for it
CHECKPOINT_PAGES = 8000  # 32 MB of log; half of it costs a fourth of the throughput
LOG_LIMIT = 64 * 1024 * 1024  # bytes; more than that means that the log is never begun anew
CUT_PATIENCE = 0.2  # seconds for which writers wait while the log is cut
CACHE_SIZE = 16 * 1024  # KiB

_STEPS = [
    (files(__package__ or __name__) / f"schema-{version}.sql").read_text()
    for version in range(1, SCHEMA_VERSION + 1)
]
_REMEDIES = {
    sqlite3.SQLITE_FULL: ": make room on its disk, it goes on by itself",
    sqlite3.SQLITE_BUSY: f": another program has had its write lock for more than {PATIENCE:g} s; "
    "end its transaction (lsof names who has the file open)",
    sqlite3.SQLITE_READONLY: ": the user of this process has to be able to write the file and its "
    "folder",
    sqlite3.SQLITE_CANTOPEN: ": see that its folder is there and can be written to",
    sqlite3.SQLITE_IOERR: ": see what the system's log says of its disk",
    sqlite3.SQLITE_CORRUPT: ": it is damaged, restore it or name another file",
    sqlite3.SQLITE_NOTADB: ": it is no database any more, restore it or name another file",
}
TOO_LARGE = (
    "SQLite takes no value of more than 1,000,000,000 bytes, or less where it was built so: pass a "
    "reference (a path, a key) instead"
)
_FOREIGN = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)


class SqliteSettings:
    """Where the file is and how it is written: ``sqlite:///asyncq.db?synchronous=normal``."""

    def __init__(self, url: Url) -> None:
        path = os.path.abspath(sqlite_path(url))
        # One file has one name, by whatever way its folder was reached; a link in place of the
        # file itself is refused later, so it is not followed here.
        self.path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        self.durable = query_of(url).get("synchronous", "full").lower() == "full"
        """Whether what was written outlives the machine's power, not only the process."""


@contextmanager
def translated(path: str, unavailable: type[Exception]) -> Generator[None]:
    """Raise ``unavailable`` for what SQLite raises within, with what to do where that is known."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", None)
        if code == sqlite3.SQLITE_TOOBIG:  # it always will be, so nobody is to try again
            kind = BackendError if issubclass(unavailable, BackendUnavailable) else BrokerError
            raise kind(f"{path}: {error}: {TOO_LARGE}") from error
        remedy = "" if code is None else _REMEDIES.get(code & 0xFF, "")
        raise unavailable(f"{path}: {error}{remedy}") from error


def connect(path: str) -> sqlite3.Connection:
    """Open the file, or make it. The connection may be handed from thread to thread.

    Raises:
        ConfigurationError: this file, or this SQLite, will not do.
        sqlite3.Error: it might do later.
    """
    _check_library()
    _prepare_file(path)
    try:
        connection = sqlite3.connect(
            path,
            timeout=PATIENCE,
            isolation_level=None,  # transactions are ours
            check_same_thread=False,
            cached_statements=256,
        )
    except sqlite3.OperationalError as error:
        raise ConfigurationError(f"{path} cannot be opened: {error}") from error
    try:
        _set_up(connection, path)
    except sqlite3.DatabaseError as error:
        connection.close()
        code = getattr(error, "sqlite_errorcode", None)
        if code in _FOREIGN:
            raise ConfigurationError(
                f"{path} is no SQLite database, or a damaged one: name another file, or restore it"
            ) from error
        if code is not None and code & 0xFF in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}:
            raise ConfigurationError(f"{path} cannot be opened for writing: {error}") from error
        raise
    except BaseException:
        connection.close()
        raise
    return connection


REPLACED = (
    "it was replaced by another file while it was open: put the first one back, or stop all that "
    "use it, remove the -wal and -shm beside it, which belong to the first, and start again"
)


LOG_LOST = (
    "its log, the -wal beside it, was removed or replaced while it was open, and holds the last of "
    "what was accepted: stop all that use the file, and do not kill them: the last to close it "
    "puts that into the file; then start again"
)


class FileMoved(sqlite3.OperationalError):
    """The file that is open has this name no more: nobody would find what is written to it."""


Identity = tuple[int, int]  # of a file: its device, and its number there


def file_at(path: str) -> Identity:
    """Which file has this name.

    Raises:
        FileMoved: none has.
    """
    try:
        return _identity(path)
    except OSError as error:
        raise FileMoved(
            f"it was removed or moved away while it was open ({error.strerror}): put it back, or "
            "restart what uses it, to begin with an empty one"
        ) from error


def log_of(path: str) -> Identity:
    """Which file is its log: what was committed last is there alone, until it is moved.

    Raises:
        FileMoved: none is. While somebody has the file open, its log stays.
    """
    try:
        return _identity(f"{path}-wal")
    except OSError as error:
        raise FileMoved(f"{LOG_LOST} ({error.strerror})") from error


def _identity(path: str) -> Identity:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def begin(connection: sqlite3.Connection, *, durable: bool) -> None:
    """Take the write lock of the file.

    Raises:
        sqlite3.OperationalError: others had it for all of `PATIENCE`.
    """
    roll_back(connection)  # if the disk failed so badly that the last one did not end
    connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
    _patiently(connection, "BEGIN IMMEDIATE")


@contextmanager
def transaction(connection: sqlite3.Connection, *, durable: bool) -> Generator[None]:
    """Everything within, or nothing."""
    begin(connection, durable=durable)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        roll_back(connection)
        raise


def cut_log(connection: sqlite3.Connection, path: str) -> None:
    """Begin the log anew if it has grown too long.

    The checkpoints that SQLite makes by itself wait for nobody, and so never come to the end of the
    log where several processes write without pause. This one has them wait.
    """
    try:
        size = os.stat(f"{path}-wal").st_size
    except FileNotFoundError:
        return
    if size > LOG_LIMIT:
        connection.execute(f"PRAGMA busy_timeout = {int(CUT_PATIENCE * 1000)}")
        connection.execute("PRAGMA wal_checkpoint (TRUNCATE)").fetchone()
        connection.execute("PRAGMA busy_timeout = 0")


def roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:  # some errors have done so already
        with suppress(sqlite3.Error):  # what led here is the one to report
            connection.execute("ROLLBACK")


def _is_busy(error: sqlite3.Error) -> bool:
    return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY


def _check_library() -> None:
    if sqlite3.sqlite_version_info < OLDEST:
        raise ConfigurationError(
            f"this Python has SQLite {sqlite3.sqlite_version}; asyncq needs "
            f"{'.'.join(map(str, OLDEST))} or newer"
        )


def _prepare_file(path: str) -> None:
    """Make the file, for our eyes only; refuse one that others could have put in its place."""
    folder = os.path.dirname(path)
    try:
        mode = os.stat(folder).st_mode
    except OSError as error:
        raise ConfigurationError(f"{path}: there is no folder {folder}: make it first") from error
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise ConfigurationError(
            f"{path}: everybody may write to {folder}, and so replace the file: chmod o-w {folder}"
        )
    for name in (path, f"{path}-wal", f"{path}-shm"):
        if os.path.islink(name):
            raise ConfigurationError(f"{name} is a symbolic link: name the file itself")
    try:
        # Only ever opened when it is new: to close a descriptor of a file that SQLite has open in
        # this process would drop all its locks.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise ConfigurationError(f"{path} is not a file") from None
        if not os.access(path, os.R_OK | os.W_OK):
            raise ConfigurationError(f"{path} may not be read and written by this user") from None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be made: {error.strerror}") from error


def _set_up(connection: sqlite3.Connection, path: str) -> None:
    # Other hands may have put text in that is none; it must not keep us from reading the rest.
    connection.text_factory = partial(str, encoding="utf-8", errors="replace")
    _create_schema(connection, path)
    for pragma in (
        f"cache_size = -{CACHE_SIZE}",
        f"wal_autocheckpoint = {CHECKPOINT_PAGES}",
        f"journal_size_limit = {LOG_LIMIT}",
    ):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # now its log is there


def _create_schema(connection: sqlite3.Connection, path: str) -> None:
    version = _check_owner(connection, path)
    [mode] = _patiently(connection, "PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise ConfigurationError(
            f"{path}: SQLite cannot use its write-ahead log here ({mode} instead): put the file "
            "on a local disk"
        )
    connection.execute("PRAGMA busy_timeout = 0")  # from here on, `begin` waits
    if version == SCHEMA_VERSION:
        return
    with transaction(connection, durable=True):
        version = _pragma(connection, "user_version")  # somebody may have been faster
        for step in _STEPS[version:]:
            for statement in _statements(step):
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _check_owner(connection: sqlite3.Connection, path: str) -> int:
    """The version of the tables; refuse what another program made, or a newer asyncq."""
    connection.execute("BEGIN")  # one look: another process may be making the tables
    version = _pragma(connection, "user_version")
    owner = _pragma(connection, "application_id")
    [tables] = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    connection.execute("COMMIT")
    if owner != APPLICATION_ID and (version or tables):
        raise ConfigurationError(f"{path} is a database of another program: name another file")
    if version > SCHEMA_VERSION:
        raise ConfigurationError(
            f"{path} was made by a newer asyncq (its tables have version {version}, this one knows "
            f"{SCHEMA_VERSION}): upgrade asyncq, or name another file"
        )
    return version


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    [value] = connection.execute(f"PRAGMA {name}").fetchone()
    return value


def _patiently(connection: sqlite3.Connection, statement: str) -> sqlite3.Cursor:
    """Repeat a statement while others have the file.

    SQLite's own waiting backs off to 100 ms between two tries, and so starves beside a process
    that writes without pause; for some statements it does not wait at all.
    """
    deadline = time.monotonic() + PATIENCE
    pause = LONGEST_PAUSE / 16
    while True:
        try:
            return connection.execute(statement)
        except sqlite3.OperationalError as error:
            if not _is_busy(error) or time.monotonic() > deadline:
                raise
        time.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE)


def _statements(script: str) -> list[str]:
    """One by one: `executescript` would commit first."""
    statements, begun = list[str](), ""
    for line in script.splitlines():
        begun += line.partition("--")[0] + "\n"
        if begun.strip() and sqlite3.complete_statement(begun):  # a trigger has some within
            statements.append(begun)
            begun = ""
    return statements
