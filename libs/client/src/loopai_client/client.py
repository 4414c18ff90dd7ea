"""The Python client: typed calls of the HTTP API, blocking (:class:`LoopaiClient`) and asyncio.

What is asked and how answers are read is in :mod:`loopai_client.calls`, what is tried again in
:mod:`loopai_client.retries`; here is how requests travel, once for each kind of caller.
"""

import asyncio
import inspect
import os
import re
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import update_wrapper
from types import TracebackType
from typing import Any, Concatenate, Final, ParamSpec, Protocol, Self, TypeVar

import httpx

from loopai_client import calls
from loopai_client.calls import Call, EventStream, Paged, Polled, StreamedBatch, TaskReference
from loopai_client.errors import ApiError, LoopaiError, UnexpectedAnswer, Unreachable, api_error
from loopai_client.framing import Lines, Windows
from loopai_client.models import BatchItem, BatchLine, TaskEvent
from loopai_client.retries import Attempts, Broken

DEFAULT_URL: Final = "http://127.0.0.1:8080"
MAX_WAIT_SECONDS: Final = calls.MAX_WAIT_SECONDS

_TIMEOUT_SECONDS = 30.0
_CONNECT_SECONDS = 5.0
_HEADER_VALUE = re.compile(r"[\x21-\x7e]+")

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
F = TypeVar("F", bound=Callable[..., Any])


class _Lines(Protocol[T_co]):
    """Something that comes in lines, over one connection or over several."""

    @property
    def finished(self) -> bool: ...

    @property
    def pause_seconds(self) -> float: ...

    def call(self) -> Call[None]: ...

    def answered(self, status: int) -> None: ...

    def feed(self, line: bytes) -> T_co | None: ...


def _described(method: F, make: Callable[..., Any]) -> F:
    """The method under the name, the description and the parameters of the call that it makes."""
    update_wrapper(method, make)
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    signature = inspect.Signature([own, *inspect.signature(make).parameters.values()])
    method.__signature__ = signature  # type: ignore[attr-defined]  # where inspect looks; typeshed does not know it
    return method


class _Client:
    """What both clients know: where the API is, and what each attempt of a call means."""

    def __init__(self, url: str, timeout_seconds: float) -> None:
        self.url = url.rstrip("/")
        self._timeout_seconds = timeout_seconds

    def _attempts(self, call: Call[Any]) -> Attempts:
        seconds = self._timeout_seconds + call.extra_seconds
        return Attempts(self.url, repeatable=call.repeatable, seconds=seconds, patience_seconds=call.patience_seconds)


