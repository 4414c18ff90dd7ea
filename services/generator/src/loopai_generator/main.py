"""The generator's process."""

from fastapi import FastAPI

from loopai_common.runtime.service import main, serve
from loopai_common.runtime.settings import load_settings
from loopai_generator import wiring
from loopai_generator.settings import GeneratorSettings


def create_app(settings: GeneratorSettings | None = None) -> FastAPI:
    """The ASGI application, with settings from the environment when none are given."""
    return wiring.build(settings or load_settings(GeneratorSettings, "generator"))


def run() -> None:
    """Serves until a signal stops it."""

    def start() -> int:
        settings = load_settings(GeneratorSettings, "generator")
        return serve("generator", settings, lambda: create_app(settings))

    main(start)


if __name__ == "__main__":
    run()
