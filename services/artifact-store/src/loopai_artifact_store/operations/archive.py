"""The archive: whole tasks with their programs in one ZIP file, described in ``docs/backup.md``.

Two archives of the same content are the same bytes. A reader trusts nothing: names, sizes and places are checked when
the file is opened, and every member against its digest whenever it is read.
"""

import hashlib
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Final, Literal, Self
from uuid import UUID

from pydantic import Field, ValidationError

from loopai_artifact_store.documents import BadDocument, decode_copy
from loopai_artifact_store.domain import TaskCopy, flaws
from loopai_common import json_text as strict_json
from loopai_common.contracts.artifacts import MAX_CODE_BYTES
from loopai_common.contracts.base import Contract, Digest, DigestText, TaskId
from loopai_common.contracts.execution import ExecutionRecord
from loopai_common.errors import LoopaiError, MalformedJson, PayloadTooLarge

FORMAT_VERSION: Final = 1
MAX_TASK_BYTES: Final = 256 * 1024 * 1024
MAX_RECORD_BYTES: Final = 16 * 1024 * 1024
_MAX_MANIFEST_BYTES: Final = 256 * 1024 * 1024
_NO_LIMIT: Final = 1 << 62

_MANIFEST: Final = "manifest.json"
_UUID: Final = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_LIMITS: Final = (
    (re.compile(rf"tasks/({_UUID})\.json"), MAX_TASK_BYTES),
    (re.compile(r"programs/[0-9a-f]{64}\.py"), MAX_CODE_BYTES),
    (re.compile(rf"executions/({_UUID})\.jsonl"), _NO_LIMIT),
    (re.compile(re.escape(_MANIFEST)), _MAX_MANIFEST_BYTES),
)
"""The members there can be, and how large each may be. Executions are read line by line."""

_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
_MODE: Final = 0o600 << 16
_UNIX: Final = 3
_ENCRYPTED: Final = 0x1
_CHUNK_BYTES: Final = 64 * 1024


class BadArchive(LoopaiError):
    """The file is no archive of Loopai, or not a whole and unharmed one."""

    code = "bad_archive"
    remedy = "Use another copy of the archive; nothing was imported from this one."


class Member(Contract):
    """An entry of the manifest."""

    path: str
    digest: DigestText
    size_bytes: int = Field(ge=0)


class Manifest(Contract):
    """What an archive holds, sorted by path."""

    format: Literal["loopai-archive"]
    format_version: int
    members: tuple[Member, ...]


