"""The composition root of the generator."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import FastAPI

from loopai_common import __version__
from loopai_common.runtime.health import Readiness, health_routes
from loopai_common.runtime.metrics import create_registry
from loopai_generator.adapters.learner_process import LearnerProcesses
from loopai_generator.handlers import generation_routes
from loopai_generator.metrics import GeneratorMetrics
from loopai_generator.problems import answer_errors
from loopai_generator.service import Generator
from loopai_generator.settings import GeneratorSettings


def build(settings: GeneratorSettings) -> FastAPI:
    """The ASGI application. Another provider, such as a language model, takes the place of ``learner`` here."""
    registry = create_registry("generator")
    readiness = Readiness()
    learner = LearnerProcesses(
        concurrency=settings.concurrency,
        max_waiting=settings.max_waiting,
        timeout_seconds=settings.learn_timeout_seconds,
    )
    readiness.add("learner", learner.check, required=False)
    generator = Generator(learner, GeneratorMetrics(registry))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(learner.close)
            await learner.open()
            yield

    app = FastAPI(title="Loopai generator", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    answer_errors(app)
    app.include_router(generation_routes(generator))
    app.router.routes.extend(health_routes(readiness, registry))
    return app
