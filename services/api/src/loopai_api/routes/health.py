"""``/health`` and ``/metrics``: the routes that every service has, documented like the rest of the API."""

from typing import Any

from fastapi import APIRouter
from prometheus_client import CollectorRegistry
from starlette.responses import Response

from loopai_api.models import HealthResponse, ReadinessResponse
from loopai_common.runtime.health import Readiness, health_routes
from loopai_common.runtime.worker_metrics import Siblings

_METRICS_EXAMPLE = "# TYPE loopai_pending_executions gauge\nloopai_pending_executions 0.0\n"
_SUMMARIES = {
    "/health": ("The process answers", "Says nothing about what it depends on."),
    "/health/live": ("Liveness", "Never depends on another system."),
    "/health/ready": (
        "Readiness",
        "NATS, the artifact store, an executor and a generator-proxy, each with status and latency. 503 when one that "
        "is needed to execute is away; a missing generator only degrades.",
    ),
    "/metrics": ("Metrics", "Prometheus text format."),
}
_RESPONSES: dict[str, dict[int | str, dict[str, Any]]] = {
    "/health": {200: {"model": HealthResponse}},
    "/health/live": {200: {"model": HealthResponse}},
    "/health/ready": {
        200: {"model": ReadinessResponse, "description": "Ready, perhaps with less than there should be."},
        503: {"model": ReadinessResponse, "description": "Not ready."},
    },
    "/metrics": {
        200: {
            "description": "The figures of all workers.",
            "content": {"text/plain": {"schema": {"type": "string"}, "example": _METRICS_EXAMPLE}},
        }
    },
}


def health_api_routes(
    prefix: str, readiness: Readiness, registry: CollectorRegistry, siblings: Siblings | None = None
) -> APIRouter:
    """The common health routes as documented operations."""
    router = APIRouter(prefix=prefix, tags=["health"])
    for route in health_routes(readiness, registry, siblings):
        summary, description = _SUMMARIES[route.path]
        router.add_api_route(
            route.path,
            route.endpoint,
            methods=["GET"],
            summary=summary,
            description=description,
            name=route.path.strip("/").replace("/", "_"),
            response_class=Response,
            responses=_RESPONSES[route.path],
        )
    return router
