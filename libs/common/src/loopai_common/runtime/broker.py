"""The bus: one NATS connection of a service, its FastStream broker, and the boundary every message passes.

The boundary (:class:`Boundary`) is where a handler's exception becomes an answer. FastStream alone sends no reply when
a handler raises, and its default policy drops the message; here a request is always answered with a typed failure,
and a durable message is acknowledged, delayed, or kept as a dead letter.
"""

import asyncio
import inspect
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Any

from faststream import BaseMiddleware
from faststream.message import StreamMessage
from faststream.nats import JStream, NatsBroker, NatsResponse, PullSub
from faststream.nats.subscriber.usecases import LogicSubscriber
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig
from prometheus_client import CollectorRegistry

from loopai_common import __version__
from loopai_common.contracts import subjects
from loopai_common.contracts.base import Contract
from loopai_common.contracts.health import Ping, Pong
from loopai_common.errors import BusUnavailable, DeadlineExceeded, Internal, LoopaiError, PayloadTooLarge
from loopai_common.permissions import inbox_prefix
from loopai_common.runtime import context, direct, tracing
from loopai_common.runtime.background import cancelled
from loopai_common.runtime.errors import as_loopai_error, failure_headers, failure_of
from loopai_common.runtime.health import Readiness
from loopai_common.runtime.logging import get_logger
from loopai_common.runtime.metrics import BusMetrics
from loopai_common.runtime.settings import ServiceSettings
from loopai_common.runtime.streams import declare_streams

MAX_DELIVERIES = 5
ACK_WAIT_SECONDS = 30.0
_RETRY_DELAYS_SECONDS = (1.0, 5.0, 15.0, 60.0)
_CONNECT_ATTEMPT_SECONDS = 5
_DECLARE_SECONDS = 30.0  # a stream is a directory on a disk, which may be busy
_DRAIN_POLL_SECONDS = 0.01
_CONSUMERS_SECONDS = 10.0
_ACK_SUBJECT = "$JS.ACK."
_REQUESTS = "loopai.rpc."

Subscriber = Callable[[Callable[..., Awaitable[Any]]], Any]
"""Registers a handler; its one parameter is the contract that the message holds."""

Decoder = Callable[[StreamMessage[Any]], Awaitable[Any]]
"""Makes a handler's argument of a message."""

RawHandler = Callable[[Msg], None]
"""Takes a message as it came; must not block."""

