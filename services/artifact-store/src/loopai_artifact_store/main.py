"""The artifact store's process."""

from starlette.applications import Starlette

from loopai_artifact_store import wiring
from loopai_artifact_store.settings import ArtifactStoreSettings
from loopai_common.runtime.service import main, serve
from loopai_common.runtime.settings import load_settings

SERVICE = wiring.SERVICE


def create_app(settings: ArtifactStoreSettings | None = None) -> Starlette:
    """The ASGI application; without ``settings`` they are read from the environment."""
    return wiring.build(settings or load_settings(ArtifactStoreSettings, SERVICE))


def run() -> None:
    """Entry point of the command ``loopai-artifact-store``."""
    main(_start)


def _start() -> int:
    settings = load_settings(ArtifactStoreSettings, SERVICE)
    return serve(SERVICE, settings, lambda: create_app(settings))


if __name__ == "__main__":
    run()
