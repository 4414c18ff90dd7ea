"""Any endpoint that speaks OpenAI's ``chat/completions``, by plain HTTP: OpenAI, Azure, Ollama, vLLM, gateways.

One call, never repeated: the generator-proxy does that. Nothing of what was sent or answered gets into a message or a
log, but for the short codes that errors are named by.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NoReturn

import httpx
import pydantic
from pydantic import BaseModel

from loopai_common import json_text
from loopai_common.contracts.generation import MAX_RESPONSE_BYTES
from loopai_common.contracts.subjects import CORRELATION_HEADER
from loopai_common.errors import LoopaiError, MalformedJson
from loopai_common.runtime import context
from loopai_common.runtime.logging import get_logger
from loopai_generator.language_model.chat import (
    Completion,
    Declined,
    Message,
    ModelBusy,
    ModelTimedOut,
    ModelUnavailable,
    Usage,
)

_BASE_URL = "LOOPAI_GENERATOR_OPENAI_BASE_URL"
_MAX_MODEL_CHARACTERS = 200
_CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_FILTERED = frozenset({"content_filter", "content_policy_violation", "ResponsibleAIPolicyViolation"})
_TOO_LONG = frozenset({"context_length_exceeded", "string_above_max_length"})
_PAID_UP = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})

log = get_logger()


class _Part(BaseModel):
    type: str = "text"
    text: str | None = None


class _Message(BaseModel):
    content: str | list[_Part | str] | None = None
    refusal: str | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            parts = [part if isinstance(part, str) else (part.text or "") for part in self.content if _is_text(part)]
            return "".join(parts)
        return self.content or ""


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None

    @property
    def problem(self) -> str | None:
        if self.finish_reason == "content_filter":
            return _filtered("answer")
        if self.finish_reason == "length":
            return (
                "the language model's answer was cut off at its limit of tokens; raise "
                "LOOPAI_GENERATOR_OPENAI_MAX_TOKENS, or the model's own limit"
            )
        if self.message.refusal:
            return "the language model refuses the task; describe it in other words, or use another model"
        return None


class _Usage(BaseModel):
    prompt_tokens: int = pydantic.Field(ge=0)
    completion_tokens: int = pydantic.Field(default=0, ge=0)


class _Answer(BaseModel):
    choices: list[_Choice]
    model: str | None = None


class OpenAIChat:
    """A :class:`~loopai_generator.ports.Chat` at ``base_url``, to which ``/chat/completions`` is added.

    ``parameters`` go into every body beside ``model`` and ``messages``; ``headers`` hold the key.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        base_url: str,
        *,
        model: str,
        headers: Mapping[str, str],
        query: Mapping[str, str],
        parameters: Mapping[str, Any],
    ) -> None:
        self._client = client
        self._url = httpx.URL(f"{base_url.rstrip('/')}/chat/completions").copy_merge_params(query)
        self._model = model
        self._headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            **headers,
        }
        self._parameters = parameters
        self._problem: str | None = None

    async def check(self) -> str | None:
        """Readiness: what went wrong with the last call, if anything did. Asks nothing: every answer costs money."""
        return self._problem

    async def complete(self, conversation: Sequence[Message], idempotency_key: str | None) -> Completion:
        """The model's answer; raises :class:`Declined` or :class:`ModelUnavailable`."""
        try:
            completion = await self._complete(conversation, idempotency_key)
        except LoopaiError as error:
            self._problem = error.message
            log.warning("language_model_failed", model=self._model, reason=error.message)
            raise
        self._problem = None
        return completion

    async def _complete(self, conversation: Sequence[Message], idempotency_key: str | None) -> Completion:
        body = {
            "model": self._model,
            "messages": [{"role": message.role, "content": message.content} for message in conversation],
            "stream": False,
            **self._parameters,
        }
        headers = {**self._headers, CORRELATION_HEADER: context.current().correlation_id}
        if idempotency_key is not None:
            headers["Idempotency-Key"] = idempotency_key
        try:
            async with self._client.stream("POST", self._url, json=body, headers=headers) as response:
                answer = await _read(response)
        except httpx.TransportError as error:
            raise ModelUnavailable(
                f"the connection to the language model failed ({type(error).__name__}); "
                f"see whether {_BASE_URL} is right and the endpoint runs"
            ) from error
        if not response.is_success:
            _refuse(response, answer)
        return await asyncio.to_thread(self._completion_of, answer)

    def _completion_of(self, answer: bytes) -> Completion:
        value = _decoded(answer)
        if isinstance(value, dict) and value.get("error") and not value.get("choices"):
            _refuse_code(_codes(value))
        try:
            parsed = _Answer.model_validate(value)
        except pydantic.ValidationError as error:
            raise Declined(
                f"the endpoint's answer is not that of chat/completions; see whether {_BASE_URL} names the right API"
            ) from error
        if not parsed.choices:
            raise Declined("the language model's answer is empty (no choices); use another model")
        choice = parsed.choices[0]
        model = (parsed.model or self._model)[:_MAX_MODEL_CHARACTERS]
        return Completion(choice.message.text, model, _usage(value), choice.problem)


