"""The base of every contract and the types that identify things."""

from datetime import UTC, datetime
from typing import Annotated, NewType
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, PlainSerializer

TaskId = NewType("TaskId", UUID)
ArtifactId = NewType("ArtifactId", UUID)
ExecutionId = NewType("ExecutionId", UUID)
GenerationId = NewType("GenerationId", UUID)
Version = NewType("Version", int)
Digest = NewType("Digest", str)

MAX_VERSION = 2**31 - 1
"""Versions are counted in a signed 32-bit integer everywhere."""

VersionNumber = Annotated[Version, Field(ge=1, le=MAX_VERSION)]
DigestText = Annotated[Digest, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


def format_timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC with milliseconds and ``Z``: the only form in which a time leaves a service."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


Timestamp = Annotated[AwareDatetime, PlainSerializer(format_timestamp, return_type=str, when_used="json")]


class Contract(BaseModel):
    """A message between services: immutable, and tolerant of fields that a newer sender added."""

    model_config = ConfigDict(frozen=True, extra="ignore")
