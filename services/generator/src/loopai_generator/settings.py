"""Settings of the generator."""

from pydantic import Field

from loopai_common.runtime.settings import ServiceSettings


class GeneratorSettings(ServiceSettings):
    """Read from ``LOOPAI_GENERATOR_…``."""

    concurrency: int = Field(default=2, ge=1, le=64, description="How many programs are learned at the same time.")
    max_waiting: int = Field(
        default=16, ge=0, le=10_000, description="How many requests may wait for their turn; more are refused with 503."
    )
    learn_timeout_seconds: float = Field(
        default=25.0, gt=0, description="How long learning one program may take; then the request fails with a reason."
    )