log = get_logger()


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message and its place in a stream."""

    subject: str
    body: bytes
    headers: Mapping[str, str]
    stream: str
    sequence: int


class Bus:
    """A service's connection to NATS, with the subscribers declared on :attr:`broker`.

    Declare subscribers before :meth:`start`. :meth:`drain` stops taking, lets what was taken finish, and closes.
    """

    def __init__(self, service: str, settings: ServiceSettings, registry: CollectorRegistry) -> None:
        self.service = service
        self.metrics = BusMetrics(registry)
        self.in_flight = 0
        self._grace_seconds = settings.shutdown_grace_seconds
        self._client: Client | None = None
        self._raw: dict[str, RawHandler] = {}
        self._deliveries: dict[str, int] = {}
        self._consumers: list[tuple[str, str]] = []
        self._watching: asyncio.Task[None] | None = None
        self._reconnect_hooks: list[Callable[[], None]] = []
        self._raw_subscriptions: list[Any] = []  # nats.py leaves their drain() untyped
        self._sends: set[asyncio.Task[None]] = set()
        self.broker = NatsBroker(
            [url.strip() for url in settings.nats_url.split(",")],
            name=f"loopai-{service}",
            inbox_prefix=inbox_prefix(service),
            connect_timeout=_CONNECT_ATTEMPT_SECONDS,
            max_reconnect_attempts=-1,
            reconnect_time_wait=1,
            ping_interval=10,
            max_outstanding_pings=2,
            pending_size=64 * 1024 * 1024,
            flush_timeout=10,
            error_cb=self._on_error,
            disconnected_cb=self._on_disconnected,
            reconnected_cb=self._on_reconnected,
            middlewares=[self._boundary],
            decoder=_decode,
            logger=None,
            graceful_timeout=self._grace_seconds,
        )

    @property
    def client(self) -> Client:
        """The connection; raises :class:`BusUnavailable` before :meth:`start`."""
        if self._client is None:
            raise BusUnavailable("not connected to NATS")
        return self._client

    @property
    def jetstream(self) -> JetStreamContext:
        """JetStream on the same connection."""
        return self.client.jetstream()

    @property
    def connected(self) -> bool:
        """Whether messages can be sent right now."""
        return self._client is not None and self._client.is_connected

    @property
    def max_payload_bytes(self) -> int:
        """The largest message that the connected server takes."""
        return self.client.max_payload

    async def start(self) -> None:
        """Connects (waiting for NATS as long as it takes), declares the streams, and starts the subscribers."""
        self._client = await self.broker.connect()
        if self.max_payload_bytes < subjects.MAX_PAYLOAD_BYTES:
            log.warning(
                "nats_max_payload_too_small",
                max_payload_bytes=self.max_payload_bytes,
                needed_bytes=subjects.MAX_PAYLOAD_BYTES,
                remedy="set max_payload: 8MB in the server's configuration; larger messages are refused until then",
            )
        await declare_streams(self._client.jetstream(timeout=_DECLARE_SECONDS))
        await self.broker.start()
        for subject, handler in self._raw.items():
            taking = self._answering(subject, handler)
            self._raw_subscriptions.append(await self.listen(subject, taking, queue=self.service))
        # A request sent now must find the subscriptions. nats.py writes the PING of a flush ahead of what is pending,
        # so only the answer to a second one says that the server has them.
        await self._client.flush()
        await self._client.flush()
        self._watching = asyncio.create_task(self._watch_consumers())

    async def drain(self) -> None:
        """Stops taking, waits for what was taken, closes the connection. Bounded by the grace period."""
        if self._client is None:
            return
        if self._watching is not None:
            await cancelled(self._watching)
        try:
            async with asyncio.timeout(self._grace_seconds):
                await self._drain_subscribers()
        except TimeoutError:
            log.warning("drain_timed_out", in_flight=self.in_flight)
        if self._client.is_connected:
            with suppress(TimeoutError):
                await self._client.flush(timeout=2)
        await self.broker.stop()
        self._client = None

    def on(self, subject: str, *, concurrency: int = 16) -> Subscriber:
        """Decorator: the handler answers requests on ``subject``, shared among the instances of the service."""
        return _checked(self.broker.subscriber(subject, queue=self.service, max_workers=concurrency))

    def on_every_instance(self, subject: str) -> Subscriber:
        """Decorator: the handler hears each message on ``subject`` in every instance, as long as it is connected."""
        return _checked(self.broker.subscriber(subject, no_reply=True))

    def on_durable(
        self,
        subject: str,
        *,
        stream: str,
        name: str,
        concurrency: int,
        in_flight: int | None = None,
        deliveries: int = MAX_DELIVERIES,
        decoder: Decoder | None = None,
    ) -> Subscriber:
        """Decorator: the handler is given each message of ``subject`` in ``stream`` at least once.

        A message is acknowledged when the handler returns, comes again after a growing delay when it raised, and is
        kept as a dead letter after ``deliveries`` (``MAX_DELIVERIES`` for what is unforeseen), or at once when trying
        again cannot help. One instance handles ``concurrency`` at a time, all together ``in_flight`` (left out: as
        many). ``decoder`` makes the handler's argument of a message; left out, it is the message's JSON.
        """
        self._deliveries[name] = deliveries
        self._consumers.append((stream, name))
        subscriber = self.broker.subscriber(
            subject,
            stream=JStream(stream, declare=False),
            durable=name,
            pull_sub=PullSub(batch_size=1, timeout=5.0),  # batch_size=1: faststream#2563
            inbox_prefix=f"{inbox_prefix(self.service)}.".encode(),
            config=ConsumerConfig(
                ack_wait=ACK_WAIT_SECONDS,
                max_deliver=deliveries,
                max_ack_pending=in_flight or concurrency,
                filter_subject=subject,
            ),
            decoder=decoder,
            max_workers=concurrency,
        )
        return _checked(subscriber)

    def gives_up_on(self, message: Msg, error: LoopaiError) -> bool:
        """Whether a durable message that failed with ``error`` becomes a dead letter instead of coming again."""
        internal = isinstance(error, Internal)
        most = MAX_DELIVERIES if internal else self._deliveries.get(message.metadata.consumer, MAX_DELIVERIES)
        return not (error.retryable or internal) or (message.metadata.num_delivered or 1) >= most

    async def keep_dead_letter(self, message: "StoredMessage", error: LoopaiError, deliveries: int) -> None:
        """Keeps a message that cannot be handled for an operator, once however often this is called for it."""
        log.error("message_dead", subject=message.subject, code=error.code, reason=error.message, deliveries=deliveries)
        headers = {
            **{k: v for k, v in message.headers.items() if k != subjects.MESSAGE_ID_HEADER},
            **failure_headers(error),
            subjects.BURIED_SUBJECT_HEADER: message.subject,
            subjects.BURIED_DELIVERIES_HEADER: str(deliveries),
            subjects.MESSAGE_ID_HEADER: f"dlq-{message.stream}-{message.sequence}",
        }
        letter = subjects.dead_letter(message.subject)
        await self.jetstream.publish(letter, message.body, headers=headers, timeout=5.0)
        self.metrics.dead_letters.labels(subject_class(message.subject)).inc()

    def on_raw(self, subject: str, handler: RawHandler) -> None:
        """The handler takes undecoded messages on ``subject``, one at a time, and answers them itself, now or later.

        For messages that each carry many requests: neither FastStream nor a request context stands between, which
        cost more than such a message is worth. What the handler raises is answered like any other failure.
        """
        self._raw[subject] = handler

    async def listen(self, subject: str, handler: RawHandler, *, queue: str = "") -> Subscription:
        """From now on the handler takes undecoded messages on ``subject``, at once, as they are read; of those who name
        the same ``queue`` one takes each.
        """

        def guarded(message: Msg) -> None:
            try:
                handler(message)
            except Exception:
                self.metrics.errors.inc()
                log.exception("handler_failed", subject=subject)

        subscription = await self.client.subscribe(subject, queue=queue)
        direct.hand_on(subscription, guarded)
        return subscription

    def send(self, subject: str, payload: bytes, *, reply: str = "", headers: Mapping[str, str] | None = None) -> None:
        """Sends a message at once, or as soon as it can go, behind those before it. Nobody is told when it is lost:
        that is counted, and logged. Neither the subjects nor the headers are checked.
        """
        if self._client is None:
            self._lost(subject, BusUnavailable("not connected to NATS"))
        elif self._sends or not direct.write(self._client, subject, payload, reply, headers or {}):
            self._send_soon(self._client, subject, payload, reply, headers)

    def on_reconnect(self, hook: Callable[[], None]) -> None:
        """Calls ``hook`` when the connection is back: what was told meanwhile to every instance was not heard."""
        self._reconnect_hooks.append(hook)

    def answer_ping(self, readiness: Readiness) -> None:
        """Lets other services see that this one is there, and how it is."""

        async def ping(question: Ping) -> Pong:
            report = await readiness.report()
            return Pong(service=self.service, version=__version__, status=report.status, detail=report.detail)

        self.on(subjects.ping(self.service))(ping)

    def _answering(self, subject: str, handler: RawHandler) -> RawHandler:
        ok = self.metrics.messages.labels(subject, "ok")
        failed = self.metrics.messages.labels(subject, "error")

        def taking(message: Msg) -> None:
            try:
                handler(message)
            except Exception as error:
                failed.inc()
                known = as_loopai_error(error)
                if known is None:
                    log.exception("handler_failed", subject=subject)
                    known = Internal("something unforeseen happened; the log has the cause")
                if message.reply:
                    reply = _failed(known)
                    self._send_soon(self.client, message.reply, reply.body, "", reply.headers)
            else:
                ok.inc()

        return taking

    def _send_soon(
        self, client: Client, subject: str, payload: bytes, reply: str, headers: Mapping[str, str] | None
    ) -> None:
        self.in_flight += 1
        task = asyncio.create_task(client.publish(subject, payload, reply, headers=dict(headers) if headers else None))
        self._sends.add(task)
        task.add_done_callback(lambda task: self._sent(subject, task))

    def _sent(self, subject: str, task: "asyncio.Task[None]") -> None:
        self._sends.discard(task)
        self.in_flight -= 1
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._lost(subject, error)

    def _lost(self, subject: str, error: BaseException) -> None:
        self.metrics.errors.inc()
        log.warning("message_not_sent", subject=subject_class(subject), error_type=type(error).__name__)

    def _boundary(self, message: Any, /, *, context: Any) -> "Boundary":
        return Boundary(message, context=context, bus=self)

    async def _watch_consumers(self) -> None:
        """Keeps the gauges of the durable consumers and of their streams; while NATS is away they stay as they were."""
        while True:
            with suppress(NatsError, BusUnavailable):
                for stream, consumer in self._consumers:
                    info = await self.jetstream.consumer_info(stream, consumer)
                    self.metrics.pending.labels(consumer).set(info.num_pending or 0)
                    self.metrics.unacknowledged.labels(consumer).set(info.num_ack_pending or 0)
                for stream in {stream for stream, _ in self._consumers}:
                    kept = (await self.jetstream.stream_info(stream)).state
                    self.metrics.stream_messages.labels(stream).set(kept.messages)
                    self.metrics.stream_bytes.labels(stream).set(kept.bytes)
            await asyncio.sleep(_CONSUMERS_SECONDS)

    async def _drain_subscribers(self) -> None:
        for subscription in self._raw_subscriptions:
            if self.connected:
                await subscription.drain()
        self._raw_subscriptions.clear()
        for subscriber in self.broker.subscribers:
            if not isinstance(subscriber, LogicSubscriber) or subscriber.subscription is None:
                continue
            consumer: Any = subscriber.subscription
            if hasattr(consumer, "fetch"):
                continue  # stops fetching in broker.stop(); what was not acknowledged comes again
            if self.connected:
                # FastStream's own stop drops the requests that are queued; drain answers them first.
                await consumer.drain()
                subscriber.subscription = None
        quiet = 0
        while quiet < 2:
            quiet = 0 if self.in_flight or any(map(_queued, self.broker.subscribers)) else quiet + 1
            await asyncio.sleep(_DRAIN_POLL_SECONDS)

    async def _on_error(self, error: Exception) -> None:
        self.metrics.errors.inc()
        log.warning("nats_error", error_type=type(error).__name__, error=str(error))

    async def _on_disconnected(self) -> None:
        log.warning("nats_disconnected")

    async def _on_reconnected(self) -> None:
        self.metrics.reconnects.inc()
        log.info("nats_reconnected")
        for hook in self._reconnect_hooks:
            hook()


def _checked(register: Subscriber) -> Subscriber:
    """FastDepends hands a parameter whose name begins with '_' over unchecked: such a handler is refused."""

    def checked(handler: Callable[..., Awaitable[Any]]) -> Any:
        if any(name.startswith("_") for name in inspect.signature(handler).parameters):
            raise TypeError(f"{handler.__name__}: a parameter that begins with '_' is not validated; name it")
        return register(handler)

    return checked


async def _decode(message: StreamMessage[Any]) -> Any:
    """The JSON of a message; bytes that are none fail the handler's contract, inside the boundary.

    What a decoder raises, FastStream swallows: the sender would wait, and a durable message come again and again.
    """
    try:
        return json.loads(message.body)
    except (ValueError, RecursionError):
        return message.body


def _queued(subscriber: Any) -> bool:
    stream = getattr(subscriber, "receive_stream", None)
    return stream is not None and stream.statistics().current_buffer_used > 0


class Boundary(BaseMiddleware[Any, Any]):
    """Runs a handler within its request's context, and settles what it returned or raised. One for each message."""

    def __init__(self, message: Any, /, *, context: Any, bus: Bus) -> None:
        super().__init__(message, context=context)
        self._bus = bus

    async def consume_scope(
        self, call_next: Callable[[StreamMessage[Any]], Awaitable[Any]], message: StreamMessage[Any]
    ) -> Any:
        raw: Msg = message.raw_message
        durable = raw.reply.startswith(_ACK_SUBJECT)
        subject = subject_class(raw.subject)
        metrics = self._bus.metrics
        if durable and (raw.metadata.num_delivered or 1) > 1:
            metrics.redeliveries.labels(subject).inc()
        self._bus.in_flight += 1
        started = time.perf_counter()
        try:
            with context.bound(context.from_headers(message.headers)), self._span(raw, durable=durable) as span:
                try:
                    result = await self._call(call_next, message, durable=durable)
                except asyncio.CancelledError:
                    if durable:  # this instance stops: another one need not wait until the message is overdue
                        await raw.nak()
                    raise
                except Exception as error:
                    known = as_loopai_error(error)
                    if known is None:
                        log.exception("handler_failed", subject=raw.subject)
                        known = Internal("something unforeseen happened; the log has the cause")
                    dropped = isinstance(error, DeadlineExceeded)
                    outcome = "internal" if isinstance(known, Internal) else "dropped" if dropped else "error"
                    metrics.messages.labels(subject, outcome).inc()
                    span.fail(known.code)
                    if durable:
                        return await self._settle_failed(raw, known)
                    return _failed(known)
                metrics.messages.labels(subject, "ok").inc()
                if durable:
                    await raw.ack()
                    return None
                return self._answer(result)
        finally:
            metrics.duration.labels(subject).observe(time.perf_counter() - started)
            self._bus.in_flight -= 1

    @staticmethod
    def _span(raw: Msg, *, durable: bool) -> AbstractContextManager[tracing.Span]:
        name = subject_class(raw.subject)
        if raw.subject.startswith(_REQUESTS):
            return tracing.span(name, kind=tracing.Kind.SERVER, attributes=rpc_attributes(name))
        consumer = {"messaging.consumer.group.name": raw.metadata.consumer} if durable else {}
        attributes = message_attributes(name, "process", **consumer)
        return tracing.span(f"process {name}", kind=tracing.Kind.CONSUMER, attributes=attributes)

    async def _call(self, call_next: Callable[[Any], Awaitable[Any]], message: Any, *, durable: bool) -> Any:
        if not durable:
            context.seconds_left(1.0)
            return await call_next(message)
        heartbeat = asyncio.create_task(_stay_in_progress(message.raw_message))
        try:
            return await call_next(message)
        finally:
            await cancelled(heartbeat)

    def _answer(self, result: Any) -> Any:
        if not isinstance(result, Contract):
            return result
        body = result.model_dump_json().encode()
        if len(body) > self._bus.max_payload_bytes:
            return _failed(PayloadTooLarge("the answer is larger than one message may be; ask for less at a time"))
        return NatsResponse(body, headers={"content-type": "application/json"})

    async def _settle_failed(self, raw: Msg, error: LoopaiError) -> None:
        deliveries = raw.metadata.num_delivered or 1
        if not self._bus.gives_up_on(raw, error):
            delay = _RETRY_DELAYS_SECONDS[min(deliveries, len(_RETRY_DELAYS_SECONDS)) - 1]
            log.warning("message_delayed", subject=raw.subject, code=error.code, deliveries=deliveries, delay=delay)
            await raw.nak(delay=delay)
            return
        stored = StoredMessage(
            raw.subject, raw.data, raw.headers or {}, raw.metadata.stream, raw.metadata.sequence.stream
        )
        await self._bus.keep_dead_letter(stored, error, deliveries)
        await raw.term()


