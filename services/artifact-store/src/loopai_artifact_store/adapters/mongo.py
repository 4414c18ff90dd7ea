"""What the adapters on MongoDB share: the client, deadlines, transactions, indexes, and errors.

A write returns when a majority of the replica set has it in its journals; a read sees what a majority has, and comes
from the primary. So nothing that was answered is lost when the primary is, and whoever wrote finds what it wrote.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC
from typing import Any, Final, TypeVar
from weakref import WeakValueDictionary

import pymongo
from pymongo import AsyncMongoClient, IndexModel, MongoClient
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.cursor import AsyncCursor
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    ConnectionFailure,
    DuplicateKeyError,
    InvalidName,
    OperationFailure,
    PyMongoError,
)
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern

from loopai_artifact_store.domain import MAX_PAGE_BYTES, Page
from loopai_artifact_store.ports import Timer
from loopai_common.errors import StoreUnavailable
from loopai_common.runtime.service import StartRefused

T = TypeVar("T")
Document = dict[str, Any]

Indexes = Mapping[str, Sequence[IndexModel]]
"""By collection."""

_DEADLINE_SECONDS: Final = 5.0
"""No operation takes longer, all its attempts included, whatever has become of the server."""

_LONGEST_QUEUE_SECONDS: Final = 30.0

_MAJORITY: Final = WriteConcern("majority", j=True)
_COMMITTED: Final = ReadConcern("majority")
_SNAPSHOT: Final = ReadConcern("snapshot")

_OLDEST_WIRE_VERSION: Final = 17  # MongoDB 6.0
_WRITE_CONFLICT: Final = 112
_DUPLICATE_KEY: Final = 11000
_INDEX_OPTIONS_CONFLICT: Final = 85
_UNAUTHORIZED: Final = frozenset({13, 18, 8000})
_LONGEST_PAUSE_SECONDS: Final = 0.03


def prepare_mongo(url: str, database: str, indexes: Indexes) -> None:
    """Makes the indexes, by collection, where they are missing, and changes how long those that expire keep documents.

    ``database`` counts where ``url`` names none. Safe for several processes at once. Raises
    :class:`StoreUnavailable` when MongoDB does not answer, and :class:`StartRefused` for a server or an address that
    can never do.
    """
    try:
        with _translated(), MongoClient[Document](url, **_options()) as client:
            _check_server(client.admin.command("hello"))
            target = client.get_default_database(database, write_concern=_MAJORITY)
            for collection, models in indexes.items():
                for model in models:
                    try:
                        target[collection].create_indexes([model])
                    except OperationFailure as error:
                        if error.code != _INDEX_OPTIONS_CONFLICT or "expireAfterSeconds" not in model.document:
                            raise
                        wanted = {key: model.document[key] for key in ("name", "expireAfterSeconds")}
                        target.command("collMod", collection, index=wanted)
    except (ConfigurationError, InvalidName, ValueError) as error:
        raise StartRefused(f"the connection string of MongoDB cannot be used: {error}") from error
    except StoreUnavailable as error:
        if isinstance(error.__cause__, OperationFailure) and error.__cause__.code in _UNAUTHORIZED:
            raise StartRefused(
                "MongoDB does not let this service in; check the user and the password in the connection string, and "
                "that the user may read and write the database and make its indexes"
            ) from error
        raise


class MongoDatabase:
    """A database that :func:`prepare_mongo` prepared, and the pool of connections to it. Opens them when used."""

    def __init__(self, url: str, database: str) -> None:
        self.client: AsyncMongoClient[Document] = AsyncMongoClient(url, **_options())
        self._database = self.client.get_default_database(
            database, read_concern=_COMMITTED, write_concern=_MAJORITY, read_preference=ReadPreference.PRIMARY
        )
        self._turns: WeakValueDictionary[Hashable, _Turn] = WeakValueDictionary()

    def __getitem__(self, collection: str) -> AsyncCollection[Document]:
        return self._database[collection]

    async def close(self) -> None:
        """Closes every connection."""
        await self.client.close()

    @asynccontextmanager
    async def turn(self, key: Hashable) -> AsyncIterator[None]:
        """One at a time for each ``key`` in this process, which would only make each other start again in MongoDB.

        Who waits for one that MongoDB fails does not try as well: otherwise each would wait for the deadlines of all.
        """
        turn = self._turns.setdefault(key, _Turn())
        try:
            async with asyncio.timeout(_LONGEST_QUEUE_SECONDS):
                await turn.lock.acquire()
        except TimeoutError as error:
            raise StoreUnavailable("too many changes of the same thing wait for MongoDB; try again") from error
        try:
            if turn.lost:
                raise StoreUnavailable("MongoDB failed those who waited before; try again")
            yield
        except StoreUnavailable:
            turn.lost = True
            if self._turns.get(key) is turn:
                del self._turns[key]
            raise
        finally:
            turn.lock.release()

    async def transaction(self, work: Callable[[AsyncClientSession], Awaitable[T]]) -> T:
        """Does ``work`` as if nobody else were there; asks for it again, after a random while, when somebody was.

        A commit whose answer was lost is asked for again, which is safe. Raises what ``work`` raises; then nothing
        changed. Belongs inside an operation, whose deadline ends the attempts.
        """

        async def attempt(session: AsyncClientSession) -> T:
            try:
                return await work(session)
            except OperationFailure as error:
                if _somebody_was_faster(error):
                    raise _Again from error
                raise

        async with self.client.start_session() as session:
            while True:
                try:
                    return await session.with_transaction(
                        attempt, read_concern=_SNAPSHOT, write_concern=_MAJORITY, read_preference=ReadPreference.PRIMARY
                    )
                except _Again:
                    # PyMongo's own pauses grow to half a second, in which one that is busier always comes first.
                    await asyncio.sleep(random.uniform(0, _LONGEST_PAUSE_SECONDS))  # noqa: S311  # chance

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[AsyncClientSession]:
        """Reads in this session see one moment."""
        async with self.client.start_session(snapshot=True) as session:
            yield session


@dataclass(eq=False)
class _Turn:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    lost: bool = False


class _Again(Exception):
    """Somebody else was faster; what the next attempt reads is what they made of it."""


class MongoAdapter:
    """An adapter whose operations are measured, bounded in time, and fail with errors of ours."""

    _port: str

    def __init__(self, database: MongoDatabase, timer: Timer) -> None:
        self._database = database
        self._timer = timer

    async def check(self) -> None:
        """Returns when a majority of the replica set takes a write."""
        with self._operation("check"):
            await self._database["checks"].update_one({"_id": self._port}, {"$currentDate": {"at": True}}, upsert=True)

    @contextmanager
    def _operation(self, name: str) -> Iterator[None]:
        with self._timer(name), _bounded():
            yield

    @asynccontextmanager
    async def _operation_in_turn(self, name: str, key: Hashable) -> AsyncIterator[None]:
        with self._timer(name):
            async with self._database.turn(key):
                with _bounded():
                    yield


async def take_page(cursor: AsyncCursor[Document], limit: int, size_bytes: Callable[[Document], int]) -> Page[Document]:
    """As the domain's, of documents that arrive one after another."""
    taken: list[Document] = []
    total = 0
    async with cursor:
        async for document in cursor:
            total += size_bytes(document)
            if len(taken) == limit or (taken and total > MAX_PAGE_BYTES):
                return Page(tuple(taken), more=True)
            taken.append(document)
    return Page(tuple(taken), more=False)


