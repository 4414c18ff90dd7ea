"""The executor as a service: real NATS, real sandbox, a small artifact store that answers."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from nats.aio.msg import Msg
from nats.errors import NoRespondersError

from loopai_client.local.nats_server import NatsServer
from loopai_common.contracts import subjects
from loopai_common.contracts.artifacts import ArtifactActivated
from loopai_common.contracts.execution import CheckExample, CheckProgram, CheckReport
from loopai_common.contracts.failure import ERROR_CODE_HEADER
from loopai_common.contracts.frames import (
    FRAME_FORMAT,
    AnswerKind,
    Frame,
    FrameMark,
    FramePart,
)
from loopai_common.contracts.health import Ping, Pong
from loopai_common.contracts.tasks import Comparison
from loopai_common.runtime.broker import Bus
from loopai_common.runtime.rpc import RpcClient
from loopai_executor.main import create_app
from loopai_executor.settings import ExecutorSettings
from tests.support.bus import new_bus, running
from tests.support.frames import Answered, answered, frame_group
from tests.support.sandbox import PATIENCE_SECONDS
from tests.support.stub_store import StubStore, activated

SPAM = 'def run(input):\n    return "spam" if "free" in input["text"] else "ham"\n'
FORCED = FrameMark(force_validation=True)
TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}


class Stage:
    """A client of the bus, beside a store and an executor."""

    def __init__(self, bus: Bus, store: StubStore) -> None:
        self.bus = bus
        self.store = store
        self.rpc = RpcClient(bus)

    async def request(self, subject: str, body: Any, **headers: str) -> Msg:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            return await self.bus.client.request(subject, data, timeout=PATIENCE_SECONDS, headers=headers or None)
        except NoRespondersError:  # right after the start; callers try once more, as RpcClient does
            await asyncio.sleep(0.1)
            return await self.bus.client.request(subject, data, timeout=PATIENCE_SECONDS, headers=headers or None)

    async def execute(self, task: str, body: Any, version: int | None = None) -> Any:
        message = await self.request(subjects.execute(task, version), body)
        return json.loads(message.data)

    async def frame(self, frame: Frame, count: int) -> tuple[dict[int, Answered], list[FramePart]]:
        """Sends a frame and gathers the parts until ``count`` items are answered."""
        inbox = self.bus.client.new_inbox()
        subscription = await self.bus.client.subscribe(inbox)
        await self.bus.client.publish(subjects.FRAMES, msgspec.json.encode(frame), reply=inbox)
        answers: dict[int, Answered] = {}
        parts: list[FramePart] = []
        while len(answers) < count:
            message = await subscription.next_msg(timeout=PATIENCE_SECONDS)
            part = msgspec.json.decode(message.data, type=FramePart)
            parts.append(part)
            for answer in answered([part]):
                assert answer.index not in answers, "answered twice"
                answers[answer.index] = answer
        await subscription.unsubscribe()
        return answers, parts


@asynccontextmanager
async def executor(nats_url: str, **changes: Any) -> AsyncIterator[None]:
    """A running executor in this process."""
    app = create_app(ExecutorSettings(nats_url=nats_url, shutdown_grace_seconds=10, **changes))
    async with app.router.lifespan_context(app):
        yield


@pytest.fixture
async def stage(nats_server: NatsServer) -> AsyncIterator[Stage]:
    store = StubStore()
    async with (
        running(new_bus("tests", nats_server.url)) as bus,
        store.serving(nats_server.url),
        executor(nats_server.url, load_timeout_ms=500),
    ):
        yield Stage(bus, store)


async def test_single_request_is_answered_with_its_result(stage: Stage) -> None:
    task = stage.store.add("spam", SPAM, input_schema=TEXT)
    for reference in ("spam", str(task.id)):
        result = await stage.execute(reference, {"input": {"text": "free entry"}, "execution_id": "mine"})
        assert result["output"] == "spam"
        assert result["status"] == "success"
        assert result["execution_id"] == "mine"
        assert (result["task_id"], result["version"]) == (str(task.id), 1)
        assert result["error_code"] is result["error_message"] is None
        assert result["executed_at"].endswith("Z")


async def test_batch_is_answered_in_order_with_refusals_in_place(stage: Stage) -> None:
    stage.store.add("spam", SPAM, input_schema=TEXT)
    body = {"executions": [{"input": {"text": "free"}}, {"input": {"text": 1}}, {"input": {"text": "x"}}], "other": 1}
    results = (await stage.execute("spam", body))["results"]
    assert [r.get("output") for r in results] == ["spam", None, "ham"]
    assert results[1]["code"] == "input_schema_violation"
    assert results[1]["details"] == [{"field": "input/text", "message": "must be of type string", "code": "type"}]


async def test_unlike_executions_of_a_batch_are_each_answered_in_their_place(stage: Stage) -> None:
    code = "def run(x):\n    if x % 7 == 0:\n        raise ValueError(x)\n    return x\n"
    stage.store.add("odd", code, input_schema={"type": "integer"})
    executions = [
        {
            "input": "no number" if n % 11 == 0 else n,
            "timeout_ms": 1000 + n % 4,
            "force_validation": n % 5 == 0,
            "execution_id": f"order-{n}",
        }
        for n in range(600)
    ]
    results = (await stage.execute("odd", {"executions": executions}))["results"]
    for n, result in enumerate(results):
        if n % 11 == 0:
            assert result["code"] == "input_schema_violation"
            continue
        assert (result["execution_id"], result["sampled_for_validation"]) == (f"order-{n}", n % 5 == 0)
        if n % 7 == 0:
            assert (result["error_code"], result["error_message"]) == ("program_raised", f"ValueError: {n}")
        else:
            assert (result["status"], result["output"]) == ("success", n)


@pytest.mark.parametrize(
    ("task", "version", "body", "code"),
    [
        ("spam", "active", b'{"input": {"text": 3}}', "input_schema_violation"),
        ("unknown", "active", b'{"input": 1}', "task_not_found"),
        ("unready", "active", b'{"input": 1}', "task_not_ready"),
        ("spam", "9", b'{"input": 1}', "artifact_not_found"),
        ("spam", "zero", b'{"input": 1}', "validation_error"),
        ("spam", "0", b'{"input": 1}', "validation_error"),
        ("spam", "active", b'{"input": {"text": "x"}, "timeout_ms": 0}', "validation_error"),
        ("spam", "active", b'{"input": {"text": "x"}, "timeout_ms": 60001}', "validation_error"),
        ("spam", "active", b'{"executions": []}', "validation_error"),
        ("spam", "active", b"{}", "validation_error"),
        ("spam", "active", b"[]", "validation_error"),
        ("spam", "active", b"{", "malformed_json"),
        ("spam", "active", b"", "malformed_json"),
        ("spam", "active", b'{"input": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "malformed_json"),
    ],
)
async def test_refused_request_is_a_typed_failure(
    stage: Stage, task: str, version: str, body: bytes, code: str
) -> None:
    stage.store.add("spam", SPAM, input_schema=TEXT)
    stage.store.add("unready", active=None)
    message = await stage.request(f"{subjects.EXECUTE}.{task}.{version}", body)
    assert message.headers is not None
    assert message.headers[ERROR_CODE_HEADER] == code
    assert json.loads(message.data)["code"] == code


async def test_program_that_does_not_match_its_digest_never_runs(stage: Stage) -> None:
    stage.store.add("spam", SPAM)
    stage.store.corrupt = True
    assert (await stage.execute("spam", {"input": {"text": "x"}}))["code"] == "artifact_corrupt"


async def test_slow_program_does_not_hold_back_another_request(stage: Stage) -> None:
    stage.store.add("slow", "def run(x):\n    while True: pass\n")
    stage.store.add("spam", SPAM)
    await stage.execute("spam", {"input": {"text": "warm"}})
    slow = asyncio.create_task(stage.execute("slow", {"input": 1, "timeout_ms": 20_000}))
    for _ in range(20):
        assert (await stage.execute("spam", {"input": {"text": "free"}}))["output"] == "spam"
    assert not slow.done()
    slow.cancel()


async def test_frame_is_answered_in_parts_as_programs_finish(stage: Stage) -> None:
    stage.store.add("spam", SPAM, input_schema=TEXT)
    stage.store.add("slow", "def run(x):\n    while True: pass\n")
    frame = Frame(
        FRAME_FORMAT,
        [
            frame_group("slow", 1, timeout_ms=300),
            frame_group("spam", {"text": "free"}, {"text": 1}, {"text": "x"}, version=1, marks={2: FORCED}),
            frame_group("nobody", 1, 2),
        ],
    )
    answers, parts = await stage.frame(frame, 6)
    assert [answers[i].kind for i in range(6)] == [
        AnswerKind.TIMEOUT,
        AnswerKind.SUCCESS,
        AnswerKind.REFUSED,
        AnswerKind.SUCCESS,
        AnswerKind.REFUSED,
        AnswerKind.REFUSED,
    ]
    assert answers[1].payload == b'"spam"'
    assert json.loads(answers[0].payload)[0] == "limit_time"
    assert json.loads(answers[4].payload)["code"] == "task_not_found"
    assert (answers[1].sampled, answers[3].sampled) == (False, True)
    assert [a.index for a in answered(parts[-1:])] == [0], "the slow one comes last, by itself"


async def test_frame_with_an_impossible_task_name_is_refused(stage: Stage) -> None:
    answers, _ = await stage.frame(Frame(FRAME_FORMAT, [frame_group("no such/name", 1)]), 1)
    assert json.loads(answers[0].payload)["code"] == "validation_error"


async def test_frame_without_reply_subject_does_no_harm(stage: Stage) -> None:
    stage.store.add("spam", SPAM)
    frame = Frame(FRAME_FORMAT, [frame_group("spam", {"text": "free"}, timeout_ms=-5)])
    await stage.bus.client.publish(subjects.FRAMES, msgspec.json.encode(frame))
    answers, _ = await stage.frame(frame, 1)
    assert answers[0].payload == b'"spam"'


async def test_frame_of_unknown_format_is_refused_item_by_item(stage: Stage) -> None:
    answers, _ = await stage.frame(Frame(99, [frame_group("spam", 1, 2)]), 2)
    assert {json.loads(a.payload)["code"] for a in answers.values()} == {"validation_error"}


@pytest.mark.parametrize("body", [b"[1, 2", b'[2,[["spam",0,1000,["e"],[1,2]]]]'], ids=["cut off", "an id too few"])
async def test_frame_that_is_no_frame_gets_a_failure(stage: Stage, body: bytes) -> None:
    message = await stage.request(subjects.FRAMES, body)
    assert json.loads(message.data)["code"] == "malformed_json"


async def test_request_past_its_deadline_is_dropped(stage: Stage) -> None:
    stage.store.add("spam", SPAM)
    late = {subjects.DEADLINE_HEADER: str(int(time.time() * 1000) - 1)}
    message = await stage.request(subjects.execute("spam", None), {"input": {"text": "x"}}, **late)
    assert json.loads(message.data)["code"] == "deadline_exceeded"
    assert stage.store.resolved == 0


async def test_activated_event_switches_the_active_version_at_once(stage: Stage) -> None:
    task = stage.store.add("spam", "def run(x):\n    return 1\n", "def run(x):\n    return 2\n")
    assert (await stage.execute("spam", {"input": 0}))["output"] == 1
    task.active = 2
    assert (await stage.execute("spam", {"input": 0}))["output"] == 1, "the pointer is cached"
    await stage.bus.client.publish(subjects.ARTIFACT_ACTIVATED, activated(task, 1).model_dump_json().encode())
    async with asyncio.timeout(2.0):  # well before the pointer would have grown old
        while (await stage.execute("spam", {"input": 0}))["output"] != 2:
            await asyncio.sleep(0.01)
    assert (await stage.execute("spam", {"input": 0}, version=1))["output"] == 1


async def test_program_is_fetched_once_for_many_requests(stage: Stage) -> None:
    stage.store.add("spam", SPAM)
    results = await asyncio.gather(*(stage.execute("spam", {"input": {"text": "free"}}) for _ in range(50)))
    assert {r["output"] for r in results} == {"spam"}
    assert (stage.store.resolved, stage.store.fetched) == (1, 1)


async def test_check_reports_scores_apart_latencies_and_first_failures(stage: Stage) -> None:
    examples = tuple(
        CheckExample(input={"text": f"free {i}"}, output="spam" if i % 10 else "ham", held_back=i % 2 == 0)
        for i in range(100)
    )
    command = CheckProgram(code=SPAM, input_schema=TEXT, output_schema={"enum": ["spam", "ham"]}, examples=examples)
    report = await stage.rpc.call(subjects.PROGRAMS_CHECK, command, CheckReport, timeout=PATIENCE_SECONDS)
    assert report.loaded
    assert (report.shown.passed, report.shown.total, report.shown.accuracy) == (50, 50, 1.0)
    assert (report.held_back.passed, report.held_back.total, report.held_back.accuracy) == (40, 50, 0.8)
    assert len(report.failures) == 10
    assert (report.failures[0].expected, report.failures[0].actual) == ("ham", "spam")
    assert report.latency_p50_ms is not None
    assert report.latency_p99_ms is not None
    assert 0 < report.latency_p50_ms <= report.latency_p99_ms


@pytest.mark.parametrize(
    ("comparison", "threshold", "passed", "similarities"),
    [
        ("exact", 0.0, 1, [None, None]),
        ("fuzzy", 0.75, 2, [0.0]),
        ("fuzzy", 0.9, 1, [0.75, 0.0]),
        ("structured", 0.5, 3, []),
        ("structured", 0.8, 1, [0.5, 0.5]),
    ],
)
async def test_check_compares_outputs_as_the_task_says(
    stage: Stage, comparison: str, threshold: float, passed: int, similarities: list[float | None]
) -> None:
    right = {"city": "Hannover", "code": 1}
    outputs = (right, {**right, "city": "Hanover."}, {**right, "code": 2})
    command = CheckProgram(
        code=f"def run(x):\n    return {right!r}\n",
        input_schema=True,
        output_schema=True,
        examples=tuple(CheckExample(input=i, output=output) for i, output in enumerate(outputs)),
        comparison=Comparison(comparison),
        comparison_threshold=threshold,
    )
    report = await stage.rpc.call(subjects.PROGRAMS_CHECK, command, CheckReport, timeout=PATIENCE_SECONDS)
    assert (report.shown.passed, report.shown.total) == (passed, 3)
    assert [failure.similarity for failure in report.failures] == similarities


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("def run(x)\n    return 1\n", "SyntaxError: expected ':' (line 1)"),
        ("def walk(x):\n    return 1\n", "the program defines no function 'run'"),
        ("import socket\ndef run(x):\n    return 1\n", "the module 'socket' is not available to programs"),
        ("while True: pass\n", "did not finish loading in its time"),
        ("raise ValueError('no')\n", "ValueError: no"),
        ("import os\nos._exit(1)\n", "exited with code 1"),
    ],
)
async def test_check_says_why_a_program_does_not_load(stage: Stage, code: str, says: str) -> None:
    command = CheckProgram(code=code, input_schema=True, output_schema=True)
    report = await stage.rpc.call(subjects.PROGRAMS_CHECK, command, CheckReport, timeout=PATIENCE_SECONDS)
    assert not report.loaded
    assert report.problem is not None
    assert says in report.problem


async def test_check_of_a_looping_program_ends_after_a_few_timeouts(stage: Stage) -> None:
    examples = tuple(CheckExample(input=i, output=i) for i in range(1000))
    command = CheckProgram(
        code="def run(x):\n    while True: pass\n",
        input_schema=True,
        output_schema=True,
        examples=examples,
        timeout_ms=50,
    )
    report = await stage.rpc.call(subjects.PROGRAMS_CHECK, command, CheckReport, timeout=PATIENCE_SECONDS)
    assert report.loaded
    assert (report.shown.passed, report.shown.total) == (0, 1000)
    assert "limit_time" in (report.failures[0].error or "")
    assert "not run: the program ran out of time on 5 examples" in (report.failures[-1].error or "")


async def test_executor_tells_that_it_is_there(stage: Stage) -> None:
    pong = await stage.rpc.call(subjects.ping("executor"), Ping(), Pong, timeout=PATIENCE_SECONDS)
    assert (pong.service, pong.status, pong.detail) == ("executor", "healthy", None)


async def test_event_for_an_unknown_task_does_no_harm(stage: Stage) -> None:
    task = StubStore().add("elsewhere", SPAM)
    event: ArtifactActivated = activated(task, None)
    await stage.bus.client.publish(subjects.ARTIFACT_ACTIVATED, event.model_dump_json().encode())
    stage.store.add("spam", SPAM)
    assert (await stage.execute("spam", {"input": {"text": "free"}}))["output"] == "spam"
