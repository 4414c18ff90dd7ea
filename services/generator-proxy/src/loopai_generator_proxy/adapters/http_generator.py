"""A generator over HTTP: one call, and what its answer means. How often and how long is settled in ``resilience``."""

import asyncio
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx
import pydantic

from loopai_common import json_text
from loopai_common.contracts.artifacts import MAX_CODE_BYTES, SynthesisStrategy
from loopai_common.contracts.base import GenerationId
from loopai_common.contracts.generation import MAX_RESPONSE_BYTES, GenerationRequest, GenerationResponse
from loopai_common.errors import MalformedJson
from loopai_common.runtime import context, tracing
from loopai_generator_proxy.domain import Program
from loopai_generator_proxy.resilience import AttemptFailed

_RETRIED_STATUSES = frozenset({408, 429})
_MAX_OWN_MESSAGE = 1500


class HttpGenerator:
    """Any generator that speaks the contract, at ``url``. Asks once and keeps no time."""

    def __init__(self, client: httpx.AsyncClient, url: str, *, api_key: str | None) -> None:
        self._client = client
        self._url = url.rstrip("/")
        address = httpx.URL(self._url)
        self._server: tracing.Attributes = {"server.address": address.host, "server.port": address.port or 0}
        self._authorization = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    async def attempt(self, request: GenerationRequest, generation_id: GenerationId) -> Program:
        """A program; raises :class:`AttemptFailed`, which says whether trying again can help."""
        attributes = {"http.request.method": "POST", "url.template": "/generate", **self._server}
        with tracing.span("POST /generate", kind=tracing.Kind.CLIENT, attributes=attributes) as span:
            return await self._ask(request, generation_id, span)

    async def _ask(self, request: GenerationRequest, generation_id: GenerationId, span: tracing.Span) -> Program:
        origin = context.current()
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "X-Correlation-ID": origin.correlation_id,
            "traceparent": origin.traceparent,
            "Idempotency-Key": str(generation_id),
            **self._authorization,
        }
        body = await asyncio.to_thread(lambda: request.model_dump_json().encode())
        try:
            async with self._client.stream("POST", f"{self._url}/generate", content=body, headers=headers) as response:
                span.set({"http.response.status_code": response.status_code})
                _refuse_status(response)
                answer = await _read(response)
        except httpx.TransportError as error:
            message = f"the connection to the generator failed ({type(error).__name__})"
            raise AttemptFailed("connection", message, passing=True) from error
        return await asyncio.to_thread(program_of, answer)

    async def check(self) -> str | None:
        """Readiness: ``None``, or a sentence that says how the generator's own health check failed."""
        try:
            response = await self._client.get(f"{self._url}/health")
        except httpx.HTTPError as error:
            return f"the generator does not answer ({type(error).__name__})"
        return None if response.is_success else f"the generator's health check answers {response.status_code}"


def http_client(connections: int) -> httpx.AsyncClient:
    """A client that follows no redirect, reads nothing from the environment, and leaves deadlines to its caller."""
    return httpx.AsyncClient(
        timeout=None,  # noqa: S113  # every attempt stands inside asyncio.timeout; httpx's own is per read
        follow_redirects=False,
        trust_env=False,
        limits=httpx.Limits(max_connections=2 * connections, max_keepalive_connections=connections),
    )


def program_of(answer: bytes) -> Program:
    """The program in a generator's answer; the failure says what is wrong with any other answer."""
    try:
        response = GenerationResponse.model_validate(json_text.loads(answer))
    except MalformedJson as error:
        raise AttemptFailed("invalid", f"the generator's answer is not JSON: {error.message}") from error
    except pydantic.ValidationError as error:
        fields = ", ".join(sorted({"/".join(map(str, item["loc"])) for item in error.errors(include_input=False)}))
        raise AttemptFailed(
            "invalid", f"the generator's answer breaks the contract in: {fields or 'its type'}"
        ) from error
    if not response.success:
        raise AttemptFailed("declined", (response.error_message or "the generator gave no reason")[:_MAX_OWN_MESSAGE])
    if not response.code:
        raise AttemptFailed("invalid", "the generator says success and sends no code")
    if len(response.code.encode()) > MAX_CODE_BYTES:
        raise AttemptFailed("invalid", f"the generated program is larger than {MAX_CODE_BYTES} bytes")
    return Program(
        code=response.code,
        entry_point=response.entry_point or "run",
        strategy=response.synthesis_strategy or SynthesisStrategy.AUTO,
        llm_provider=response.llm_provider,
        llm_model=response.llm_model,
        cost=response.generation_cost or 0.0,
        own_confidence=_own_confidence(response),
    )


def retry_after_seconds(value: str | None, now: datetime) -> float | None:
    """The pause that ``Retry-After`` asks for (RFC 9110: seconds, or a date); ``None`` for none or nonsense."""
    if value is None:
        return None
    if value.strip().isascii() and value.strip().isdigit():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())


def _refuse_status(response: httpx.Response) -> None:
    status = response.status_code
    if response.is_success:
        return
    if response.is_redirect or 300 <= status < 400:
        raise AttemptFailed("redirect", f"the generator answered with a redirect (HTTP {status}), and none is followed")
    raise AttemptFailed(
        "status_5xx" if status >= 500 else "status_4xx",
        f"the generator answered HTTP {status}",
        passing=status >= 500 or status in _RETRIED_STATUSES,
        retry_after_seconds=retry_after_seconds(response.headers.get("Retry-After"), datetime.now(UTC)),
    )


async def _read(response: httpx.Response) -> bytes:
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise AttemptFailed("invalid", "the generator's answer is compressed, which was not asked for")
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > MAX_RESPONSE_BYTES:
            raise AttemptFailed("invalid", f"the generator's answer is larger than {MAX_RESPONSE_BYTES} bytes")
    return bytes(body)


def _own_confidence(response: GenerationResponse) -> float:
    value = (response.metadata or {}).get("confidence")
    known = isinstance(value, (int, float)) and not isinstance(value, bool) and 0.0 <= value <= 1.0
    return float(value) if known and isinstance(value, (int, float)) else 0.0
