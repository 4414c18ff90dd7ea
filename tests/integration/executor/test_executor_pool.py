"""The pool with real workers: what a program is answered, and what it can do to others."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loopai_common.contracts.frames import AnswerKind
from loopai_common.errors import Overloaded
from loopai_executor.sandbox.pool import Pool
from tests.support.sandbox import LIMITS, PATIENCE_SECONDS, eventually, program, run, started_pool, submit

ECHO = "def run(x):\n    return x\n"
BRANCHES = """
def run(x):
    if x == "loop":
        while True: pass
    if x == "die":
        import os
        os._exit(1)
    if x == "bomb":
        return [bytearray(1 << 20) for _ in range(4096)]
    return x
"""
SUCCESS, ERROR, TIMEOUT, REFUSED = AnswerKind


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    async with started_pool() as pool:
        yield pool


def code_of(answer: tuple[int, Any]) -> str:
    kind, payload = answer
    assert kind != SUCCESS
    return str(payload["code"] if kind == REFUSED else payload[0])


# What a program is given and answered.


@pytest.mark.parametrize(
    ("code", "value", "output"),
    [
        (ECHO, {"a": [1, 2.5, None, True, "é"]}, {"a": [1, 2.5, None, True, "é"]}),
        (ECHO, 2**70, 2**70),
        ("def run(x):\n    print('x' * 1000)\n    return (1, 2)\n", 0, [1, 2]),
        (
            "import random, datetime, zoneinfo\ndef run(x):\n    return str(zoneinfo.ZoneInfo('Europe/Berlin'))\n",
            0,
            "Europe/Berlin",
        ),
        ("import re, json, hashlib\ndef run(x):\n    return hashlib.sha256(b'').hexdigest()[:6]\n", 0, "e3b0c4"),
        ("import uuid\ndef run(x):\n    return len(str(uuid.uuid4()))\n", 0, 36),
        ("def run(x):\n    return None\n", 0, None),
    ],
)
async def test_program_is_answered_with_its_output(pool: Pool, code: str, value: Any, output: Any) -> None:
    assert await run(pool, program(code), [value]) == [(SUCCESS, output)]


@pytest.mark.parametrize(
    ("entry_point", "value", "seen"),
    [
        ("run", {"text": "a"}, {"text": "a"}),
        ("classify", {"text": "a"}, "a"),
        ("classify", ["a"], ["a"]),
        ("main", 1, 1),
    ],
)
async def test_entry_point_gets_its_argument(pool: Pool, entry_point: str, value: Any, seen: Any) -> None:
    echo = program(f"def {entry_point}(x):\n    return x\n", entry_point=entry_point)
    assert await run(pool, echo, [value]) == [(SUCCESS, seen)]


@pytest.mark.parametrize(
    ("expression", "code"),
    [
        ("float('nan')", "output_not_json"),
        ("{'a': [float('inf')]}", "output_not_json"),
        ("[2 ** 70, float('nan')]", "output_not_json"),
        ("object()", "output_not_json"),
        ("{1, (2, object())}", "output_not_json"),
        ("'\\ud800'", "output_not_json"),
        ("'x' * (1 << 20)", "limit_output"),
        ("[bytearray(1 << 20) for _ in range(4096)]", "limit_memory"),
        ("1 / 0", "program_raised"),
        ("[f(f) for f in [lambda f: f(f)]]", "program_raised"),
    ],
)
async def test_bad_outcome_names_its_cause(pool: Pool, expression: str, code: str) -> None:
    hostile = program(f"def run(x):\n    return {expression} if x else 'fine'\n")
    bad, good = await run(pool, hostile, [1, 0])
    assert bad[0] == ERROR
    assert code_of(bad) == code
    assert good == (SUCCESS, "fine")


async def test_none_and_the_word_null_are_outputs_like_others(pool: Pool) -> None:
    echo = program(ECHO)
    assert await run(pool, echo, [None, "null", [None, 1.5]]) == [
        (SUCCESS, None),
        (SUCCESS, "null"),
        (SUCCESS, [None, 1.5]),
    ]


async def test_message_of_an_exception_is_cut(pool: Pool) -> None:
    [(kind, (code, message))] = await run(pool, program("def run(x):\n    raise KeyError('k' * 5000)\n"), [0])
    assert (kind, code) == (ERROR, "program_raised")
    assert message.startswith("KeyError: 'kkk")
    assert len(message) == 500


async def test_schemas_are_checked_before_and_after(pool: Pool) -> None:
    double = program(
        "def run(x):\n    return x['n'] * 2\n",
        input_schema={"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
        output_schema={"maximum": 10},
    )
    right, refused, wrong = await run(pool, double, [{"n": 2}, {"n": "secret"}, {"n": 200}])
    assert right == (SUCCESS, 4)
    assert code_of(refused) == "input_schema_violation"
    assert refused[1]["details"] == [{"field": "input/n", "message": "must be of type integer", "code": "type"}]
    assert wrong == (ERROR, ["output_schema_violation", "output does not satisfy 'maximum' of the schema"])
    assert "secret" not in str(refused)


async def test_output_schema_sees_what_readers_will_see(pool: Pool) -> None:
    pair = program("def run(x):\n    return (1, 'a')\n", output_schema={"type": "array", "maxItems": 2})
    assert await run(pool, pair, [0]) == [(SUCCESS, [1, "a"])]


@pytest.mark.parametrize("bad", [b'"\xff"', b"1e999", b'"\\ud800"'])
async def test_input_that_does_not_decode_fails_alone(pool: Pool, bad: bytes) -> None:
    answers = await run(pool, program(ECHO), [1, bad, 3])
    assert answers[0] == (SUCCESS, 1)
    assert answers[2] == (SUCCESS, 3)
    assert answers[1][0] != ERROR or bad == b'"\\ud800"'
    if answers[1][0] == REFUSED:
        assert code_of(answers[1]) == "malformed_json"


async def test_deadline_that_is_past_is_not_run(pool: Pool) -> None:
    [answer] = await run(pool, program("import os\ndef run(x):\n    os._exit(1)\n"), [0], deadline=time.time() - 1)
    assert code_of(answer) == "deadline_exceeded"
    assert not pool.counts.kills


# Isolation of calls.


@pytest.mark.parametrize(
    "code",
    [
        "count = 0\ndef run(x):\n    global count\n    count += 1\n    return count\n",
        "seen = []\ndef run(x):\n    seen.append(x)\n    return len(seen)\n",
        "def run(x):\n    run.count = getattr(run, 'count', 0) + 1\n    return run.count\n",
        "class Seen:\n    count = 0\ndef run(x):\n    Seen.count += 1\n    return Seen.count\n",
        "def run(x):\n    globals()['count'] = globals().get('count', 0) + 1\n    return count\n",
        "import decimal\ndef run(x):\n    c = decimal.getcontext()\n    c.prec += 1\n    return c.prec - 28\n",
        "import builtins\ndef run(x):\n    count = 1\n    builtins.len = None\n    return count\n",
    ],
)
async def test_nothing_is_left_of_a_call(pool: Pool, code: str) -> None:
    assert await run(pool, program(code), [0] * 5) == [(SUCCESS, 1)] * 5


async def test_two_tasks_never_share_a_worker(pool: Pool) -> None:
    code = "import string\ndef run(x):\n    string.left = getattr(string, 'left', 0) + 1\n    return string.left\n"
    assert await run(pool, program(code, task="a"), [0]) == [(SUCCESS, 1)]
    assert await run(pool, program(code, task="b"), [0]) == [(SUCCESS, 1)]


# Limits, and who is hit by them.


async def test_item_that_loops_times_out_and_the_worker_survives(pool: Pool) -> None:
    branches = program(BRANCHES)
    answers = await run(pool, branches, [1, "loop", 2], timeout_ms=50)
    assert [kind for kind, _ in answers] == [SUCCESS, TIMEOUT, SUCCESS]
    assert code_of(answers[1]) == "limit_time"
    assert not pool.counts.kills


async def test_finished_items_do_not_wait_for_a_slow_one(pool: Pool) -> None:
    sink = submit(pool, program(BRANCHES), [1, 2, "loop", 3], timeout_ms=1500)
    await eventually(lambda: sink.answers[1][0] == SUCCESS)
    assert not sink.done.done()
    await sink.done


async def test_program_that_ignores_its_time_is_killed(pool: Pool) -> None:
    stubborn = "import itertools\ndef run(x):\n    return sum(itertools.repeat(1)) if x else 'fine'\n"
    answers = await run(pool, program(stubborn), [0, 1, 0], timeout_ms=50)
    assert [kind for kind, _ in answers] == [SUCCESS, TIMEOUT, SUCCESS]
    assert pool.counts.kills["limit_time"] >= 1


async def test_killer_item_fails_alone(pool: Pool) -> None:
    answers = await run(pool, program(BRANCHES), [*range(20), "die", *range(20)])
    assert answers[20] == (ERROR, ["crashed", "the worker exited with code 1"])
    assert [a for i, a in enumerate(answers) if i != 20] == [(SUCCESS, n) for n in [*range(20), *range(20)]]


async def test_memory_bomb_only_kills_itself(pool: Pool) -> None:
    neighbour = program(ECHO, task="neighbour")
    bomb = submit(pool, program(BRANCHES), [1, "bomb", 2])
    assert await run(pool, neighbour, [7]) == [(SUCCESS, 7)]
    await bomb.done
    assert bomb.answers[0] == (SUCCESS, 1)
    assert code_of(bomb.answers[1]) == "limit_memory"
    assert bomb.answers[2] == (SUCCESS, 2)


async def test_looping_program_does_not_delay_another(pool: Pool) -> None:
    neighbour = program(ECHO, task="neighbour")
    await run(pool, neighbour, [0])
    loops = submit(pool, program(BRANCHES), ["loop"] * 3, timeout_ms=2000)
    for value in range(50):
        assert await run(pool, neighbour, [value]) == [(SUCCESS, value)]
    assert not loops.done.done()


async def test_program_that_keeps_killing_workers_is_quarantined_and_tried_again_later() -> None:
    now = [1000.0]
    async with started_pool(clock=lambda: now[0]) as pool:
        killer = program(BRANCHES)
        for _ in range(5):
            assert code_of((await run(pool, killer, ["die"]))[0]) == "crashed"
        spawned = pool.counts.worker_spawns
        [answer] = await run(pool, killer, [1])
        assert code_of(answer) == "quarantined"
        assert await run(pool, program(ECHO, task="neighbour"), [1]) == [(SUCCESS, 1)]
        assert pool.counts.quarantines == 1
        assert pool.counts.worker_spawns - spawned <= 2
        now[0] += 120
        assert await run(pool, killer, [1]) == [(SUCCESS, 1)]


async def test_queue_is_bounded_and_one_program_gets_half() -> None:
    async with started_pool(replace(LIMITS, max_queued_items=100)) as pool:
        slow = program(BRANCHES)
        sink = submit(pool, slow, ["loop"] * 50, timeout_ms=60_000)
        with pytest.raises(Overloaded):
            submit(pool, slow, [1])
        assert await run(pool, program(ECHO, task="neighbour"), [1] * 50) == [(SUCCESS, 1)] * 50
        with pytest.raises(Overloaded):
            submit(pool, program(ECHO, task="neighbour"), [1] * 51)
        assert pool.queued == 50
    assert {code_of(answer) for answer in sink.answers} == {"shutting_down"}


async def test_least_recently_used_program_is_unloaded() -> None:
    async with started_pool(replace(LIMITS, max_programs=3)) as pool:
        for number in range(10):
            assert await run(pool, program(ECHO, task=f"t{number}"), [number]) == [(SUCCESS, number)]
            assert pool.warm_programs <= 3
        loads = pool.counts.cold_loads
        await run(pool, program(ECHO, task="t9"), [1])
        assert pool.counts.cold_loads == loads
        await run(pool, program(ECHO, task="t0"), [1])
        assert pool.counts.cold_loads == loads + 1


async def test_warmed_program_is_loaded_once_before_it_is_asked_for(pool: Pool) -> None:
    echo = program(ECHO)
    for _ in range(3):
        pool.warm(echo)
    await eventually(lambda: pool.warm_programs == 1)
    await run(pool, echo, [1])
    assert pool.counts.cold_loads == 1


async def test_program_that_does_not_load_says_so_every_time(pool: Pool) -> None:
    broken = program("def run(x:\n")
    for _ in range(3):
        [answer] = await run(pool, broken, [1])
        assert code_of(answer) == "load_failed"
    assert pool.counts.failed_loads == 1


async def test_item_past_its_turn_in_a_large_batch_is_still_answered(pool: Pool) -> None:
    values = ["x" * 10_000] * 500
    assert await run(pool, program(ECHO), values) == [(SUCCESS, values[0])] * 500


# What a worker can do to the executor.


@pytest.mark.parametrize(
    "forged",
    [
        b"\xff\xff\xff\xff",
        b"\x02\0\0\0[]",
        b"\x05\0\0\0[1,2]",
        b"\x0d\0\0\0[[0,1],[0,2]]",
        b'\x09\0\0\0[[0,"\xff"]]',
        b"\x09\0\0\0[[1,[1]]]",
        b"\x08\0\0\0[[7,{}]]",
    ],
)
async def test_forged_frame_harms_nobody_else(pool: Pool, forged: bytes) -> None:
    neighbour = program(ECHO, task="neighbour")
    forger = program(f"import os\ndef run(x):\n    os.write(1, {forged!r})\n    while True: pass\n")
    [answer] = await run(pool, forger, [1], timeout_ms=50)
    assert answer[0] in (ERROR, TIMEOUT)
    assert code_of(answer) in {"crashed", "limit_output", "limit_time"}
    assert await run(pool, neighbour, [1]) == [(SUCCESS, 1)]


async def test_output_that_nobody_asked_for_ends_the_worker(pool: Pool) -> None:
    forger = program("import os\ndef run(x):\n    os.write(1, b'\\x07\\0\\0\\0[[0,1]]')\n    return 2\n")
    for _ in range(3):
        [answer] = await run(pool, forger, [1])
        # Its own answer, when the executor reads that before the second one comes; never the second one.
        assert answer == (SUCCESS, 1) or code_of(answer) == "crashed"
        await eventually(lambda: not _alive(pool))
    assert await run(pool, program(ECHO, task="neighbour"), [1]) == [(SUCCESS, 1)]


def _alive(pool: Pool) -> bool:
    return any(lane.worker is not None and lane.worker.alive for lane in pool._lanes)


# Processes and descriptors.


def _children(pid: int) -> set[int]:
    """All processes below ``pid``."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z":
                parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found: set[int] = set()
    todo = [pid]
    while todo:
        for child in parents.get(todo.pop(), []):
            found.add(child)
            todo.append(child)
    return found


