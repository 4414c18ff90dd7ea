"""Programs from the artifact store, over the bus."""

import hashlib
from typing import Final, TypeVar

import pydantic

from loopai_common.contracts import subjects
from loopai_common.contracts.artifacts import FetchProgram, ProgramCode, ResolvedProgram, ResolveProgram
from loopai_common.contracts.base import Contract, Digest, TaskId, Version
from loopai_common.errors import ArtifactCorrupt, StoreUnavailable, ValidationFailed
from loopai_common.runtime.errors import violations_of
from loopai_common.runtime.rpc import RpcClient

_TIMEOUT_SECONDS: Final = 3.0

T = TypeVar("T", bound=Contract)


class NatsProgramSource:
    """A :class:`~loopai_executor.ports.ProgramSource` that asks the artifact store."""

    def __init__(self, rpc: RpcClient) -> None:
        self._rpc = rpc

    async def resolve(self, task: str, version: int | None) -> ResolvedProgram:
        """As the port says."""
        try:
            request = ResolveProgram(task=task, version=None if version is None else Version(version))
        except pydantic.ValidationError as error:
            raise ValidationFailed("no task can have this name", details=violations_of(error)) from error
        return await self._ask(subjects.ARTIFACTS_RESOLVE, request, ResolvedProgram)

    async def fetch(self, task_id: TaskId, digest: Digest) -> str:
        """As the port says; what comes is hashed again."""
        request = FetchProgram(task_id=task_id, digest=digest)
        program = await self._ask(subjects.PROGRAMS_FETCH, request, ProgramCode)
        if f"sha256:{hashlib.sha256(program.code.encode()).hexdigest()}" != digest:
            raise ArtifactCorrupt("the program that the artifact store sent does not match its digest")
        return program.code

    async def _ask(self, subject: str, request: Contract, answer: type[T]) -> T:
        try:
            return await self._rpc.call(subject, request, answer, timeout=_TIMEOUT_SECONDS)
        except pydantic.ValidationError as error:
            raise StoreUnavailable("the artifact store answered what this executor does not understand") from error
