"""Programs that share a worker, because their tasks say ``isolation: group``; with real workers."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from loopai_common.contracts.frames import AnswerKind
from loopai_common.contracts.tasks import Isolation
from loopai_executor.domain import Program
from loopai_executor.sandbox import lane as lanes
from loopai_executor.sandbox.pool import Pool
from tests.support.sandbox import (
    COUNTS_CALLS,
    LIMITS,
    PATIENCE_SECONDS,
    Gathered,
    eventually,
    program,
    run,
    started_pool,
    submit,
    worker_pid,
)

DIES = "import os\ndef run(x):\n    if x == 'die':\n        os._exit(1)\n    return x\n"
LOOPS = "def run(x):\n    while x == 'loop':\n        pass\n    return x\n"
DIES_WHEN_LOADED = "import os\nos._exit(1)\ndef run(x):\n    return x\n"
LARGE = "TABLE = tuple(str(n) * 10 for n in range(60_000))\ndef run(x):\n    return len(TABLE) + x\n"
SUCCESS = AnswerKind.SUCCESS


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    async with started_pool() as pool:
        yield pool


def member(number: int, code: str | None = None) -> Program:
    """A program of a group, by default one that says its number."""
    return program(
        code or f"def run(x):\n    return [{number}, x]\n", task=f"member-{number}", isolation=Isolation.GROUP
    )


async def answered(sinks: Sequence[Gathered]) -> list[list[tuple[int, Any]]]:
    """The answers of all, when they are there."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        await asyncio.gather(*(sink.done for sink in sinks))
    return [sink.answers for sink in sinks]


async def test_members_share_a_worker_and_nobody_else_is_in_it(pool: Pool) -> None:
    members = [member(number) for number in range(5)]
    alone = program("def run(x):\n    return x\n", task="alone")
    for target in (*members, alone):
        await run(pool, target, [0])
    assert len({worker_pid(pool, target) for target in members}) == 1
    assert worker_pid(pool, alone) != worker_pid(pool, members[0])
    assert pool.warm_programs == 6
    assert pool.workers == 2 + len(pool._spares)


async def test_each_execution_is_answered_by_its_own_program(pool: Pool) -> None:
    members = [member(number) for number in range(20)]
    for _ in range(3):
        sinks = [submit(pool, target, range(number % 4 + 1)) for number, target in enumerate(members)]
        for number, answers in enumerate(await answered(sinks)):
            assert answers == [(SUCCESS, [number, x]) for x in range(number % 4 + 1)]


async def test_what_comes_together_is_one_batch(pool: Pool) -> None:
    members = [member(number) for number in range(20)]
    await answered([submit(pool, target, range(8)) for target in members])
    before = pool.counts.batches
    await answered([submit(pool, target, [1, 2]) for target in members])
    assert pool.counts.batches - before == 1


async def test_globals_are_fresh_for_each_call(pool: Pool) -> None:
    members = [member(number, COUNTS_CALLS) for number in range(3)]
    for _ in range(2):
        for answers in await answered([submit(pool, target, [0, 0, 0]) for target in members]):
            assert answers == [(SUCCESS, 1)] * 3


async def test_killer_fails_alone_and_is_quarantined_alone(pool: Pool) -> None:
    killer, others = member(0, DIES), [member(number) for number in range(1, 5)]
    await answered([submit(pool, target, [0]) for target in (killer, *others)])
    for attempt in range(6):
        sinks = [submit(pool, killer, [1, "die", 2]), *(submit(pool, target, [3]) for target in others)]
        first, *rest = await answered(sinks)
        assert list(rest) == [[(SUCCESS, [number, 3])] for number in range(1, 5)]
        if attempt < 4:
            assert first[0] == (SUCCESS, 1)
            assert first[2] == (SUCCESS, 2)
        assert first[1][0] == AnswerKind.ERROR
        if attempt == 5:
            assert {payload[0] for _, payload in first} == {"quarantined"}
    assert pool.counts.quarantines == 1


async def test_member_that_loops_times_out_and_the_others_are_answered(pool: Pool) -> None:
    loops, other = member(0, LOOPS), member(1)
    await answered([submit(pool, target, [0]) for target in (loops, other)])
    slow, quick = await answered([submit(pool, loops, [1, "loop", 2], timeout_ms=100), submit(pool, other, [3])])
    assert [kind for kind, _ in slow] == [SUCCESS, AnswerKind.TIMEOUT, SUCCESS]
    assert quick == [(SUCCESS, [1, 3])]
    assert not pool.counts.kills


@pytest.mark.parametrize("code", ["def run(:", "raise ValueError('no')", "def other(x):\n    return x\n"])
async def test_member_that_does_not_load_says_so_and_the_others_go_on(pool: Pool, code: str) -> None:
    bad, good = member(0, code), member(1)
    await run(pool, good, [0])
    pid = worker_pid(pool, good)
    for _ in range(2):
        failed, ran = await answered([submit(pool, bad, [1, 2]), submit(pool, good, [3])])
        assert [(kind, payload[0]) for kind, payload in failed] == [(AnswerKind.ERROR, "load_failed")] * 2
        assert ran == [(SUCCESS, [1, 3])]
    assert worker_pid(pool, good) == pid
    assert pool.counts.failed_loads == 1


async def test_member_that_dies_while_it_is_loaded_takes_nobody_along(pool: Pool) -> None:
    bad, others = member(0, DIES_WHEN_LOADED), [member(number) for number in range(1, 4)]
    await answered([submit(pool, target, [0]) for target in others])
    failed, *ran = await answered([submit(pool, target, [1]) for target in (bad, *others)])
    assert [(kind, payload[0]) for kind, payload in failed] == [(AnswerKind.ERROR, "load_failed")]
    assert ran == [[(SUCCESS, [number, 1])] for number in range(1, 4)]


