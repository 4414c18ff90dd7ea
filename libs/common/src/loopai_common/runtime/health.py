"""Health: what a service needs, whether it has it, and the HTTP side that tells.

``/health/live`` never depends on another system; ``/health/ready`` asks every check.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from loopai_common import __version__
from loopai_common.contracts.base import format_timestamp
from loopai_common.contracts.health import HealthStatus
from loopai_common.errors import LoopaiError
from loopai_common.runtime.worker_metrics import Siblings

_CHECK_SECONDS = 2.0

CheckFunction = Callable[[], Awaitable[str | None]]
"""Returns ``None`` when all is well, a sentence when the thing works with less; raises when it does not work."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Outcome of one check; ``latency_ms`` is how long it took."""

    status: HealthStatus
    latency_ms: float
    detail: str | None


@dataclass(frozen=True, slots=True)
class ReadinessReport:
    """All checks and the worst that follows from them."""

    status: HealthStatus
    checks: dict[str, CheckResult]

    @property
    def ready(self) -> bool:
        """Whether work should be sent here."""
        return self.status is not HealthStatus.UNHEALTHY

    @property
    def detail(self) -> str | None:
        """What is wrong, in one line."""
        wrong = [f"{name}: {c.detail}" for name, c in self.checks.items() if c.detail is not None]
        return "; ".join(wrong) or None

    def body(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "status": self.status,
            "version": __version__,
            "timestamp": format_timestamp(datetime.now(UTC)),
            "checks": {
                name: {"status": c.status, "latency_ms": c.latency_ms, "detail": c.detail}
                for name, c in self.checks.items()
            },
        }


class Readiness:
    """The checks of a service. A check that is not ``required`` can only degrade it."""

    def __init__(self) -> None:
        self._checks: dict[str, tuple[CheckFunction, bool]] = {}

    def add(self, name: str, check: CheckFunction, *, required: bool = True) -> None:
        """Adds a check; it is given two seconds each time it runs."""
        self._checks[name] = (check, required)

    async def report(self) -> ReadinessReport:
        """Runs all checks at once."""
        results = await asyncio.gather(*(self._run(check, required) for check, required in self._checks.values()))
        checks = dict(zip(self._checks, results, strict=True))
        order = list(HealthStatus)
        worst = max((c.status for c in results), key=order.index, default=HealthStatus.HEALTHY)
        return ReadinessReport(worst, checks)

    async def _run(self, check: CheckFunction, required: bool) -> CheckResult:
        started = time.perf_counter()
        failed = HealthStatus.UNHEALTHY if required else HealthStatus.DEGRADED
        try:
            async with asyncio.timeout(_CHECK_SECONDS):
                detail = await check()
            status = HealthStatus.HEALTHY if detail is None else HealthStatus.DEGRADED
        except TimeoutError:
            status, detail = failed, "did not answer in time"
        except LoopaiError as error:
            status, detail = failed, error.message
        except OSError as error:
            status, detail = failed, type(error).__name__
        return CheckResult(status, round((time.perf_counter() - started) * 1000, 3), detail)


def health_routes(readiness: Readiness, registry: CollectorRegistry, siblings: Siblings | None = None) -> list[Route]:
    """``/health``, ``/health/live``, ``/health/ready`` and ``/metrics``, the same in every service.

    A worker of several answers for itself, but with ``siblings`` its ``/metrics`` are those of all.
    """

    async def alive(_: Request) -> Response:
        return JSONResponse(
            {
                "status": HealthStatus.HEALTHY,
                "version": __version__,
                "timestamp": format_timestamp(datetime.now(UTC)),
            },
            headers={"Cache-Control": "no-store"},
        )

    async def ready(_: Request) -> Response:
        report = await readiness.report()
        return JSONResponse(
            report.body(), status_code=200 if report.ready else 503, headers={"Cache-Control": "no-store"}
        )

    async def metrics(_: Request) -> Response:
        text = generate_latest(registry) if siblings is None else await siblings.exposition()
        return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    return [
        Route("/health", alive),
        Route("/health/live", alive),
        Route("/health/ready", ready),
        Route("/metrics", metrics),
    ]
