"""The ``loopai-api`` command."""

from typing import Any

from loopai_api import wiring
from loopai_api.protocol import protocol_class
from loopai_api.settings import ApiSettings
from loopai_common.runtime.service import main, serve
from loopai_common.runtime.settings import load_settings


def create_app(settings: ApiSettings | None = None) -> Any:
    """The ASGI application; settings come from the environment unless given."""
    return wiring.build(settings or load_settings(ApiSettings, wiring.SERVICE))


def run() -> None:
    """Runs the api until a signal stops it."""

    def start() -> int:
        settings = load_settings(ApiSettings, wiring.SERVICE)
        return serve(
            wiring.SERVICE,
            settings,
            lambda: create_app(settings),
            http=protocol_class(settings.receive_timeout_seconds, settings.max_connections),
            ws="none",
            timeout_keep_alive=settings.keep_alive_seconds,
            backlog=4096,
        )

    main(start)


if __name__ == "__main__":
    run()
