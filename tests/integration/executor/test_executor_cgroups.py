"""The sandbox in a control group of its own, where this machine delegates one; and what is said where it does not."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from loopai_client.local.nats_server import NatsServer
from loopai_common.contracts.frames import AnswerKind
from loopai_executor.domain import Counts
from loopai_executor.sandbox.cgroups import GroupLimits, NotDelegated, current_place, delegated_base, sandbox_group
from loopai_executor.sandbox.pool import Pool
from tests.integration.executor.test_executor_process import executor
from tests.support.sandbox import LIMITS, PATIENCE_SECONDS, eventually, program, run, started_pool, submit

MIB = 1 << 20
SUCCESS, ERROR, TIMEOUT, REFUSED = AnswerKind
HOLDS_40_MIB = """
import time
def run(seconds):
    held = bytearray(40 << 20)
    end = time.monotonic() + seconds
    while time.monotonic() < end: pass
    return len(held)
"""


def _base() -> Path | None:
    try:
        return delegated_base(current_place())
    except NotDelegated:
        return None


def _reason() -> str:
    try:
        delegated_base(current_place())
    except NotDelegated as error:
        return str(error)
    return ""


delegated = pytest.mark.skipif(
    _base() is None, reason=f"not on this platform: no control group can be divided here: {_reason()}"
)
not_delegated = pytest.mark.skipif(
    _base() is not None, reason="not on this platform: a control group is delegated here"
)


@asynccontextmanager
async def _limited_pool(limits: GroupLimits) -> AsyncIterator[tuple[Pool, Path]]:
    """A pool in a group with these limits, and the group's directory; nothing of it may be left at the end."""
    before = current_place()
    base = delegated_base(before)
    async with sandbox_group(limits) as group:
        assert group is not None
        [directory] = base.glob(f"loopai-sandbox-{os.getpid()}")
        pool = Pool(replace(LIMITS, degraded=True, load_timeout_ms=20_000), Counts())
        await pool.start(group)
        try:
            yield pool, directory
        finally:
            await pool.stop()
    assert not directory.exists()
    assert current_place() == before


def _processes(directory: Path) -> list[str]:
    return (directory / "cgroup.procs").read_text().split()


@delegated
async def test_zygote_and_workers_live_in_the_group_and_it_ends_with_them() -> None:
    async with _limited_pool(GroupLimits(256 * MIB, 100)) as (pool, directory):
        assert (directory / "memory.max").read_text() == f"{256 * MIB}\n"
        assert (directory / "pids.max").read_text() == "100\n"
        assert (directory / "memory.oom.group").read_text() == "0\n"
        assert await run(pool, program("def run(x):\n    return x\n"), [1]) == [(SUCCESS, 1)]
        await eventually(lambda: len(pool._spares) == 2)
        assert len(_processes(directory)) >= 4, "the zygote, the program's worker and two spares"
        assert str(os.getpid()) not in _processes(directory)
        assert pool.group is not None
        assert 0 < pool.group.memory_bytes() < 256 * MIB


@delegated
async def test_worker_that_the_kernel_ends_for_the_groups_memory_has_hit_its_memory_limit() -> None:
    async with _limited_pool(GroupLimits(160 * MIB, 100)) as (pool, _):
        greedy = [program(HOLDS_40_MIB, task=f"greedy-{n}") for n in range(6)]
        for target in greedy:
            await run(pool, target, [0], timeout_ms=20_000)
        sinks = [submit(pool, target, [2.0], timeout_ms=20_000) for target in greedy]
        async with asyncio.timeout(4 * PATIENCE_SECONDS):
            await asyncio.gather(*(sink.done for sink in sinks))
        failures = [payload for sink in sinks for kind, payload in sink.answers if kind != SUCCESS]
        assert failures
        assert {tuple(failure) for failure in failures} == {
            ("limit_memory", "the kernel ended the worker for lack of memory")
        }
        assert pool.available
        assert pool.counts.zygote_restarts == 0
        assert await run(pool, program("def run(x):\n    return x\n"), [1]) == [(SUCCESS, 1)]


