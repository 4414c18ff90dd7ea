"""Entry point of the executor."""

from starlette.applications import Starlette

from loopai_common.runtime.service import main, serve
from loopai_common.runtime.settings import load_settings
from loopai_executor import wiring
from loopai_executor.settings import ExecutorSettings


def create_app(settings: ExecutorSettings | None = None) -> Starlette:
    """The executor's application; settings come from the environment when none are given."""
    return wiring.build(settings or load_settings(ExecutorSettings, wiring.SERVICE))


def run() -> None:
    """Runs the executor until a signal stops it."""

    def start() -> int:
        settings = load_settings(ExecutorSettings, wiring.SERVICE)
        return serve(wiring.SERVICE, settings, lambda: create_app(settings))

    main(start)


if __name__ == "__main__":
    run()