async def test_input_that_does_not_decode_fails_alone_among_members(pool: Pool) -> None:
    first, second = member(0), member(1)
    await answered([submit(pool, target, [0]) for target in (first, second)])
    bad, good = await answered([submit(pool, first, [b"1e999", b"1"]), submit(pool, second, [2])])
    assert [kind for kind, _ in bad] == [AnswerKind.REFUSED, SUCCESS]
    assert good == [(SUCCESS, [1, 2])]


async def test_task_that_changes_its_isolation_comes_and_goes(pool: Pool) -> None:
    grouped, other = member(0, COUNTS_CALLS), member(1)
    alone = replace(grouped, isolation=Isolation.CALL)
    await run(pool, other, [0])
    for _ in range(2):
        assert await run(pool, alone, [0, 0]) == [(SUCCESS, 1)] * 2
        assert worker_pid(pool, alone) != worker_pid(pool, other)
        assert await run(pool, grouped, [0, 0]) == [(SUCCESS, 1)] * 2
        assert worker_pid(pool, grouped) == worker_pid(pool, other)


async def test_more_members_than_share_a_worker_get_another(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "MAX_RESIDENTS", 3)
    members = [member(number) for number in range(8)]
    for number, answers in enumerate(await answered([submit(pool, target, [1]) for target in members])):
        assert answers == [(SUCCESS, [number, 1])]
    assert len({worker_pid(pool, target) for target in members}) == 3


async def test_members_that_need_much_memory_are_spread_over_workers(pool: Pool) -> None:
    members = [member(number, LARGE) for number in range(12)]
    for _ in range(2):
        for target in members:
            assert await run(pool, target, [1]) == [(SUCCESS, 60_001)]
    assert 1 < len({worker_pid(pool, target) for target in members}) < len(members)
    assert not pool.counts.failed_loads
    assert not pool.counts.kills


async def test_least_recently_used_members_are_unloaded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "MAX_RESIDENTS", 2)
    async with started_pool(replace(LIMITS, max_programs=2)) as pool:
        members = [member(number) for number in range(6)]
        for target in members:
            await run(pool, target, [0])
            assert len(pool._lanes) <= 2
        assert set(pool._residents) == {target.key for target in members[2:]}
        assert await run(pool, members[0], [5]) == [(SUCCESS, [0, 5])]


async def test_worn_worker_is_replaced_behind_its_members(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    members = [member(number) for number in range(10)]
    await answered([submit(pool, target, [0]) for target in members])
    first = worker_pid(pool, members[0])
    idle = member(99)
    pool.warm(idle)
    await eventually(lambda: pool._residents[idle.key].loaded)
    monkeypatch.setattr(lanes, "_MAX_CALLS", 0)

    async def replaced() -> bool:
        for number, answers in enumerate(await answered([submit(pool, target, [1]) for target in members])):
            assert answers == [(SUCCESS, [number, 1])]
        return worker_pid(pool, members[0]) != first

    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await replaced():
            monkeypatch.setattr(lanes, "_MAX_CALLS", 10_000)  # what is being replaced is replaced
    assert idle.key not in pool._residents, "it had not run since"
    assert all(pool._residents[target.key].loaded for target in members)
    assert not pool.counts.kills


async def test_replacement_that_a_member_spoils_is_done_without(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    trap = member(0, "import os, time\nif time.monotonic() > LATEST:\n    os._exit(1)\ndef run(x):\n    return x\n")
    loop = asyncio.get_running_loop()
    trap = replace(trap, code=trap.code.replace("LATEST", str(loop.time() + 5)))
    other = member(1)
    await answered([submit(pool, target, [0]) for target in (trap, other)])
    first = worker_pid(pool, other)
    while loop.time() < float(trap.code.split("> ")[1].split(":")[0]):
        await asyncio.sleep(0.05)
    monkeypatch.setattr(lanes, "_MAX_CALLS", 0)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (await run(pool, other, [7])) == [(SUCCESS, [1, 7])] and worker_pid(pool, other) == first:
            await asyncio.sleep(0.01)
    assert await run(pool, other, [8]) == [(SUCCESS, [1, 8])]


async def test_pool_that_stops_ends_what_was_to_replace_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    async with started_pool() as pool:
        target = member(0)
        await run(pool, target, [0])
        monkeypatch.setattr(lanes, "_MAX_CALLS", 0)
        submit(pool, target, [1])
        await asyncio.sleep(0)
        zygote = pool._zygote
        assert zygote is not None
        pid = zygote.pid
    await eventually(lambda: not _is_there(pid))


@pytest.mark.parametrize("isolation", [Isolation.CALL, Isolation.GROUP])
async def test_pool_that_stops_refuses_what_runs_and_starts_nothing_for_it(isolation: Isolation) -> None:
    async with started_pool() as pool:
        target = program(LOOPS, isolation=isolation)
        await run(pool, target, [0])
        sink = submit(pool, target, ["loop", 1], timeout_ms=30_000)
        await asyncio.sleep(0.1)
    assert [(kind, payload["code"]) for kind, payload in sink.answers] == [(AnswerKind.REFUSED, "shutting_down")] * 2
    assert not pool._tasks
    assert pool.queued == 0


def _is_there(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_killed_zygote_loses_nothing_of_a_group(pool: Pool) -> None:
    members = [member(number) for number in range(4)]
    await answered([submit(pool, target, [0]) for target in members])
    sinks = [submit(pool, target, [1]) for target in members]
    assert pool._zygote is not None
    os.kill(pool._zygote.pid, signal.SIGKILL)
    for number, answers in enumerate(await answered(sinks)):
        assert answers == [(SUCCESS, [number, 1])]
