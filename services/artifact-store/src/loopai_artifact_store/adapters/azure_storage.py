"""Programs in Azure Blob Storage, all of them in one container::

    <task_id>/<digest>            the bytes, created once; metadata: digest, version, status
    <task_id>/versions/000001     a label: the digest
    <task_id>/active              a label: versions/000001
    <task_id>/versions/000001.json, <task_id>/task.json      documents, for recovery

A container that is missing is made when the first operation finds that out, so the service starts, and recovers, with
an account that is away. Every operation ends within a bound, the SDK's own retries included.
"""

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from http import HTTPStatus
from typing import Any, Final, TypeVar
from uuid import UUID

from azure.core import MatchConditions
from azure.core.credentials_async import AsyncTokenCredential
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.storage.blob import BlobProperties, ContentSettings, StorageErrorCode
from azure.storage.blob.aio import BlobClient, ContainerClient, LinearRetry

from loopai_artifact_store.domain import checked_digest, digest_of
from loopai_artifact_store.ports import Labels, LabelsMoved, LabelTags, StoredProgram, Timer
from loopai_common.contracts.base import Digest, TaskId, Version
from loopai_common.errors import ArtifactCorrupt, ArtifactNotFound, StoreUnavailable, ValidationFailed

T = TypeVar("T")

_DEADLINE_SECONDS: Final = 10.0
"""Of one operation, however often the SDK tries."""
_CONNECT_SECONDS: Final = 2.0
_ANSWER_SECONDS: Final = 4.0
_RETRIES: Final = 2
_ATTEMPTS_TO_MARK: Final = 8
"""Metadata that others change all the time is theirs to set."""

_PLAIN: Final = ContentSettings(content_type="text/plain; charset=utf-8")
_JSON: Final = ContentSettings(content_type="application/json")
_PYTHON: Final = ContentSettings(content_type="text/x-python; charset=utf-8")
_TASK: Final = "task.json"
_ACTIVE: Final = "active"
_VERSIONS: Final = "versions"
_VERSION_LABEL: Final = re.compile(r"versions/(\d{6,10})(\.json)?")


