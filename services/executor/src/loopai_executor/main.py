"""Entry point of the executor."""

from starlette.applications import Starlette

from loopai_common.runtime.service import main, serve_workers, with_options
from loopai_common.runtime.settings import load_settings
from loopai_common.runtime.workers import Worker
from loopai_executor import wiring
from loopai_executor.settings import ExecutorSettings


def create_app(settings: ExecutorSettings | None = None, worker: Worker | None = None) -> Starlette:
    """The executor's application; settings come from the environment unless given, ``worker`` from its parent."""
    return wiring.build(settings or load_settings(ExecutorSettings, wiring.SERVICE), worker)


def run() -> None:
    """Runs the executor until a signal stops it."""

    def start() -> int:
        settings = load_settings(
            ExecutorSettings, wiring.SERVICE, with_options(wiring.SERVICE, ExecutorSettings, "workers")
        )
        return serve_workers(wiring.SERVICE, settings, lambda worker: create_app(settings, worker))

    main(start)


if __name__ == "__main__":
    run()
