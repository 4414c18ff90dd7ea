"""Running a service: one process, one ASGI application, one lifespan that opens everything and closes it in reverse.

uvicorn carries every service, the bus services too: their HTTP side is health and metrics. SIGTERM and SIGINT stop
taking connections, let requests finish, leave the lifespan (where the bus drains), and exit 0.
"""

import argparse
import gc
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import structlog
import uvicorn
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette

from loopai_common.runtime.health import Readiness, health_routes
from loopai_common.runtime.logging import configure_logging, get_logger
from loopai_common.runtime.settings import PREFIXES, ServiceSettings, SettingsError, WorkersSettings
from loopai_common.runtime.tracing import exported
from loopai_common.runtime.worker_metrics import Siblings
from loopai_common.runtime.workers import EXIT_FAILED_AT_START, EXIT_REFUSED, Worker, WorkerParent, join, reserve

_STOP_MARGIN_SECONDS: Final = 5.0

log = get_logger()

_GC_THRESHOLDS = (20_000, 20, 50)
"""Collections are rare: a request leaves little that is cyclic, and looking for it costs every request."""

Lifespan = Callable[[], AbstractAsyncContextManager[None]]


class StartRefused(Exception):
    """The service must not run like this; the message says why and what to do."""


def operations_app(
    lifespan: Lifespan, readiness: Readiness, registry: CollectorRegistry, siblings: Siblings | None = None
) -> Starlette:
    """The ASGI application of a service whose work comes over the bus: health, metrics, and its lifespan."""

    @asynccontextmanager
    async def run_lifespan(_: Starlette) -> AsyncIterator[None]:
        async with lifespan():
            yield

    return Starlette(routes=health_routes(readiness, registry, siblings), lifespan=run_lifespan)


def serve(
    service: str,
    settings: ServiceSettings,
    create: Callable[[], Any],
    *,
    sockets: list[socket.socket] | None = None,
    stop_signals: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM),
    **options: Any,
) -> int:
    """Runs the application that ``create`` makes until a signal stops it; returns the exit code.

    ``sockets`` are accepted from instead of one of its own. ``options`` go to :class:`uvicorn.Config`.
    Exit codes: 0 stopped as asked, 2 refused to start, 3 failed at start.
    """
    configure_logging(service, settings)
    with exported(service):
        return _serve(settings, create, sockets, stop_signals, options)


def _serve(
    settings: ServiceSettings,
    create: Callable[[], Any],
    sockets: list[socket.socket] | None,
    stop_signals: Sequence[signal.Signals],
    options: dict[str, Any],
) -> int:
    try:
        app = create()
    except StartRefused as refusal:
        log.error("start_refused", reason=str(refusal))
        return EXIT_REFUSED
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
    server = _Server(config, stop_signals)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    server.run(sockets)
    log.info("stopped")
    return 0 if server.started else EXIT_FAILED_AT_START


def serve_workers(
    service: str,
    settings: WorkersSettings,
    create: Callable[[Worker | None], Any],
    **options: Any,
) -> int:
    """As :func:`serve`, in ``settings.workers`` processes that share one port.

    One worker is served in this very process, and ``create`` is given ``None``. Of several, this process becomes the
    parent, whose exit code is :attr:`WorkerParent.exit_code`.
    """
    if settings.workers == 1:
        return serve(service, settings, lambda: create(None), **options)
    configure_logging(service, settings)
    try:
        reserved = reserve(settings.host, settings.port)
    except OSError as error:
        log.error("start_failed", host=settings.host, port=settings.port, reason=str(error))
        return EXIT_FAILED_AT_START
    directory = Path(tempfile.mkdtemp(prefix=f"loopai-{service}-"))
    # A worker's drain may take the grace period twice: uvicorn's for requests, the bus's for messages.
    parent = WorkerParent(settings.workers, 2 * settings.shutdown_grace_seconds + _STOP_MARGIN_SECONDS)
    gc.collect()
    gc.freeze()  # what is here now stays shared with the workers
    seat = parent.run()
    if seat is None:
        shutil.rmtree(directory, ignore_errors=True)
        log.info("stopped")
        return parent.exit_code
    worker = Worker(seat, settings.workers, directory)
    structlog.contextvars.bind_contextvars(worker=seat)
    # A terminal's Ctrl-C reaches every process, and to uvicorn a second signal of that kind means: no grace.
    return serve(
        service, settings, lambda: create(worker), sockets=join(reserved), stop_signals=(signal.SIGTERM,), **options
    )


def with_options(service: str, settings: type[ServiceSettings], *names: str) -> dict[str, str]:
    """The environment, in which options of the command line have set the service's settings of these names."""
    parser = argparse.ArgumentParser(prog=f"loopai-{service}", description="Everything else is set by the environment.")
    for name in names:
        parser.add_argument(f"--{name.replace('_', '-')}", metavar="X", help=settings.model_fields[name].description)
    given: dict[str, str | None] = vars(parser.parse_args())
    options = {f"{PREFIXES[service]}{name.upper()}": value for name, value in given.items() if value is not None}
    return {**os.environ, **options}


def main(start: Callable[[], int]) -> None:
    """Entry point of a service's command: turns bad settings into one sentence and exit code 2."""
    try:
        sys.exit(start())
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(EXIT_REFUSED)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, stop_signals: Sequence[signal.Signals]) -> None:
        super().__init__(config)
        self._stop_signals = stop_signals

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but without raising the signal again at the end: an asked-for stop exits 0."""
        before = {number: signal.signal(number, self.handle_exit) for number in self._stop_signals}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
