"""The composition root of the generator-proxy."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final

from nats.errors import Error as NatsError
from starlette.applications import Starlette

from loopai_common.contracts import subjects
from loopai_common.errors import BusUnavailable
from loopai_common.runtime.broker import Bus
from loopai_common.runtime.exhausted import consumer_of_exhausted
from loopai_common.runtime.health import Readiness
from loopai_common.runtime.metrics import create_registry
from loopai_common.runtime.rpc import RpcClient
from loopai_common.runtime.service import operations_app
from loopai_generator_proxy import handlers
from loopai_generator_proxy.adapters.http_generator import HttpGenerator, http_client
from loopai_generator_proxy.adapters.rpc import RpcArtifactStore, RpcProgramChecker
from loopai_generator_proxy.domain import GeneratorRole, RetryPolicy
from loopai_generator_proxy.metrics import GenerationMetrics
from loopai_generator_proxy.ports import CallObserver
from loopai_generator_proxy.resilience import CircuitBreaker, ResilientGenerator
from loopai_generator_proxy.service import Generations, Submissions
from loopai_generator_proxy.settings import GeneratorProxySettings

SERVICE: Final = "generator-proxy"

_CONSUMERS: Final = (
    *handlers.WORK,
    *((subjects.DEAD_LETTERS_STREAM, consumer_of_exhausted(consumer)) for _, consumer in handlers.WORK),
    *((subjects.DEAD_LETTERS_STREAM, name) for name in handlers.ABANDONED_CONSUMERS.values()),
)


def build(settings: GeneratorProxySettings) -> Starlette:
    """The ASGI application; its lifespan connects, consumes, and drains."""
    registry = create_registry(SERVICE)
    metrics = GenerationMetrics(registry)
    bus = Bus(SERVICE, settings, registry)
    rpc = RpcClient(bus)
    client = http_client(settings.concurrency)
    key = settings.generator_api_key
    http_generator = HttpGenerator(client, str(settings.generator_url), api_key=key.get_secret_value() if key else None)
    breaker, generator = _resilient(http_generator, settings, metrics.calls_to(GeneratorRole.PRIMARY))
    readiness = Readiness()
    fallback = None
    if settings.fallback_generator_url is not None:
        learner = HttpGenerator(client, str(settings.fallback_generator_url), api_key=None)
        _, fallback = _resilient(learner, settings, metrics.calls_to(GeneratorRole.FALLBACK))
        readiness.add("fallback_generator", learner.check, required=False)
    store = RpcArtifactStore(rpc)
    checker = RpcProgramChecker(rpc, timeout_seconds=settings.check_timeout_seconds)
    generations = Generations(
        store,
        generator,
        checker,
        metrics,
        fallback=fallback,
        rounds=settings.rounds,
        concurrency=settings.concurrency,
        patience_seconds=settings.patience_seconds,
    )

    readiness.add("nats", partial(_check_connected, bus))
    readiness.add("consumers", partial(_check_consumers, bus), required=False)
    readiness.add("generator", http_generator.check, required=False)
    readiness.add("circuit_breaker", partial(_check_closed, breaker), required=False)
    bus.answer_ping(readiness)
    handlers.register(bus, generations, Submissions(store, checker), concurrency=settings.concurrency)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(client.aclose)
            stack.push_async_callback(bus.drain)
            await bus.start()
            yield

    return operations_app(lifespan, readiness, registry)


def _resilient(
    generator: HttpGenerator, settings: GeneratorProxySettings, observer: CallObserver
) -> tuple[CircuitBreaker, ResilientGenerator]:
    breaker = CircuitBreaker(
        failures=settings.breaker_failures,
        open_seconds=settings.breaker_open_seconds,
        on_change=observer.breaker_changed,
    )
    return breaker, ResilientGenerator(
        generator.attempt,
        breaker,
        observer,
        policy=RetryPolicy(retries=settings.retries),
        attempt_timeout_seconds=settings.attempt_timeout_seconds,
        total_timeout_seconds=settings.total_timeout_seconds,
    )


async def _check_closed(breaker: CircuitBreaker) -> str | None:
    return breaker.problem


async def _check_connected(bus: Bus) -> None:
    if not bus.connected:
        raise BusUnavailable("not connected to NATS")


async def _check_consumers(bus: Bus) -> None:
    # A consumer that somebody deleted goes silent and nothing else shows it.
    try:
        for stream, consumer in _CONSUMERS:
            await bus.jetstream.consumer_info(stream, consumer)
    except NatsError as error:
        raise BusUnavailable("a consumer does not answer; restart this instance if it stays so") from error