class ArchiveWriter:
    """Writes an archive into a file that can be sought in; it is one when :meth:`finish` was called."""

    def __init__(self, file: IO[bytes]) -> None:
        self._zip = zipfile.ZipFile(file, "w")
        self._members: dict[str, Member] = {}

    def has_program(self, digest: Digest) -> bool:
        """Whether the program is in the archive already, for this task or another."""
        return _program_path(digest) in self._members

    def add_program(self, digest: Digest, content: bytes) -> None:
        """Adds a program, which is not in the archive yet."""
        self._add(_program_path(digest), [content])

    def add_task(self, task_id: TaskId, text: str) -> None:
        """Adds a task; raises :class:`PayloadTooLarge` for one that no reader would take."""
        content = text.encode()
        if len(content) > MAX_TASK_BYTES:
            raise PayloadTooLarge(f"task {task_id} takes {len(content)} bytes; an archive carries {MAX_TASK_BYTES}")
        self._add(f"tasks/{task_id}.json", [content])

    @contextmanager
    def records(self, task_id: TaskId) -> Iterator[Callable[[ExecutionRecord], None]]:
        """Adds records of executions of a task, one after the other."""
        path = f"executions/{task_id}.jsonl"
        with self._member(path) as write:
            yield lambda record: write(record.model_dump_json().encode() + b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # the file is full or gone, which the caller knows from what was written before
            self._zip.close()

    def finish(self) -> None:
        """Writes the manifest, which makes the archive a whole one."""
        members = tuple(self._members[path] for path in sorted(self._members))
        manifest = Manifest(format="loopai-archive", format_version=FORMAT_VERSION, members=members)
        self._add(_MANIFEST, [manifest.model_dump_json(indent=1).encode()])
        self._zip.close()

    def _add(self, path: str, content: list[bytes]) -> None:
        with self._member(path) as write:
            for part in content:
                write(part)

    @contextmanager
    def _member(self, path: str) -> Iterator[Callable[[bytes], None]]:
        info = zipfile.ZipInfo(path, _EPOCH)
        info.compress_type, info.external_attr, info.create_system = zipfile.ZIP_DEFLATED, _MODE, _UNIX
        hashed, size = hashlib.sha256(), 0
        with self._zip.open(info, "w", force_zip64=True) as member:

            def write(part: bytes) -> None:
                nonlocal size
                member.write(part)
                hashed.update(part)
                size += len(part)

            yield write
        self._members[path] = Member(path=path, digest=Digest(f"sha256:{hashed.hexdigest()}"), size_bytes=size)


class Archive:
    """An archive that is read. Every method raises :class:`BadArchive` for what is not as it was written."""

    def __init__(self, path: Path) -> None:
        """Opens the file and checks its directory and manifest; raises :class:`OSError` where it cannot be read."""
        with _refusing():
            self._zip = zipfile.ZipFile(path)
        try:
            self._infos = _checked_infos(self._zip)
            self._members = self._read_manifest()
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def task_ids(self) -> list[TaskId]:
        """The tasks of the archive, in the order of their ids."""
        return self._ids("tasks/")

    def verify(self) -> None:
        """Reads everything: whether it is what the manifest promises, and fits together."""
        for path in self._members:
            if path.startswith("programs/"):
                self._read(path)
        for task_id in self.task_ids():
            self.task(task_id)
        for task_id in self.record_ids():
            for _ in self.records(task_id):
                pass

    def task(self, task_id: TaskId) -> TaskCopy:
        """One task, whose programs are in the archive."""
        path = f"tasks/{task_id}.json"
        try:
            copy = decode_copy(self._read(path))
        except BadDocument as error:
            raise BadArchive(f"{path}: {error.message}") from error
        if copy.task.id != task_id:
            raise BadArchive(f"{path} holds another task")
        if found := flaws(copy):
            raise BadArchive(f"task '{copy.task.name}': {found[0].sentence}")
        for artifact in copy.artifacts:
            document = artifact.document
            member = self._members.get(_program_path(document.digest))
            if member is None or member.digest != document.digest or member.size_bytes != document.size_bytes:
                raise BadArchive(f"task '{copy.task.name}': the program of version {artifact.version} is not there")
        return copy

    def program(self, digest: Digest) -> bytes:
        """The code of a program."""
        return self._read(_program_path(digest))

    def record_ids(self) -> list[TaskId]:
        """The tasks with records of executions, in the order of their ids."""
        return self._ids("executions/")

    def records(self, task_id: TaskId) -> Iterator[ExecutionRecord]:
        """The records of executions of a task, newest first."""
        path = f"executions/{task_id}.jsonl"
        rest = b""
        for chunk in self._chunks(path):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > MAX_RECORD_BYTES:
                raise BadArchive(f"{path} has a line of more than {MAX_RECORD_BYTES} bytes")
            for line in lines:
                yield _record(path, task_id, line)
        if rest:
            raise BadArchive(f"{path} ends within a line")

    def _ids(self, folder: str) -> list[TaskId]:
        return [TaskId(UUID(PurePosixPath(path).stem)) for path in self._members if path.startswith(folder)]

    def _read(self, path: str) -> bytes:
        return b"".join(self._chunks(path))

    def _chunks(self, path: str) -> Iterator[bytes]:
        """The member in parts; the end is reached only when all of them match the manifest."""
        member = self._members[path]
        hashed, size = hashlib.sha256(), 0
        with _refusing(), self._zip.open(self._infos[path]) as file:
            while chunk := file.read(_CHUNK_BYTES):
                hashed.update(chunk)
                size += len(chunk)
                yield chunk
        if size != member.size_bytes or f"sha256:{hashed.hexdigest()}" != member.digest:
            raise BadArchive(f"{path} does not match its digest in the manifest")

    def _read_manifest(self) -> dict[str, Member]:
        info = self._infos.get(_MANIFEST)
        if info is None:
            raise BadArchive("there is no manifest.json in the file; it is no archive of Loopai")
        with _refusing(), self._zip.open(info) as file:
            text = file.read(_MAX_MANIFEST_BYTES)
        try:
            decoded = strict_json.loads(text)
            found = decoded.get("format_version") if isinstance(decoded, dict) else None
            if isinstance(found, int) and found != FORMAT_VERSION:
                raise BadArchive(f"the archive has format {found}, and this release reads format {FORMAT_VERSION}")
            manifest = Manifest.model_validate(decoded)
        except (MalformedJson, ValidationError) as error:
            raise BadArchive("manifest.json is not one of an archive of Loopai") from error
        members = {member.path: member for member in manifest.members}
        if len(members) != len(manifest.members) or members.keys() != self._infos.keys() - {_MANIFEST}:
            raise BadArchive("manifest.json lists other members than the archive has")
        return members


def _program_path(digest: Digest) -> str:
    return f"programs/{digest.removeprefix('sha256:')}.py"


def _record(path: str, task_id: TaskId, line: bytes) -> ExecutionRecord:
    try:
        record = ExecutionRecord.model_validate_json(line)
    except ValidationError as error:
        raise BadArchive(f"{path} has a line that is no record of an execution") from error
    if record.task_id != task_id:
        raise BadArchive(f"{path} has a record of another task")
    return record


def _checked_infos(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The members by name, when all of them may be there and none is larger than it may be."""
    infos = archive.infolist()
    for info in infos:
        limit = next((limit for pattern, limit in _LIMITS if pattern.fullmatch(info.orig_filename)), None)
        if limit is None or info.orig_filename != info.filename:
            raise BadArchive("the file has members that an archive of Loopai does not have")
        if info.file_size > limit:
            raise BadArchive(f"{info.filename} would take {info.file_size} bytes of at most {limit}")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & _ENCRYPTED:
            raise BadArchive(f"{info.filename} is packed in a way that an archive of Loopai does not use")
    named = {info.filename: info for info in infos}
    if len(named) != len(infos):
        raise BadArchive("the file has two members of one name")
    # Members that share bytes unpack to more than any archive that was written honestly.
    end = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        if info.header_offset < end:
            raise BadArchive("members of the file overlap")
        end = info.header_offset + info.compress_size
    return named


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise BadArchive(f"the file is no whole ZIP archive: {error}") from error