def _options() -> Document:
    return {
        "appname": "loopai-artifact-store",
        "tz_aware": True,
        "tzinfo": UTC,
        "uuidRepresentation": "standard",
        "retryWrites": True,
        "retryReads": True,
        "connectTimeoutMS": 2000,
        "heartbeatFrequencyMS": 1000,  # how soon a server that is back is used again
        "serverSelectionTimeoutMS": round(_DEADLINE_SECONDS * 1000),
    }


def _check_server(hello: Mapping[str, Any]) -> None:
    if "setName" not in hello and hello.get("msg") != "isdbgrid":
        raise StartRefused(
            "MongoDB is a single server without transactions; start it with --replSet and run rs.initiate() once "
            "(a replica set of one member will do), or give the address of a replica set"
        )
    if hello["maxWireVersion"] < _OLDEST_WIRE_VERSION:
        raise StartRefused("MongoDB is older than 6.0; upgrade it")


def is_duplicate(error: OperationFailure) -> bool:
    """Whether what was inserted is there already."""
    return _codes(error) == {_DUPLICATE_KEY}


def _somebody_was_faster(error: OperationFailure) -> bool:
    """Whether what the transaction writes was written by another one, before its end or since this one began."""
    return _codes(error) <= {_WRITE_CONFLICT, _DUPLICATE_KEY}


def _codes(error: OperationFailure) -> set[int | None]:
    return {failure["code"] for failure in (error.details or {}).get("writeErrors", ())} or {error.code}


@contextmanager
def _bounded() -> Iterator[None]:
    with _translated(), pymongo.timeout(_DEADLINE_SECONDS):
        yield


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (DuplicateKeyError, BulkWriteError):
        raise  # says nothing about the server: a bug of ours
    except (ConnectionFailure, OperationFailure) as error:
        # MongoDB's own sentence is for the log (it is the cause); callers are told its name for what happened.
        details = error.details if isinstance(error, OperationFailure) else None
        name = (details or {}).get("codeName") or type(error).__name__
        raise StoreUnavailable(f"MongoDB cannot be used ({name}); try again") from error
    except PyMongoError as error:
        if not error.timeout:
            raise
        raise StoreUnavailable("MongoDB did not answer in time; try again") from error