class AzureStorage:
    """Programs in a container of an account. Nothing connects before the first operation."""

    def __init__(
        self, container: ContainerClient, timer: Timer, *, credential: AsyncTokenCredential | None = None
    ) -> None:
        self._container = container
        self._timer = timer
        self._credential = credential

    @classmethod
    def by_connection_string(cls, connection_string: str, container: str, timer: Timer) -> "AzureStorage":
        """By an account's key. Raises :class:`ValueError` for what is no connection string."""
        return cls(ContainerClient.from_connection_string(connection_string, container, **_limits()), timer)

    @classmethod
    def by_identity(cls, account_url: str, container: str, timer: Timer) -> "AzureStorage":
        """By the identity that this machine has. Raises :class:`ValueError` for an account without HTTPS."""
        from azure.identity.aio import DefaultAzureCredential  # slow to import, and needed by few

        if not account_url.startswith("https://"):
            raise ValueError("the URL of the account must begin with https://, because a token is sent there")
        credential = DefaultAzureCredential()
        client = ContainerClient(account_url, container, credential=credential, **_limits())
        return cls(client, timer, credential=credential)

    async def close(self) -> None:
        """Closes the connections."""
        async with AsyncExitStack() as stack:
            if self._credential is not None:
                stack.push_async_callback(self._credential.close)
            stack.push_async_callback(self._container.close)

    async def put(self, task_id: TaskId, digest: Digest, content: bytes) -> None:
        blob = self._blob(_program(task_id, digest))

        async def work() -> None:
            try:
                await _create(blob, content, _PYTHON, {"digest": digest})
            except ResourceExistsError:
                await _put_again(blob, digest, content)

        await self._run("put", work)

    async def get(self, task_id: TaskId, digest: Digest) -> bytes:
        blob = self._blob(_program(task_id, digest))

        async def work() -> bytes:
            try:
                content = await _read(blob)
            except ResourceNotFoundError as error:
                if _is_container_missing(error):
                    raise
                raise ArtifactNotFound(f"program {digest} of task {task_id} is not stored") from error
            if digest_of(content) != digest:
                raise ArtifactCorrupt(f"the stored bytes of program {digest} of task {task_id} do not match the digest")
            return content

        return await self._run("get", work)

    async def delete(self, program: StoredProgram) -> None:
        blob = self._blob(_program(program.task_id, program.digest))

        async def work() -> None:
            try:
                await blob.delete_blob(if_unmodified_since=program.touched_at)
            except (ResourceNotFoundError, ResourceModifiedError) as error:
                if _is_container_missing(error):
                    raise

        await self._run("delete", work)

    async def label_tags(self, task_id: TaskId, versions: Sequence[Version] = ()) -> LabelTags:
        labels = [_label(version) for version in versions]
        names = [_TASK, _ACTIVE, *labels, *(f"{label}.json" for label in labels)]

        async def work() -> LabelTags:
            tags = await asyncio.gather(*(_tag(self._blob(f"{task_id}/{name}")) for name in names))
            return {name: tag for name, tag in zip(names, tags, strict=True) if tag is not None}

        return await self._run("label_tags", work)

    async def label(self, task_id: TaskId, labels: Labels, *, since: LabelTags) -> None:
        programs = {version: self._blob(_program(task_id, digest)) for version, digest in labels.digests.items()}

        async def move(name: str, content: str, kind: ContentSettings) -> str | None:
            return await _move(self._blob(f"{task_id}/{name}"), content, kind, since.get(name))

        async def name_version(version: Version) -> None:
            await move(f"{_label(version)}.json", labels.documents[version], _JSON)
            await move(_label(version), labels.digests[version], _PLAIN)
            await _mark(programs[version], {"version": str(version)}, {"status": "stored"})

        async def name_active(version: Version) -> None:
            before = await move(_ACTIVE, _label(version), _PLAIN)
            if before is not None and before != _label(version):
                await self._mark_version(f"{task_id}/{before}", "deprecated")
            await self._mark_version(f"{task_id}/{_label(version)}", "active")

        for version in labels.digests:
            await self._run("label", partial(name_version, version))
        if labels.task is not None:
            await self._run("label", partial(move, _TASK, labels.task, _JSON))
        if labels.active is not None:
            await self._run("label", partial(name_active, labels.active))

    async def labels(self, task_id: TaskId) -> Labels:
        task: str | None = None
        active: Version | None = None
        digests: dict[Version, Digest] = {}
        documents: dict[Version, str] = {}
        async for properties in self._listed(name_starts_with=f"{task_id}/"):
            name = str(properties.name).partition("/")[2]
            version = _VERSION_LABEL.fullmatch(name)
            if name not in (_TASK, _ACTIVE) and version is None:
                continue
            text = await self._text(str(properties.name))
            if name == _TASK:
                task = text
            elif name == _ACTIVE:
                target = _VERSION_LABEL.fullmatch(text)
                active = None if target is None else Version(int(target[1]))
            elif version is not None and version[2]:
                documents[Version(int(version[1]))] = text
            elif version is not None:
                digests[Version(int(version[1]))] = Digest(text)
        return Labels(task, digests, documents, active)

    async def labelled(self) -> AsyncIterator[TaskId]:
        known: TaskId | None = None
        async for properties in self._listed():
            try:
                task_id = TaskId(UUID(str(properties.name).partition("/")[0]))
            except ValueError:
                continue  # not everything in there need be ours
            if task_id != known:  # they are listed in the order of their names
                yield task_id
                known = task_id

    async def stored(self) -> AsyncIterator[StoredProgram]:
        async for properties in self._listed():
            program = _stored_program(properties)
            if program is not None:
                yield program

    async def check(self) -> None:
        blob = self._blob(f".probe-{secrets.token_hex(8)}")

        async def work() -> None:
            await _create(blob, b"probe", _PLAIN, {})
            try:
                if await _read(blob) != b"probe":
                    raise StoreUnavailable("Azure Blob Storage gives back other bytes than were written")
            finally:
                await blob.delete_blob()

        await self._run("check", work)

    async def _listed(self, name_starts_with: str | None = None) -> AsyncIterator[BlobProperties]:
        pages = self._container.list_blobs(name_starts_with=name_starts_with).by_page()
        while (found := await self._run("list", lambda: _next_page(pages))) is not None:
            for properties in found:
                yield properties

    async def _text(self, name: str) -> str:
        return (await self._run("get_label", lambda: _read(self._blob(name)))).decode("utf-8", "replace")

    def _blob(self, name: str) -> BlobClient:
        return self._container.get_blob_client(name)

    async def _mark_version(self, label: str, status: str) -> None:
        """Writes the status beside the program that the label names."""
        try:
            digest = checked_digest(Digest((await _read(self._blob(label))).decode()))
        except ResourceNotFoundError as error:
            if _is_container_missing(error):
                raise
            return  # somebody removed the label, which relabelling writes again
        await _mark(self._blob(f"{label.partition('/')[0]}/{digest}"), {"status": status}, {})

    async def _run(self, operation: str, work: Callable[[], Awaitable[T]]) -> T:
        with self._timer(operation):
            try:
                async with asyncio.timeout(_DEADLINE_SECONDS):
                    try:
                        return await work()
                    except ResourceNotFoundError as error:
                        if not _is_container_missing(error):
                            raise
                        await self._make_container()
                        return await work()
            except TimeoutError as error:
                raise StoreUnavailable("Azure Blob Storage does not answer in time; try again") from error
            except AzureError as error:
                raise StoreUnavailable(_sentence(error)) from error

    async def _make_container(self) -> None:
        try:
            await self._container.create_container()
        except ResourceExistsError as error:
            if _code(error) != StorageErrorCode.CONTAINER_ALREADY_EXISTS:
                raise  # it is being deleted, which takes Azure half a minute


