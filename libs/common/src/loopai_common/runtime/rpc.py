"""Requests to other services: one deadline, typed errors, typed answers."""

import asyncio
import time
from typing import TypeVar

from nats.aio.msg import Msg
from nats.errors import ConnectionClosedError, MaxPayloadError, NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError

from loopai_common.contracts import subjects
from loopai_common.contracts.base import Contract
from loopai_common.contracts.failure import ERROR_CODE_HEADER
from loopai_common.errors import (
    BusUnavailable,
    DeadlineExceeded,
    LoopaiError,
    NoExecutor,
    NoGeneratorProxy,
    PayloadTooLarge,
    StoreUnavailable,
)
from loopai_common.runtime import context, tracing
from loopai_common.runtime.broker import Bus, rpc_attributes, subject_class
from loopai_common.runtime.errors import raise_failure

T = TypeVar("T", bound=Contract)

_NO_RESPONDERS_RETRY_SECONDS = 0.025

# Who is missing when nobody listens on a subject.
_ABSENT: tuple[tuple[str, type[LoopaiError], str], ...] = (
    ("loopai.rpc.v1.execute.", NoExecutor, "no executor is running; start one, or try again"),
    (subjects.FRAMES, NoExecutor, "no executor is running; start one, or try again"),
    (subjects.PROGRAMS_CHECK, NoExecutor, "no executor is running; start one, or try again"),
    (subjects.ping("executor"), NoExecutor, "no executor is running"),
    (subjects.ping("generator-proxy"), NoGeneratorProxy, "no generator-proxy is running"),
    (
        subjects.PROGRAMS_SUBMIT,
        NoGeneratorProxy,
        "no generator-proxy is running, which checks programs; start one, or try again",
    ),
    ("loopai.rpc.v1.", StoreUnavailable, "the artifact store is not running; start it, or try again"),
)


class RpcClient:
    """Calls other services over the bus. Safe to share among tasks."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def call(self, subject: str, request: Contract, answer: type[T], *, timeout: float) -> T:
        """Sends ``request`` and returns the typed answer.

        ``timeout`` (seconds) is shortened to what the current request has left. Raises the error that the other side
        raised, :class:`DeadlineExceeded`, the error that says who is missing, or :class:`BusUnavailable`.
        """
        message = await self.send(subject, request.model_dump_json().encode(), timeout=timeout)
        return answer.model_validate_json(message.data)

    async def send(self, subject: str, body: bytes, *, timeout: float) -> Msg:
        """As :meth:`call`, with bytes that are passed on untouched."""
        with tracing.span(subject_class(subject), kind=tracing.Kind.CLIENT, attributes=rpc_attributes(subject)):
            return await self._send(subject, body, timeout)

    async def _send(self, subject: str, body: bytes, timeout: float) -> Msg:
        seconds = context.seconds_left(timeout)
        if not self._bus.connected:
            raise BusUnavailable("not connected to NATS; try again")
        if len(body) > self._bus.max_payload_bytes:
            raise PayloadTooLarge("the message is larger than the bus carries")
        deadline = time.time() + seconds
        headers = context.to_headers(context.current(), deadline)
        try:
            message = await self._request(subject, body, headers, seconds)
        except NatsTimeoutError as error:
            raise DeadlineExceeded("the service did not answer in time") from error
        except MaxPayloadError as error:
            raise PayloadTooLarge("the message is larger than the bus carries") from error
        except ConnectionClosedError as error:
            raise BusUnavailable("the connection to NATS is closed; try again") from error
        except NoRespondersError as error:
            raise _absent(subject) from error
        if message.headers is not None and ERROR_CODE_HEADER in message.headers:
            raise_failure(message.data)
        return message

    async def _request(self, subject: str, body: bytes, headers: dict[str, str], seconds: float) -> Msg:
        try:
            return await self._bus.client.request(subject, body, timeout=seconds, headers=headers)
        except NoRespondersError:
            # Right after a (re)start the subscription may not have reached the server yet: once more, shortly.
            await asyncio.sleep(min(_NO_RESPONDERS_RETRY_SECONDS, seconds))
            return await self._bus.client.request(subject, body, timeout=seconds, headers=headers)


def _absent(subject: str) -> LoopaiError:
    for prefix, kind, message in _ABSENT:
        if subject.startswith(prefix):
            return kind(message)
    return BusUnavailable("nobody listens on the subject")
