"""The generator-proxy's process."""

from starlette.applications import Starlette

from loopai_common.runtime.service import main, serve
from loopai_common.runtime.settings import load_settings
from loopai_generator_proxy import wiring
from loopai_generator_proxy.settings import GeneratorProxySettings


def create_app(settings: GeneratorProxySettings | None = None) -> Starlette:
    """The ASGI application, with settings from the environment when none are given."""
    return wiring.build(settings or load_settings(GeneratorProxySettings, wiring.SERVICE))


def run() -> None:
    """Serves until a signal stops it."""

    def start() -> int:
        settings = load_settings(GeneratorProxySettings, wiring.SERVICE)
        return serve(wiring.SERVICE, settings, lambda: create_app(settings))

    main(start)


if __name__ == "__main__":
    run()
