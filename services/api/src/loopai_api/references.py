"""What a path may name: tasks, versions and executions. Anything else does not exist, and nothing is asked about it."""

import re
from uuid import UUID

from loopai_common.contracts.base import MAX_VERSION, ExecutionId, Version
from loopai_common.contracts.tasks import NAME_PATTERN, UUID_PATTERN
from loopai_common.errors import ArtifactNotFound, ExecutionNotFound, TaskNotFound

_REFERENCE = re.compile(NAME_PATTERN)
_UUID = re.compile(UUID_PATTERN)
_MAX_REFERENCE = 200
_NUMBER = re.compile(r"[1-9][0-9]{0,9}")


def task_reference(text: str) -> str:
    """``text`` when it can be a task's id or name; else raises :class:`TaskNotFound`."""
    if len(text) > _MAX_REFERENCE or _REFERENCE.fullmatch(text) is None:
        raise TaskNotFound("there is no such task")
    return text


def version_number(text: str) -> Version:
    """The number that ``text`` is; else raises :class:`ArtifactNotFound`."""
    version = version_reference(text)
    if version is None:
        raise ArtifactNotFound("name the version by its number")
    return version


def version_reference(text: str) -> Version | None:
    """The version that ``text`` names, ``None`` for ``active``; else raises :class:`ArtifactNotFound`."""
    if text == "active":
        return None
    if _NUMBER.fullmatch(text) is None or int(text) > MAX_VERSION:
        raise ArtifactNotFound("there is no such version; name a number from 1 on, or 'active'")
    return Version(int(text))


def execution_reference(text: str) -> ExecutionId:
    """The execution that ``text`` names; else raises :class:`ExecutionNotFound`."""
    if _UUID.fullmatch(text) is None:
        raise ExecutionNotFound("there is no such execution")
    return ExecutionId(UUID(text))
