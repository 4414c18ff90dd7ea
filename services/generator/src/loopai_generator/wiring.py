"""The composition root of the generator."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from fastapi import FastAPI
from pydantic import HttpUrl

from loopai_common import __version__
from loopai_common.runtime.health import Readiness, health_routes
from loopai_common.runtime.metrics import create_registry
from loopai_generator.adapters.learner_process import LearnerProcesses
from loopai_generator.adapters.openai_chat import OpenAIChat, headers_of, http_client
from loopai_generator.handlers import generation_routes
from loopai_generator.language_model.provider import LanguageModel
from loopai_generator.metrics import GeneratorMetrics
from loopai_generator.ports import Provider
from loopai_generator.problems import answer_errors
from loopai_generator.service import Generator
from loopai_generator.settings import GeneratorSettings


def build(settings: GeneratorSettings) -> FastAPI:
    """The ASGI application, with the provider that the settings name; the other one is not even started."""
    registry = create_registry("generator")
    readiness = Readiness()
    provider, running = _provider(settings, readiness)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with running:
            yield

    app = FastAPI(title="Loopai generator", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    answer_errors(app)
    app.include_router(generation_routes(Generator(provider, GeneratorMetrics(registry))))
    app.router.routes.extend(health_routes(readiness, registry))
    return app


def _provider(
    settings: GeneratorSettings, readiness: Readiness
) -> tuple[Provider, AbstractAsyncContextManager[object]]:
    """The provider, and what must be open while it is used."""
    if settings.provider != "learner" and settings.openai_base_url is not None:
        return _language_model(settings, settings.openai_base_url, readiness)
    return _learner(settings, readiness)


def _learner(settings: GeneratorSettings, readiness: Readiness) -> tuple[Provider, AbstractAsyncContextManager[object]]:
    learner = LearnerProcesses(
        concurrency=settings.concurrency,
        max_waiting=settings.max_waiting,
        timeout_seconds=settings.learn_timeout_seconds,
    )
    readiness.add("learner", learner.check, required=False)

    @asynccontextmanager
    async def running() -> AsyncIterator[None]:
        try:
            await learner.open()
            yield
        finally:
            await learner.close()

    return learner, running()


def _language_model(
    settings: GeneratorSettings, base_url: HttpUrl, readiness: Readiness
) -> tuple[Provider, AbstractAsyncContextManager[object]]:
    model, key = settings.openai_model or "", settings.openai_api_key
    parameters: dict[str, Any] = {
        settings.openai_max_tokens_parameter: settings.openai_max_tokens,
        "temperature": settings.openai_temperature,
    }
    most = settings.concurrency + settings.max_waiting
    client = http_client(most)
    chat = OpenAIChat(
        client,
        str(base_url),
        model=model,
        headers=headers_of(key.get_secret_value() if key else None, settings.openai_api_key_header),
        query={"api-version": settings.openai_api_version} if settings.openai_api_version else {},
        parameters={name: value for name, value in parameters.items() if value is not None},
    )
    readiness.add("language_model", chat.check, required=False)
    provider = LanguageModel(
        chat,
        model=model,
        prices=settings.openai_prices,
        timeout_seconds=settings.openai_timeout_seconds,
        max_in_flight=most,
    )
    return provider, client
