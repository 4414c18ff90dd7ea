"""The ``loopai-api`` command."""

from typing import Any

from loopai_api import wiring
from loopai_api.fastlane.protocol import FastLaneProtocol
from loopai_api.protocol import LoopaiHttpProtocol
from loopai_api.settings import ApiSettings
from loopai_common.runtime.service import main, serve_workers, with_options
from loopai_common.runtime.settings import load_settings
from loopai_common.runtime.workers import Worker


def create_app(settings: ApiSettings | None = None, worker: Worker | None = None) -> Any:
    """The ASGI application; settings come from the environment unless given, ``worker`` is set in one of several."""
    return wiring.build(settings or load_settings(ApiSettings, wiring.SERVICE), worker)


def run() -> None:
    """Runs the api until a signal stops it."""

    def start() -> int:
        environment = with_options(wiring.SERVICE, ApiSettings, "workers", "ssl_certfile", "ssl_keyfile")
        settings = load_settings(ApiSettings, wiring.SERVICE, environment)
        return serve_workers(
            wiring.SERVICE,
            settings,
            lambda worker: create_app(settings, worker),
            http=FastLaneProtocol if settings.fast_lane == "on" else LoopaiHttpProtocol,
            proxy_headers=False,
            ws="none",
            timeout_keep_alive=settings.keep_alive_seconds,
            backlog=4096,
            ssl_certfile=settings.ssl_certfile,
            ssl_keyfile=settings.ssl_keyfile,
        )

    main(start)


if __name__ == "__main__":
    run()