class LoopaiClient(_Client):
    """Calls one Loopai API, blocking. Safe to share among threads; close it, or use it in a ``with``.

    Without ``api_key``, ``LOOPAI_API_KEY`` of the environment is sent where it is set; an empty one is none. A call
    takes ``timeout_seconds`` at most, all its attempts together, and what it asks the server to wait. Every method
    raises :class:`ApiError` and :class:`Unreachable`.
    """

    def __init__(
        self, url: str = DEFAULT_URL, *, api_key: str | None = None, timeout_seconds: float = _TIMEOUT_SECONDS
    ) -> None:
        super().__init__(url, timeout_seconds)
        self._http = httpx.Client(**_transport(self.url, api_key))

    @staticmethod
    def _method(make: Callable[P, Call[T]]) -> Callable[Concatenate["LoopaiClient", P], T]:
        def method(self: "LoopaiClient", /, *args: P.args, **kwargs: P.kwargs) -> T:
            return self._send(make(*args, **kwargs))

        return _described(method, make)

    @staticmethod
    def _iterator(make: Callable[P, Paged[T]]) -> Callable[Concatenate["LoopaiClient", P], Iterator[T]]:
        def method(self: "LoopaiClient", /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
            return self._pages(make(*args, **kwargs))

        return _described(method, make)

    @staticmethod
    def _waiting(make: Callable[P, Polled[T]]) -> Callable[Concatenate["LoopaiClient", P], T]:
        def method(self: "LoopaiClient", /, *args: P.args, **kwargs: P.kwargs) -> T:
            return self._poll(make(*args, **kwargs))

        return _described(method, make)

    create_task = _method(calls.create_task)
    get_task = _method(calls.get_task)
    list_tasks = _iterator(calls.list_tasks)
    update_task = _method(calls.update_task)
    archive_task = _method(calls.archive_task)
    generate = _method(calls.generate)
    wait_for_task = _waiting(calls.wait_for_task)
    execute = _method(calls.execute)
    execute_async = _method(calls.execute_async)
    get_execution = _method(calls.get_execution)
    wait_for_execution = _waiting(calls.wait_for_execution)
    list_executions = _iterator(calls.list_executions)
    batch = _method(calls.batch)
    list_artifacts = _iterator(calls.list_artifacts)
    get_artifact = _method(calls.get_artifact)
    get_code = _method(calls.get_code)
    upload_artifact = _method(calls.upload_artifact)
    activate = _method(calls.activate)
    list_activations = _iterator(calls.list_activations)
    health = _method(calls.health)
    readiness = _method(calls.readiness)
    metrics = _method(calls.metrics)

    def events(self, task: TaskReference, *, last_event_id: str | None = None) -> Iterator[TaskEvent]:
        """What happens to a task, as it happens, until it is archived; first of all the task as it is, as ``task``.

        A connection that breaks is made again, from the last event that came.
        """
        return self._stream(EventStream(task, last_event_id))

    def batch_stream(
        self,
        task: TaskReference,
        items: Iterable[BatchItem],
        *,
        version: int | None = None,
        timeout_ms: int | None = None,
        max_concurrency: int | None = None,
    ) -> Iterator[BatchLine]:
        """Runs any number of items, and gives their results in order while it takes more of them.

        Only a part of them is kept at a time, each in a request of its own, which is sent again where it broke off.
        Without ``version`` every item runs the version that is active at its time.
        """
        options = {"version": version, "timeout_ms": timeout_ms, "max_concurrency": max_concurrency}
        streamed, windows = StreamedBatch(task, options), Windows()
        for item in items:
            for lines in windows.add(streamed.line(item)):
                yield from self._stream(streamed.window(lines))
        for lines in windows.rest():
            yield from self._stream(streamed.window(lines))

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, call: Call[T]) -> T:
        attempts = self._attempts(call)
        while True:
            seconds = attempts.attempt_seconds()
            try:
                with self._http.stream(**_request(call), timeout=_timeouts(seconds)) as response:
                    answer = _answer(response, b"".join(_within(seconds, response.iter_bytes())))
            except httpx.TransportError as error:
                pause = _after(attempts, error)
            else:
                if _is_answered(call, answer):
                    return _read(call, answer)
                pause = _after_refusal(attempts, answer)
            time.sleep(pause)

    def _pages(self, paged: Paged[T]) -> Iterator[T]:
        cursor: str | None = None
        while True:
            items, cursor = self._send(paged.page(cursor))
            yield from items
            if cursor is None:
                return

    def _poll(self, polled: Polled[T]) -> T:
        for pause in polled.pauses(time.monotonic):
            value = self._send(polled.call)
            if polled.until(value):
                return value
            time.sleep(pause)
        raise polled.expired()

    def _stream(self, source: _Lines[T]) -> Iterator[T]:
        attempts = self._attempts(source.call())
        while not source.finished:
            call, lines = source.call(), Lines()
            timeout = _timeouts(attempts.attempt_seconds())
            try:
                with self._http.stream(**_request(call), timeout=timeout) as response:
                    if response.is_success:
                        source.answered(response.status_code)
                        for chunk in response.iter_bytes():
                            for line in lines.feed(chunk):
                                if (item := _fed(source, call, response.status_code, line)) is not None:
                                    attempts.progressed()
                                    yield item
                        pause = 0.0 if source.finished else attempts.after(_CUT_OFF)
                    else:
                        pause = _after_refusal(attempts, _answer(response, response.read()))
            except httpx.TransportError as error:
                pause = _after(attempts, error)
            time.sleep(max(pause, source.pause_seconds))