def headers_of(key: str | None, style: Literal["bearer", "api-key"]) -> dict[str, str]:
    """The header that carries the key: ``Authorization: Bearer``, or Azure's ``api-key``."""
    if key is None:
        return {}
    return {"api-key": key} if style == "api-key" else {"Authorization": f"Bearer {key}"}


def http_client(connections: int) -> httpx.AsyncClient:
    """A client that follows no redirect, reads nothing from the environment, and leaves deadlines to its caller."""
    return httpx.AsyncClient(
        timeout=None,  # noqa: S113  # every call stands inside asyncio.timeout
        follow_redirects=False,
        trust_env=False,
        limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
    )


def _is_text(part: _Part | str) -> bool:
    return isinstance(part, str) or part.type in {"text", "output_text"}


async def _read(response: httpx.Response) -> bytes:
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Declined("the endpoint's answer is compressed, which was not asked for; turn that off")
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > MAX_RESPONSE_BYTES:
            raise Declined(f"the language model's answer is larger than {MAX_RESPONSE_BYTES} bytes; limit its tokens")
    return bytes(body)


def _decoded(answer: bytes) -> Any:
    try:
        return json_text.loads(answer)
    except MalformedJson as error:
        raise Declined(
            f"the endpoint's answer is not JSON ({error.message}); see whether {_BASE_URL} is right"
        ) from error


def _usage(value: Any) -> Usage | None:
    """What the answer says was used; ``None`` where it says nothing that can be read."""
    try:
        usage = _Usage.model_validate(value.get("usage"))
    except pydantic.ValidationError:
        return None
    return Usage(usage.prompt_tokens, usage.completion_tokens)


def _refuse(response: httpx.Response, answer: bytes) -> NoReturn:
    """Raises what a status other than 2xx means."""
    status = response.status_code
    try:
        codes = _codes(json_text.loads(answer))
    except MalformedJson:
        codes = ()
    named = f"HTTP {status}{f', {codes[0]}' if codes else ''}"
    if 300 <= status < 400:
        raise Declined(f"the endpoint redirects ({named}), which is not followed; correct {_BASE_URL}")
    if status in {401, 403}:
        raise Declined(f"the endpoint refuses the key ({named}); correct LOOPAI_GENERATOR_OPENAI_API_KEY")
    if status == 404:
        raise Declined(
            f"the endpoint knows no such path or model ({named}); correct {_BASE_URL} or LOOPAI_GENERATOR_OPENAI_MODEL"
        )
    if status == 429 and not _PAID_UP.intersection(codes):
        raise ModelBusy(
            f"the language model takes no more requests for now ({named})", retry_after=_retry_after(response)
        )
    if status in {408, 504}:
        raise ModelTimedOut(f"the language model took too long ({named})", retry_after=_retry_after(response))
    if status >= 500:
        raise ModelUnavailable(f"the language model failed ({named})", retry_after=_retry_after(response))
    _refuse_code(codes, named)


def _refuse_code(codes: Sequence[str], named: str | None = None) -> NoReturn:
    """Raises what an error's codes mean, where its status says no more."""
    if _FILTERED.intersection(codes):
        raise Declined(_filtered("prompt"))
    if _TOO_LONG.intersection(codes):
        raise Declined(
            "the task is too long for the language model; shorten its description and schemas, "
            "or use a model with a larger context"
        )
    if _PAID_UP.intersection(codes):
        raise Declined("the quota at the language model's provider is used up; raise it there")
    named = named or ", ".join(codes[:1]) or "no code"
    raise Declined(
        f"the endpoint refuses the request ({named}); see whether the model takes the parameters of the settings"
    )


def _filtered(what: str) -> str:
    return f"the content filter of the language model refuses the {what}; reword the description or change the examples"


def _codes(value: Any) -> tuple[str, ...]:
    """The short names by which an endpoint calls its error, the most telling first. Its sentences may repeat inputs."""
    error = value.get("error") if isinstance(value, dict) else None
    if not isinstance(error, dict):
        return ()
    inner = error.get("innererror")
    names = [error.get("code"), inner.get("code") if isinstance(inner, dict) else None, error.get("type")]
    names.append(error.get("param"))
    return tuple(name for name in names if isinstance(name, str) and _CODE.fullmatch(name))


def _retry_after(response: httpx.Response) -> str | None:
    """The ``Retry-After`` of the endpoint, to be passed on, where it is seconds or a date."""
    value: str | None = response.headers.get("Retry-After")
    return value if value is not None and re.fullmatch(r"[A-Za-z0-9 ,:+-]{1,40}", value) else None
