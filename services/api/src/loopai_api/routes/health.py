"""``/health`` and ``/metrics``: the routes that every service has, documented like the rest of the API."""

from fastapi import APIRouter
from prometheus_client import CollectorRegistry
from starlette.responses import Response

from loopai_common.runtime.health import Readiness, health_routes
from loopai_common.runtime.worker_metrics import Siblings

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
            response_class=Response,
            responses={503: {"description": "Not ready."}} if route.path == "/health/ready" else {},
        )
    return router