def _limits() -> dict[str, Any]:
    return {
        "retry_policy": LinearRetry(backoff=1, retry_total=_RETRIES, random_jitter_range=1),
        "connection_timeout": _CONNECT_SECONDS,
        "read_timeout": _ANSWER_SECONDS,
    }


def _program(task_id: TaskId, digest: Digest) -> str:
    return f"{task_id}/{checked_digest(digest)}"


async def _create(blob: BlobClient, content: bytes, kind: ContentSettings, metadata: Mapping[str, str]) -> None:
    """Raises :class:`ResourceExistsError` when the blob is there."""
    # Without overwrite the SDK sends If-None-Match: *.
    await blob.upload_blob(content, overwrite=False, content_settings=kind, metadata=dict(metadata))


async def _put_again(blob: BlobClient, digest: Digest, content: bytes) -> None:
    """Touches a blob that is there, so that no sweep takes it, and mends one whose bytes are not right."""
    properties = await blob.get_blob_properties()
    metadata = dict(properties.metadata)
    if await _read(blob) == content:
        await blob.set_blob_metadata(metadata)
    else:
        unchanged: dict[str, Any] = {"etag": properties.etag, "match_condition": MatchConditions.IfNotModified}
        await blob.upload_blob(
            content, overwrite=True, content_settings=_PYTHON, metadata=metadata | {"digest": digest}, **unchanged
        )


async def _read(blob: BlobClient) -> bytes:
    # One stream: programs are small, and parts that are fetched side by side would be put together unchecked.
    return await (await blob.download_blob(max_concurrency=1)).readall()


async def _tag(blob: BlobClient) -> str | None:
    """The blob's ETag; ``None`` when it is not there."""
    try:
        return str((await blob.get_blob_properties()).etag)
    except ResourceNotFoundError as error:
        if _is_container_missing(error):
            raise
        return None


async def _move(blob: BlobClient, text: str, kind: ContentSettings, tag: object) -> str | None:
    """Writes the blob over what it was when ``tag`` was taken, and returns that; ``None`` when it was not there.

    Raises :class:`LabelsMoved` when it is something else by now.
    """
    moved = LabelsMoved("a label was moved by another one; try again")
    try:
        if tag is None:
            await _create(blob, text.encode(), kind, {})
            return None
        download = await blob.download_blob(
            max_concurrency=1, etag=str(tag), match_condition=MatchConditions.IfNotModified
        )
        before = (await download.readall()).decode("utf-8", "replace")
        if before != text:
            await blob.upload_blob(
                text.encode(),
                overwrite=True,
                content_settings=kind,
                etag=str(tag),
                match_condition=MatchConditions.IfNotModified,
            )
    except (ResourceExistsError, ResourceModifiedError) as error:
        raise moved from error
    except ResourceNotFoundError as error:
        if _is_container_missing(error):
            raise
        raise moved from error
    return before


def _label(version: Version) -> str:
    return f"{_VERSIONS}/{version:06d}"


async def _mark(blob: BlobClient, values: Mapping[str, str], defaults: Mapping[str, str]) -> None:
    """Changes the metadata of a program, over what it was when it was read; a program that is gone is left alone."""
    for _ in range(_ATTEMPTS_TO_MARK):
        try:
            properties = await blob.get_blob_properties()
            metadata = {**defaults, **properties.metadata, **values}
            if metadata != properties.metadata:
                await blob.set_blob_metadata(
                    metadata, etag=properties.etag, match_condition=MatchConditions.IfNotModified
                )
        except ResourceModifiedError:
            continue
        except ResourceNotFoundError as error:
            if _is_container_missing(error):
                raise
        return


async def _next_page(pages: Any) -> list[BlobProperties] | None:
    try:
        return [properties async for properties in await anext(pages)]
    except StopAsyncIteration:
        return None


def _stored_program(properties: BlobProperties) -> StoredProgram | None:
    task, _, digest = str(properties.name).partition("/")
    try:
        return StoredProgram(TaskId(UUID(task)), checked_digest(Digest(digest)), properties.last_modified)
    except (ValueError, ValidationFailed):  # not everything in there need be a program of ours
        return None


def _is_container_missing(error: AzureError) -> bool:
    return _code(error) == StorageErrorCode.CONTAINER_NOT_FOUND


def _code(error: AzureError) -> str:
    """Azure's name for what happened, which the SDK sets beside the class of the error."""
    code = getattr(error, "error_code", None) or type(error).__name__
    return str(getattr(code, "value", code))


def _sentence(error: AzureError) -> str:
    """What happened, without what Azure adds: that may name accounts and hold signatures."""
    code = _code(error)
    status = error.status_code if isinstance(error, HttpResponseError) else None
    if isinstance(error, ClientAuthenticationError) or status == HTTPStatus.FORBIDDEN:
        return f"Azure Blob Storage refuses this identity ({code}); check the account's key, or the identity's role"
    if status is not None and status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return f"Azure Blob Storage refuses the request ({code}); check the account and the name of the container"
    return f"Azure Blob Storage cannot be used ({code}); try again"