@delegated
async def test_worker_that_somebody_kills_has_not_hit_its_memory_limit() -> None:
    async with _limited_pool(GroupLimits(None, 100)) as (pool, _):
        loops = program("def run(x):\n    while x: pass\n    return x\n")
        await run(pool, loops, [0])
        sink = submit(pool, loops, [1], timeout_ms=60_000)
        worker = pool._residents[loops.key].lane.worker
        assert worker is not None
        worker.resident_bytes()
        assert worker._host_pid
        os.kill(worker._host_pid, signal.SIGKILL)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await sink.done
        assert sink.answers == [(ERROR, ["crashed", "the worker was killed"])]


@delegated
async def test_number_of_processes_is_bounded_and_the_zygote_survives_it() -> None:
    async with _limited_pool(GroupLimits(None, 6)) as (pool, directory):
        programs = [program("def run(x):\n    return x\n", task=f"t{n}") for n in range(8)]
        outcomes = [(await run(pool, target, [1]))[0] for target in programs]
        assert (SUCCESS, 1) in outcomes
        refused = [payload["code"] for kind, payload in outcomes if kind == REFUSED]
        assert refused
        assert set(refused) == {"overloaded"}
        assert len(_processes(directory)) <= 6
        assert pool.counts.zygote_restarts == 0


@delegated
async def test_groups_of_a_killed_executor_are_removed_by_the_next() -> None:
    base = delegated_base(current_place())
    async with _limited_pool(GroupLimits(None, 100)):
        abandoned = base / "loopai-sandbox-4194305"  # above the largest process number
        abandoned.mkdir()
        async with started_pool(replace(LIMITS, degraded=True)):
            pass
    async with _limited_pool(GroupLimits(None, 100)):
        assert not abandoned.exists()


@delegated
async def test_executor_says_that_its_workers_are_limited_and_leaves_nothing(nats_server: NatsServer) -> None:
    before, base = current_place(), delegated_base(current_place())
    with executor(
        nats_server.url,
        LOOPAI_EXECUTOR_SANDBOX="degraded",
        LOOPAI_EXECUTOR_SANDBOX_MEMORY_BYTES=str(256 * MIB),
    ) as limited:
        body = await limited.ready()
        assert "control group" not in json.dumps(body)
        async with httpx.AsyncClient() as http:
            metrics = (await http.get(f"{limited.url}/metrics")).text
        assert "loopai_executor_cgroup_limited 1.0" in metrics
        assert "loopai_sandbox_memory_bytes " in metrics
        limited.process.send_signal(signal.SIGTERM)
        limited.output()
        assert limited.process.returncode == 0
    assert not list(base.glob("loopai-*"))
    assert current_place() == before


@not_delegated
async def test_executor_without_a_group_says_so_once_and_runs(nats_server: NatsServer) -> None:
    with executor(nats_server.url) as unlimited:
        assert (await unlimited.ready())["status"] == "healthy"
        async with httpx.AsyncClient() as http:
            metrics = (await http.get(f"{unlimited.url}/metrics")).text
        assert "loopai_executor_cgroup_limited 0.0" in metrics
        assert "loopai_sandbox_memory_bytes" not in metrics
        unlimited.process.send_signal(signal.SIGTERM)
        told = [json.loads(line) for line in unlimited.output().splitlines() if "sandbox_without_cgroup" in line]
    assert [(record["level"], record["reason"]) for record in told] == [("info", _reason())]


@not_delegated
async def test_memory_limit_that_cannot_hold_degrades_the_executor(nats_server: NatsServer) -> None:
    with executor(nats_server.url, LOOPAI_EXECUTOR_SANDBOX_MEMORY_BYTES=str(256 * MIB)) as unlimited:
        body = await unlimited.ready()
        assert body["status"] == "degraded"
        assert "LOOPAI_EXECUTOR_SANDBOX_MEMORY_BYTES does not hold" in json.dumps(body["checks"])
        unlimited.process.send_signal(signal.SIGTERM)
        told = [json.loads(line) for line in unlimited.output().splitlines() if "sandbox_without_cgroup" in line]
    assert [record["level"] for record in told] == ["warning"]
