"""Running a service: one process, one ASGI application, one lifespan that opens everything and closes it in reverse.

uvicorn carries every service, the bus services too: their HTTP side is health and metrics. SIGTERM and SIGINT stop
taking connections, let requests finish, leave the lifespan (where the bus drains), and exit 0.
"""

import gc
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any

import uvicorn
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette

from loopai_common.runtime.health import Readiness, health_routes
from loopai_common.runtime.logging import configure_logging, get_logger
from loopai_common.runtime.settings import ServiceSettings, SettingsError

log = get_logger()

Lifespan = Callable[[], AbstractAsyncContextManager[None]]


class StartRefused(Exception):
    """The service must not run like this; the message says why and what to do."""


def operations_app(lifespan: Lifespan, readiness: Readiness, registry: CollectorRegistry) -> Starlette:
    """The ASGI application of a service whose work comes over the bus: health, metrics, and its lifespan."""

    @asynccontextmanager
    async def run_lifespan(_: Starlette) -> AsyncIterator[None]:
        async with lifespan():
            yield

    return Starlette(routes=health_routes(readiness, registry), lifespan=run_lifespan)


def serve(
    service: str,
    settings: ServiceSettings,
    create: Callable[[], Any],
    **options: Any,
) -> int:
    """Runs the application that ``create`` makes until a signal stops it; returns the exit code.

    ``options`` go to :class:`uvicorn.Config`. Exit codes: 0 stopped as asked, 2 refused to start, 3 failed at start.
    """
    configure_logging(service, settings)
    try:
        app = create()
    except StartRefused as refusal:
        log.error("start_refused", reason=str(refusal))
        return 2
    config = uvicorn.Config(
        app,
        **{
            "host": settings.host,
            "port": settings.port,
            "log_config": None,
            "log_level": "warning",
            "access_log": False,
            "server_header": False,
            "date_header": False,
            "lifespan": "on",
            "timeout_graceful_shutdown": max(1, int(settings.shutdown_grace_seconds)),
            **options,
        },
    )
    server = _Server(config)
    gc.collect()
    gc.freeze()
    server.run()
    log.info("stopped")
    return 0 if server.started else 3


def main(start: Callable[[], int]) -> None:
    """Entry point of a service's command: turns bad settings into one sentence and exit code 2."""
    try:
        sys.exit(start())
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but without raising the signal again at the end: an asked-for stop exits 0."""
        handled = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in handled}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