def message_id(message: Msg) -> str:
    """The same for every delivery of a durable message: the sender's id for it, else its place in the stream."""
    sent = (message.headers or {}).get(subjects.MESSAGE_ID_HEADER)
    metadata = message.metadata
    # A stream that was made anew counts from 1 again; the time keeps its messages apart from the old ones.
    return sent or f"{metadata.sequence.stream}@{metadata.timestamp.isoformat()}"


async def _stay_in_progress(raw: Msg) -> None:
    """Tells JetStream that a long piece of work is still being done, so that nobody else is given it."""
    while True:
        await asyncio.sleep(ACK_WAIT_SECONDS / 3)
        await raw.in_progress()


def _failed(error: LoopaiError) -> NatsResponse:
    return NatsResponse(
        failure_of(error).model_dump_json().encode(),
        headers={"content-type": "application/json", **failure_headers(error)},
    )


def subject_class(subject: str) -> str:
    """The subject without what names a task, so that the number of metric series is bounded."""
    return subjects.EXECUTE if subject.startswith(f"{subjects.EXECUTE}.") else subject


def rpc_attributes(subject: str) -> tracing.Attributes:
    """What a span of a request on ``subject`` is labelled with."""
    return {"rpc.system.name": "nats", "rpc.method": subject_class(subject)}


def message_attributes(subject: str, operation: str, **more: str) -> tracing.Attributes:
    """What a span of a message on ``subject`` is labelled with; ``operation`` is ``send`` or ``process``."""
    return {
        "messaging.system": "nats",
        "messaging.destination.name": subject_class(subject),
        "messaging.operation.type": operation,
        "messaging.operation.name": operation,
        **more,
    }


def sending(subject: str, message_id: str = "") -> AbstractContextManager[tracing.Span]:
    """A span of the current request for what is published on ``subject`` in the block."""
    more = {"messaging.message.id": message_id} if message_id else {}
    return tracing.span(
        f"send {subject_class(subject)}",
        kind=tracing.Kind.PRODUCER,
        attributes=message_attributes(subject, "send", **more),
    )
