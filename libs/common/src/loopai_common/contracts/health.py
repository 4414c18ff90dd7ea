"""Presence: a service answers that it is there, and how it is."""

from enum import StrEnum

from loopai_common.contracts.base import Contract


class HealthStatus(StrEnum):
    """``degraded`` still takes work, with less than it should have."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


class Ping(Contract):
    """Query: are you there?"""


class Pong(Contract):
    """An instance that is there. ``detail`` says what it lacks when it is not ``healthy``."""

    service: str
    version: str
    status: HealthStatus
    detail: str | None = None
