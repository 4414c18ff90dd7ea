"""Settings of the executor."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import Field

from loopai_common.contracts.execution import MAX_TIMEOUT_MS
from loopai_common.runtime.settings import WorkersSettings

_PROGRAM_BYTES = 4 * 1024 * 1024
_MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")


def fitting_programs() -> int:
    """How many loaded programs a quarter of this machine's (or this container's) memory holds."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # no cgroup v2, or no limit
        total = min(total, int(_MEMORY_LIMIT.read_text()))
    return max(64, min(1024, total // 4 // _PROGRAM_BYTES))


class ExecutorSettings(WorkersSettings):
    """What the executor can be told (``LOOPAI_EXECUTOR_…``)."""

    sandbox: Literal["strict", "degraded"] = Field(
        default="strict",
        description="`strict` refuses to start when the kernel lacks a layer of the sandbox, `degraded` does not.",
    )
    default_timeout_ms: int = Field(
        default=1000, ge=1, le=MAX_TIMEOUT_MS, description="Time of an execution that names none."
    )
    load_timeout_ms: int = Field(default=5000, ge=1, le=MAX_TIMEOUT_MS, description="Time a program may take to load.")
    memory_bytes: int = Field(
        default=64 * 1024 * 1024, ge=8 * 1024 * 1024, description="Memory of a worker, beyond what all workers share."
    )
    sandbox_memory_bytes: int | None = Field(
        default=None,
        ge=128 * 1024 * 1024,
        description="Memory of all workers together, where a control group (v2) is delegated to the executor. Left "
        "out: what a worker may use is all that bounds it.",
    )
    output_bytes: int = Field(default=1024 * 1024, ge=1024, description="Largest output of an execution, as JSON.")
    max_programs: int = Field(
        default_factory=fitting_programs,
        ge=1,
        description="Programs kept loaded; the least recently used one goes. Those that share a worker count as one. "
        "Left out: what a quarter of the memory holds at 4 MiB each, at least 64 and at most 1024.",
    )
    max_queued_items: int = Field(
        default=20_000,
        ge=1,
        description="Executions waiting or running before more are refused; one program may have half.",
    )
    max_code_cache_bytes: int = Field(
        default=32 * 1024 * 1024, ge=0, description="Source of programs that is kept, so that it is not fetched again."
    )
    max_sampled_per_second: int = Field(
        default=10, ge=0, description="Executions sampled by chance and recorded, a second; forced ones do not count."
    )
    spare_workers: int = Field(default=2, ge=2, description="Locked workers without a program, kept forked.")