class AsyncLoopaiClient(_Client):
    """As :class:`LoopaiClient`, for asyncio."""

    def __init__(
        self, url: str = DEFAULT_URL, *, api_key: str | None = None, timeout_seconds: float = _TIMEOUT_SECONDS
    ) -> None:
        super().__init__(url, timeout_seconds)
        self._http = httpx.AsyncClient(**_transport(self.url, api_key))

    @staticmethod
    def _method(make: Callable[P, Call[T]]) -> Callable[Concatenate["AsyncLoopaiClient", P], Coroutine[Any, Any, T]]:
        async def method(self: "AsyncLoopaiClient", /, *args: P.args, **kwargs: P.kwargs) -> T:
            return await self._send(make(*args, **kwargs))

        return _described(method, make)

    @staticmethod
    def _iterator(make: Callable[P, Paged[T]]) -> Callable[Concatenate["AsyncLoopaiClient", P], AsyncIterator[T]]:
        def method(self: "AsyncLoopaiClient", /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
            return self._pages(make(*args, **kwargs))

        return _described(method, make)

    @staticmethod
    def _waiting(
        make: Callable[P, Polled[T]],
    ) -> Callable[Concatenate["AsyncLoopaiClient", P], Coroutine[Any, Any, T]]:
        async def method(self: "AsyncLoopaiClient", /, *args: P.args, **kwargs: P.kwargs) -> T:
            return await self._poll(make(*args, **kwargs))

        return _described(method, make)

    create_task = _method(calls.create_task)
    get_task = _method(calls.get_task)
    list_tasks = _iterator(calls.list_tasks)
    update_task = _method(calls.update_task)
    archive_task = _method(calls.archive_task)
    generate = _method(calls.generate)
    wait_for_task = _waiting(calls.wait_for_task)
    execute = _method(calls.execute)
    execute_async = _method(calls.execute_async)
    get_execution = _method(calls.get_execution)
    wait_for_execution = _waiting(calls.wait_for_execution)
    list_executions = _iterator(calls.list_executions)
    batch = _method(calls.batch)
    list_artifacts = _iterator(calls.list_artifacts)
    get_artifact = _method(calls.get_artifact)
    get_code = _method(calls.get_code)
    upload_artifact = _method(calls.upload_artifact)
    activate = _method(calls.activate)
    list_activations = _iterator(calls.list_activations)
    health = _method(calls.health)
    readiness = _method(calls.readiness)
    metrics = _method(calls.metrics)

    def events(self, task: TaskReference, *, last_event_id: str | None = None) -> AsyncIterator[TaskEvent]:
        """As :meth:`LoopaiClient.events`."""
        return self._stream(EventStream(task, last_event_id))

    async def batch_stream(
        self,
        task: TaskReference,
        items: Iterable[BatchItem] | AsyncIterable[BatchItem],
        *,
        version: int | None = None,
        timeout_ms: int | None = None,
        max_concurrency: int | None = None,
    ) -> AsyncIterator[BatchLine]:
        """As :meth:`LoopaiClient.batch_stream`."""
        options = {"version": version, "timeout_ms": timeout_ms, "max_concurrency": max_concurrency}
        streamed, windows = StreamedBatch(task, options), Windows()
        async for item in _each(items):
            for lines in windows.add(streamed.line(item)):
                async for result in self._stream(streamed.window(lines)):
                    yield result
        for lines in windows.rest():
            async for result in self._stream(streamed.window(lines)):
                yield result

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _send(self, call: Call[T]) -> T:
        attempts = self._attempts(call)
        while True:
            seconds = attempts.attempt_seconds()
            try:
                async with _timeout(seconds):
                    response = await self._http.request(**_request(call), timeout=_timeouts(seconds))
                answer = _answer(response, response.content)
            except httpx.TransportError as error:
                pause = _after(attempts, error)
            else:
                if _is_answered(call, answer):
                    return _read(call, answer)
                pause = _after_refusal(attempts, answer)
            await asyncio.sleep(pause)

    async def _pages(self, paged: Paged[T]) -> AsyncIterator[T]:
        cursor: str | None = None
        while True:
            items, cursor = await self._send(paged.page(cursor))
            for item in items:
                yield item
            if cursor is None:
                return

    async def _poll(self, polled: Polled[T]) -> T:
        for pause in polled.pauses(time.monotonic):
            value = await self._send(polled.call)
            if polled.until(value):
                return value
            await asyncio.sleep(pause)
        raise polled.expired()

    async def _stream(self, source: _Lines[T]) -> AsyncIterator[T]:
        attempts = self._attempts(source.call())
        while not source.finished:
            call, lines = source.call(), Lines()
            timeout = _timeouts(attempts.attempt_seconds())
            try:
                async with self._http.stream(**_request(call), timeout=timeout) as response:
                    if response.is_success:
                        source.answered(response.status_code)
                        async for chunk in response.aiter_bytes():
                            for line in lines.feed(chunk):
                                if (item := _fed(source, call, response.status_code, line)) is not None:
                                    attempts.progressed()
                                    yield item
                        pause = 0.0 if source.finished else attempts.after(_CUT_OFF)
                    else:
                        pause = _after_refusal(attempts, _answer(response, await response.aread()))
            except httpx.TransportError as error:
                pause = _after(attempts, error)
            await asyncio.sleep(max(pause, source.pause_seconds))


_CUT_OFF = Broken("the answer ended before its end", sent=True)
_NOT_CONNECTED = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


def _base_url(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise Unreachable(f"{url} is no URL: {error}") from error
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise Unreachable(f"{url} is no URL: it must begin with http:// or https:// and a host")
    return parsed


def _transport(url: str, api_key: str | None) -> dict[str, Any]:
    """How either client is made. The key is in it, so it is kept nowhere else."""
    return {
        "base_url": _base_url(url),
        "headers": _authorization(api_key),
        "trust_env": not _is_loopback(url),
    }


def _authorization(api_key: str | None) -> dict[str, str]:
    """The header with the key. What cannot be one is refused here: the errors of HTTP libraries would show it."""
    key = (os.environ.get("LOOPAI_API_KEY", "") if api_key is None else api_key).strip()
    if not key:
        return {}
    if _HEADER_VALUE.fullmatch(key) is None:
        raise LoopaiError("the API key has characters that no key has")
    return {"Authorization": f"Bearer {key}"}


def _is_loopback(url: str) -> bool:
    """Whether the URL is on this machine, where a proxy from the environment has no place."""
    return _base_url(url).host in {"127.0.0.1", "::1", "localhost"}


def _request(call: Call[Any]) -> dict[str, Any]:
    """The call as httpx takes it."""
    return {
        "method": call.method,
        "url": call.path,
        "content": call.content,
        "params": call.params,
        "headers": call.headers,
    }


def _timeouts(seconds: float) -> httpx.Timeout:
    return httpx.Timeout(seconds, connect=min(seconds, _CONNECT_SECONDS))


def _within(seconds: float, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The chunks, for so long; httpx's own time-outs begin anew with every byte."""
    ends = time.monotonic() + seconds
    for chunk in chunks:
        if time.monotonic() > ends:
            raise httpx.ReadTimeout("")
        yield chunk


@asynccontextmanager
async def _timeout(seconds: float) -> AsyncIterator[None]:
    """As :func:`_within`, for all of an attempt."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise httpx.ReadTimeout("") from error


def _after(attempts: Attempts, error: httpx.TransportError) -> float:
    """The pause before the next attempt; raises :class:`Unreachable` when there is none."""
    timed_out = isinstance(error, httpx.TimeoutException)
    why = "it did not answer in time" if timed_out else str(error) or type(error).__name__
    try:
        return attempts.after(Broken(why, sent=not isinstance(error, _NOT_CONNECTED), timed_out=timed_out))
    except Unreachable as unreachable:
        raise unreachable from error


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    reason: str
    retry_after: str | None
    body: bytes

    def error(self) -> ApiError:
        return api_error(self.status, self.reason, self.body)


def _answer(response: httpx.Response, body: bytes) -> _Answer:
    return _Answer(response.status_code, response.reason_phrase, response.headers.get("Retry-After"), body)


def _is_answered(call: Call[Any], answer: _Answer) -> bool:
    return 200 <= answer.status < 300 or answer.status in call.also_read


def _after_refusal(attempts: Attempts, answer: _Answer) -> float:
    return attempts.after_refusal(answer.error(), answer.retry_after, datetime.now(UTC))


def _read(call: Call[T], answer: _Answer) -> T:
    try:
        return call.read(answer.body)
    except (ValueError, RecursionError) as error:
        raise _unexpected(call, answer.status) if answer.status < 300 else answer.error() from error


def _fed(source: _Lines[T], call: Call[Any], status: int, line: bytes) -> T | None:
    try:
        return source.feed(line)
    except (ValueError, RecursionError) as error:
        raise _unexpected(call, status) from error


def _unexpected(call: Call[Any], status: int) -> UnexpectedAnswer:
    message = f"{call.method} {call.path} answered something that is not Loopai's; is the URL right?"
    return UnexpectedAnswer(status, message)


async def _each(items: Iterable[BatchItem] | AsyncIterable[BatchItem]) -> AsyncIterator[BatchItem]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
