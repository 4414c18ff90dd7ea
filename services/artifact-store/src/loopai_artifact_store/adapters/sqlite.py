"""What the adapters on SQLite share: threads with connections, transactions, schemas, and errors.

Write-ahead log with ``synchronous=FULL``: a commit that returned survives a power cut. Writers begin ``IMMEDIATE``, so
that what a decision is made on cannot change before its outcome is stored.
"""

import asyncio
import errno
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from loopai_artifact_store.ports import Timer
from loopai_common.errors import StoreUnavailable

T = TypeVar("T")

_BUSY_SECONDS = 5.0
_BUSY_POLL_SECONDS = 0.02


def prepare(path: Path, migrations: Sequence[str]) -> None:
    """Makes the file, and its directory, where they are missing and brings its schema up to date, one script a version.

    Safe for several processes at once. Raises :class:`StoreUnavailable` when the file cannot be written or is newer
    than this program.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, type(error).__name__)
        raise StoreUnavailable(f"its directory cannot be made ({name})") from error
    with _translated(), closing(_connect(path)) as connection:
        _enter_wal_mode(connection)
        with _transaction(connection):
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version > len(migrations):
                raise StoreUnavailable(f"'{path.name}' was written by a newer release; start that release")
            for number, script in enumerate(migrations[version:], start=version + 1):
                for statement in script.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {number}")


class SqliteFile:
    """A file that :func:`prepare` made. Reads run beside writes, each in a thread of its own."""

    def __init__(self, path: Path, timer: Timer) -> None:
        self._timer = timer
        self._writer = _Lane(path, f"{path.stem}-writer")
        self._reader = _Lane(path, f"{path.stem}-reader")

    async def close(self) -> None:
        """Finishes what is running and closes the file."""
        await self._reader.close()
        await self._writer.close()

    async def check(self) -> None:
        """Returns when the file can be written."""
        # Taking the write lock and giving it back finds a file that is read-only, locked up, or gone.
        await self._write("check", lambda connection: None)

    async def _write(self, operation: str, work: Callable[[sqlite3.Connection], T]) -> T:
        def transaction(connection: sqlite3.Connection) -> T:
            with _transaction(connection):
                return work(connection)

        with self._timer(operation):
            return await self._writer.run(transaction)

    async def _read(self, operation: str, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._timer(operation):
            return await self._reader.run(work)


class _Lane:
    """One thread with a connection of its own; a connection that failed is replaced at the next use."""

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._connection: sqlite3.Connection | None = None

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._run, work)

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._executor, self._disconnect)
        self._executor.shutdown()

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            with _translated():
                if self._connection is None:
                    self._connection = _connect(self._path)
                return work(self._connection)
        except StoreUnavailable:
            self._disconnect()
            raise

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def _enter_wal_mode(connection: sqlite3.Connection) -> None:
    # Changing the mode does not wait for other processes that do the same: the busy time-out does not apply to it.
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_BUSY_POLL_SECONDS)
        else:
            return


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


@contextmanager
def snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """All reads within see the file as it is at the first of them."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        # Only these two say something about the file; the others (a broken constraint, a misuse) are bugs of ours.
        if type(error) not in (sqlite3.OperationalError, sqlite3.DatabaseError):
            raise
        # SQLite's own sentence is for the log (it is the cause); callers are told its name for what happened.
        name = getattr(error, "sqlite_errorname", "SQLITE_ERROR")
        raise StoreUnavailable(f"the database cannot be used ({name}); try again") from error


def moment(text: str) -> datetime:
    """The time that a column holds."""
    return datetime.fromisoformat(text).astimezone(UTC)
