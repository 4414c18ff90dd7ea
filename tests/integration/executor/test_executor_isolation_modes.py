"""What executions of one program share under each isolation, with real workers."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from loopai_common.contracts.frames import AnswerKind
from loopai_common.contracts.tasks import Isolation
from loopai_executor.sandbox.pool import Pool
from tests.support.sandbox import (
    COUNTS_CALLS,
    PATIENCE_SECONDS,
    eventually,
    program,
    run,
    started_pool,
    submit,
    worker_pid,
)

COLLECTS = "seen = []\ndef run(x):\n    seen.append(x)\n    return len(seen)\n"
MARKS_THE_LIBRARY = (
    "import string\ndef run(x):\n    string.left = getattr(string, 'left', 0) + 1\n    return string.left\n"
)
DECIMAL = "import decimal\ndef run(x):\n    c = decimal.getcontext()\n    c.prec += 1\n    return c.prec - 28\n"
SUCCESS = AnswerKind.SUCCESS


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    async with started_pool() as pool:
        yield pool


def _outputs(answers: list[tuple[int, int]]) -> list[int]:
    assert {kind for kind, _ in answers} == {SUCCESS}, answers
    return [output for _, output in answers]


@pytest.mark.parametrize("code", [COUNTS_CALLS, COLLECTS])
async def test_globals_stay_under_none_and_only_there(pool: Pool, code: str) -> None:
    sharing = program(code, task="sharing", isolation=Isolation.NONE)
    assert _outputs(await run(pool, sharing, [0, 0, 0])) == [1, 2, 3]
    assert _outputs(await run(pool, sharing, [0])) == [4]
    for isolation in (Isolation.CALL, Isolation.PROCESS):
        other = program(code, task=isolation.value, isolation=isolation)
        for _ in range(3):
            assert _outputs(await run(pool, other, [0, 0, 0])) == [1, 1, 1]


async def test_changed_isolation_holds_from_the_next_batch_on(pool: Pool) -> None:
    counts = {isolation: program(COUNTS_CALLS, isolation=isolation) for isolation in Isolation}
    assert _outputs(await run(pool, counts[Isolation.NONE], [0, 0])) == [1, 2]
    assert _outputs(await run(pool, counts[Isolation.CALL], [0, 0])) == [1, 1]
    assert _outputs(await run(pool, counts[Isolation.PROCESS], [0, 0])) == [1, 1]
    assert _outputs(await run(pool, counts[Isolation.NONE], [0, 0])) == [1, 2]


@pytest.mark.parametrize("isolation", list(Isolation))
async def test_decimal_context_is_reset_under_every_isolation(pool: Pool, isolation: Isolation) -> None:
    target = program(DECIMAL, isolation=isolation)
    for _ in range(2):
        assert _outputs(await run(pool, target, [0, 0, 0])) == [1, 1, 1]


async def test_what_is_left_in_the_standard_library_ends_with_the_batch_under_process(pool: Pool) -> None:
    target = program(MARKS_THE_LIBRARY, isolation=Isolation.PROCESS)
    for _ in range(3):
        assert _outputs(await run(pool, target, [0])) == [1]


@pytest.mark.parametrize("isolation", [Isolation.CALL, Isolation.NONE])
async def test_worker_is_kept_from_batch_to_batch(pool: Pool, isolation: Isolation) -> None:
    target = program(COUNTS_CALLS, isolation=isolation)
    pids = set()
    for _ in range(4):
        await run(pool, target, [0])
        pids.add(worker_pid(pool, target))
    assert len(pids) == 1
    assert pool.counts.cold_loads == 1


async def test_every_batch_has_a_process_of_its_own_under_process(pool: Pool) -> None:
    target = program(COUNTS_CALLS, isolation=Isolation.PROCESS)
    pool.warm(target)
    pids = []
    for _ in range(4):
        await eventually(lambda: worker_pid(pool, target))
        pids.append(worker_pid(pool, target))
        assert _outputs(await run(pool, target, [0, 0])) == [1, 1]
    assert len(set(pids)) == 4
    await eventually(lambda: worker_pid(pool, target))
    assert pool.counts.cold_loads == 5, "one for each batch, and the one that waits for the next"


async def test_what_comes_while_the_next_worker_is_made_becomes_one_batch(pool: Pool) -> None:
    target = program(COUNTS_CALLS, isolation=Isolation.PROCESS)
    await run(pool, target, [0] * 8)
    before = pool.counts.batches
    sinks = [submit(pool, target, [0]) for _ in range(100)]
    async with asyncio.timeout(PATIENCE_SECONDS):
        await asyncio.gather(*(sink.done for sink in sinks))
    assert all(_outputs(sink.answers) == [1] for sink in sinks)
    assert pool.counts.batches - before <= 10


async def test_many_programs_under_process_leave_room_for_the_others(pool: Pool) -> None:
    busy = [program(COUNTS_CALLS, task=f"busy-{n}", isolation=Isolation.PROCESS) for n in range(8)]
    sinks = [submit(pool, target, [0] * 200) for target in busy]
    assert _outputs(await run(pool, program(COUNTS_CALLS, task="other"), [0])) == [1]
    assert not all(sink.done.done() for sink in sinks), "it did not wait for them"
    async with asyncio.timeout(PATIENCE_SECONDS):
        await asyncio.gather(*(sink.done for sink in sinks))
    assert all(_outputs(sink.answers) == [1] * 200 for sink in sinks)
    await eventually(lambda: all(worker_pid(pool, target) for target in busy))
    assert pool._zygote is not None
    zygote = pool._zygote
    await eventually(lambda: len(zygote._workers) == len(busy) + 1 + 2)  # and the two spares


async def test_program_that_dies_under_process_fails_alone(pool: Pool) -> None:
    code = "import os\ndef run(x):\n    if x == 3:\n        os._exit(1)\n    return x\n"
    answers = await run(pool, program(code, isolation=Isolation.PROCESS), list(range(8)))
    assert [kind for kind, _ in answers] == [SUCCESS] * 3 + [AnswerKind.ERROR] + [SUCCESS] * 4
