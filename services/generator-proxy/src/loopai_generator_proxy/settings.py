"""Settings of the generator-proxy."""

from typing import Annotated, Self

from pydantic import BeforeValidator, Field, HttpUrl, SecretStr, model_validator

from loopai_common.runtime.settings import ServiceSettings


class GeneratorProxySettings(ServiceSettings):
    """Read from ``LOOPAI_GENERATOR_PROXY_…``."""

    generator_url: HttpUrl = Field(
        default=HttpUrl("http://127.0.0.1:8090"),
        description="Where the generator is; `/generate` and `/health` are added.",
        json_schema_extra={"env": "GENERATOR_URL"},
    )
    generator_api_key: SecretStr | None = Field(
        default=None, description="Sent to the generator as `Authorization: Bearer …` when set."
    )
    fallback_generator_url: Annotated[HttpUrl | None, BeforeValidator(lambda url: url or None)] = Field(
        default=None,
        description="Where a built-in generator is, whose learner stands in while the generator is unavailable; empty: "
        "nothing does.",
    )
    attempt_timeout_seconds: float = Field(
        default=30.0, gt=0, description="How long one call to the generator may take, its whole answer included."
    )
    total_timeout_seconds: float = Field(
        default=120.0, gt=0, description="How long all attempts together, and the pauses between them, may take."
    )
    retries: int = Field(default=3, ge=0, le=10, description="How often a failed call is tried again.")
    breaker_failures: int = Field(
        default=5, ge=1, description="After so many failed calls in a row the generator is left alone for a while."
    )
    breaker_open_seconds: float = Field(
        default=30.0, gt=0, description="How long it is left alone; then one call finds out whether it is back."
    )
    rounds: int = Field(
        default=3, ge=1, le=10, description="How often a program is asked for until it reaches the accuracy target."
    )
    concurrency: int = Field(default=8, ge=1, le=256, description="How many generations run at the same time.")
    check_timeout_seconds: float = Field(
        default=60.0, gt=0, description="How long an executor may take to check one program."
    )
    patience_seconds: float = Field(
        default=60.0, ge=0, description="How long a generation waits for an executor or the store to come back."
    )

    @model_validator(mode="after")
    def _asks_nobody_twice(self) -> Self:
        if self.fallback_generator_url == self.generator_url:
            raise ValueError("fallback_generator_url must be another generator than generator_url, or empty")
        return self