async def test_no_process_is_left_after_stop() -> None:
    before = _children(os.getpid())
    async with started_pool() as pool:
        submit(pool, program(BRANCHES), ["loop"], timeout_ms=60_000)
        for number in range(5):
            await run(pool, program(ECHO, task=f"t{number}"), [1])
        during = _children(os.getpid()) - before
        assert len(during) >= 8
    await eventually(lambda: not _children(os.getpid()) & during)


async def test_descriptors_do_not_leak_over_many_workers(pool: Pool) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    killer = program("def run(x):\n    import os\n    os._exit(1)\n", task="warm-up")
    await run(pool, killer, [1])
    await eventually(lambda: len(pool._spares) == 2)
    before = descriptors()
    for number in range(50):
        die = program("def run(x):\n    import os\n    os._exit(1)\n", task=f"t{number}")
        await run(pool, die, [1] * 4)
    assert pool.counts.worker_spawns >= 200
    await eventually(lambda: len(pool._spares) == 2 and descriptors() <= before)


async def test_worker_has_two_descriptors(pool: Pool) -> None:
    code = """
import os
def run(x):
    found = []
    for number in range(256):
        try:
            os.fstat(number) if number > 1 else None
            os.dup(number)
        except PermissionError:
            continue
        found.append(number)
    return found
"""
    assert await run(pool, program(code), [1]) == [(SUCCESS, [])]
    lane = pool._residents["task", 1].lane
    assert lane.worker is not None
    lane.worker.resident_bytes()
    descriptors = os.listdir(f"/proc/{lane.worker._host_pid}/fd") if os.geteuid() == 0 else ["0", "1"]
    assert sorted(descriptors) == ["0", "1"]


