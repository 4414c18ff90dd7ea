"""Settings of the generator."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, HttpUrl, SecretStr, model_validator
from pydantic_core import from_json

from loopai_common.runtime.settings import ServiceSettings
from loopai_generator.language_model.chat import Price


def _decoded(value: Any) -> Any:
    return from_json(value) if isinstance(value, str) else value


class GeneratorSettings(ServiceSettings):
    """Read from ``LOOPAI_GENERATOR_…``."""

    provider: Literal["auto", "learner", "openai"] = Field(
        default="auto",
        description="Who writes programs: the built-in `learner`, or a language model behind an `openai` API. "
        "`auto` is the language model where there is an address of one.",
    )
    concurrency: int = Field(default=2, ge=1, le=64, description="How many programs are learned at the same time.")
    max_waiting: int = Field(
        default=16,
        ge=0,
        le=10_000,
        description="How many requests may wait for their turn; more are refused with 503. A language model is asked "
        "for all of them at once.",
    )
    learn_timeout_seconds: float = Field(
        default=25.0, gt=0, description="How long learning one program may take; then the request fails with a reason."
    )
    openai_base_url: HttpUrl | None = Field(
        default=None,
        description="Address of an OpenAI-compatible API; `/chat/completions` is added. "
        "`https://api.openai.com/v1`, `http://127.0.0.1:11434/v1` (Ollama), `http://127.0.0.1:8000/v1` (vLLM), "
        "`https://NAME.openai.azure.com/openai/v1`.",
    )
    openai_model: str | None = Field(
        default=None, min_length=1, description="The model, or the deployment on Azure; needed with an address."
    )
    openai_api_key: SecretStr | None = Field(default=None, description="The key, where the API wants one.")
    openai_api_key_header: Literal["bearer", "api-key"] = Field(
        default="bearer", description="How the key is sent: `Authorization: Bearer …`, or `api-key: …` as Azure wants."
    )
    openai_api_version: str | None = Field(
        default=None, pattern=r"^[A-Za-z0-9.-]+$", description="Sent as `?api-version=…`, which older Azure APIs want."
    )
    openai_timeout_seconds: float = Field(
        default=25.0,
        gt=0,
        description="How long the language model may take for one program, a second question included. Less than "
        "`LOOPAI_GENERATOR_PROXY_ATTEMPT_TIMEOUT_SECONDS`.",
    )
    openai_max_tokens: int | None = Field(
        default=None, ge=1, description="Limit of an answer, reasoning included; without it the model's own."
    )
    openai_max_tokens_parameter: Literal["max_completion_tokens", "max_tokens"] = Field(
        default="max_completion_tokens",
        description="The name of that limit: OpenAI's newer models want the first, Ollama and older APIs the second.",
    )
    openai_temperature: float | None = Field(
        default=None, ge=0, le=2, description="Left to the model where it is not set; some models take no other."
    )
    openai_prices: Annotated[dict[str, Price], BeforeValidator(_decoded)] = Field(
        default={},
        description="USD for a million tokens, by model, as JSON: "
        '`{"gpt-4.1-mini": {"input": 0.4, "output": 1.6}}`; without one the cost is 0, and the answer says so.',
    )

    @model_validator(mode="after")
    def _all_that_an_endpoint_needs(self) -> Self:
        if self.provider == "openai" and self.openai_base_url is None:
            raise ValueError("openai_base_url is needed when the provider is openai")
        if self.provider != "learner" and self.openai_base_url is not None and self.openai_model is None:
            raise ValueError("openai_model is needed with openai_base_url")
        return self