async def test_killed_zygote_is_replaced_and_nothing_is_lost(pool: Pool) -> None:
    echo = program(ECHO)
    await run(pool, echo, [1])
    slow = submit(
        pool,
        program("def run(x):\n    for i in range(10**7): pass\n    return x\n", task="slow"),
        [5],
        timeout_ms=30_000,
    )
    await asyncio.sleep(0)
    assert pool._zygote is not None
    os.kill(pool._zygote.pid, signal.SIGKILL)
    await eventually(lambda: not pool.available or pool.counts.zygote_restarts)
    assert await run(pool, echo, [2]) == [(SUCCESS, 2)]
    async with asyncio.timeout(PATIENCE_SECONDS):
        await slow.done
    assert slow.answers == [(SUCCESS, 5)]
    assert pool.counts.zygote_restarts == 1
    assert pool.available


async def test_used_resources_are_counted_from_the_kernel(pool: Pool) -> None:
    burn = program(
        "def run(x):\n    import os\n    y = bytearray(20 << 20)\n    for i in range(10**6): pass\n    os._exit(0)\n"
    )
    await run(pool, burn, [1], timeout_ms=20_000)
    await eventually(lambda: pool.counts.worker_cpu_seconds > 0)
    assert pool.counts.worker_peak_memory_bytes > 20 << 20


async def test_what_nobody_waits_for_any_more_is_not_run_behind_a_slow_program(pool: Pool) -> None:
    slow = program(
        "import time\ndef run(x):\n    end = time.monotonic() + 0.2\n    while time.monotonic() < end: pass\n"
    )
    await run(pool, slow, [0])
    sink = submit(pool, slow, [0] * 60, deadline=time.time() + 0.5)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await sink.done
    kinds = [kind for kind, _ in sink.answers]
    assert kinds[0] == SUCCESS
    assert kinds.count(REFUSED) >= 50
    assert {code_of(answer) for answer in sink.answers if answer[0] == REFUSED} == {"deadline_exceeded"}


@pytest.mark.parametrize("depth", [500, 900, 990])
@pytest.mark.parametrize("schema", [True, {"type": "object"}])
async def test_an_input_nested_deeply_is_not_the_programs_fault(pool: Pool, depth: int, schema: Any) -> None:
    target = program("def run(x):\n    return 1\n", input_schema=schema)
    for _ in range(10):
        ((kind, payload),) = await run(pool, target, [b"[" * depth + b"]" * depth])
        assert (kind, payload) == (SUCCESS, 1) if schema is True else kind == REFUSED


async def test_why_a_program_does_not_load_is_never_lost_to_the_end_of_its_worker() -> None:
    async with started_pool() as pool:
        for _ in range(100):  # it was, about one time in forty: the report of the exit can overtake the pipe
            async with pool.trial(program("def run(:")) as trial:
                assert await trial.load() == "SyntaxError: invalid syntax (line 1)"
