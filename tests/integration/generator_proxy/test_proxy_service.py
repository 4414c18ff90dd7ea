"""The generator-proxy as a process, on a real bus, with a store, an executor and a generator of the test's own."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from nats.js.api import AckPolicy, ConsumerConfig
from pydantic import JsonValue

from loopai_client.dead_letters import DeadLetters
from loopai_client.local.nats_server import NatsServer, free_port
from loopai_common.contracts import subjects
from loopai_common.contracts.artifacts import (
    ArtifactPage,
    ArtifactStatus,
    GetArtifact,
    Language,
    ListArtifacts,
    ProgramArtifact,
    PublishArtifact,
    Score,
)
from loopai_common.contracts.base import ArtifactId, GenerationId, TaskId, Version
from loopai_common.contracts.execution import CheckProgram, CheckReport
from loopai_common.contracts.failure import ERROR_HEADER
from loopai_common.contracts.generation import GenerateProgram, GenerationState, GetGeneration, SubmitProgram
from loopai_common.contracts.tasks import (
    Example,
    FailTask,
    GetTask,
    TaskCreated,
    TaskSpecification,
    TaskStatus,
    TaskSummary,
)
from loopai_common.errors import ProgramRejected, StoreUnavailable, TaskNotFound
from loopai_common.identifiers import new_uuid
from loopai_common.runtime.broker import Bus
from loopai_common.runtime.rpc import RpcClient
from loopai_generator_proxy.domain import digest_of
from loopai_generator_proxy.handlers import WORK
from tests.integration.generator_proxy.bad_generator import PROGRAM, listening, program, response, text
from tests.support.builders import LABEL_SCHEMA, TEXT_SCHEMA
from tests.support.bus import jetstream_of, new_bus, running
from tests.support.service_process import ServiceProcess
from tests.support.sms import load, messages

PATIENCE = 90.0
KEY = "key-that-must-not-be-seen"
ACTIVE = "def run(input):\n    return 'ham'\n"


def task(examples: tuple[Example, ...] = (), **changes: Any) -> TaskSpecification:
    now = datetime.now(UTC)
    fields: dict[str, Any] = {
        "id": new_uuid(),
        "name": "spam-detection",
        "description": "Spam promises a prize; everything else is ham.",
        "input_schema": TEXT_SCHEMA,
        "output_schema": LABEL_SCHEMA,
        "total_examples": len(examples),
        "examples": examples,
        "accuracy_target": 0.9,
        "latency_target_ms": 10,
        "sampling_rate": 0.1,
        "status": "generating",
        "active_version": None,
        "total_versions": 0,
        "created_at": now,
        "updated_at": now,
    }
    return TaskSpecification.model_validate({**fields, **changes})


PRIZES = tuple(
    Example(
        input={"text": f"claim prize {n}" if n % 3 == 0 else f"see you at {n}"}, output="spam" if n % 3 == 0 else "ham"
    )
    for n in range(30)
)


class World:
    """The store and the executor, and what they were told."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.tasks: dict[str, TaskSpecification] = {}
        self.published: list[PublishArtifact] = []
        self.failed: list[FailTask] = []
        self.checks: list[CheckProgram] = []
        self.store_is_away = False
        self.versions: list[ProgramArtifact] = []

    def store(self) -> None:
        @self.bus.on(subjects.TASKS_GET)
        async def get_task(query: GetTask) -> TaskSpecification:
            if self.store_is_away:
                raise StoreUnavailable("the database is away")
            try:
                return self.tasks[query.task]
            except KeyError:
                raise TaskNotFound("no such task") from None

        @self.bus.on(subjects.GENERATIONS_GET)
        async def generation(query: GetGeneration) -> GenerationState:
            made = any(command.generation_id == query.generation_id for command in self.published)
            return GenerationState(ended=made, version=Version(1) if made else None)

        @self.bus.on(subjects.ARTIFACTS_GET)
        async def get_artifact(query: GetArtifact) -> ProgramArtifact:
            of = PublishArtifact(task_id=TaskId(UUID(query.task)), generation_id=GenerationId(new_uuid()), code=ACTIVE)
            return artifact(of).model_copy(update={"code": ACTIVE})

        @self.bus.on(subjects.ARTIFACTS_LIST)
        async def list_artifacts(query: ListArtifacts) -> ArtifactPage:
            return ArtifactPage(items=tuple(self.versions))

        @self.bus.on(subjects.ARTIFACTS_PUBLISH)
        async def publish(command: PublishArtifact) -> ProgramArtifact:
            self.published.append(command)
            return artifact(command)

        @self.bus.on(subjects.TASKS_FAIL)
        async def fail(command: FailTask) -> TaskSummary:
            self.failed.append(command)
            return TaskSummary.model_validate(self.tasks[str(command.task_id)].model_dump())

    def executor(self) -> None:
        @self.bus.on(subjects.PROGRAMS_CHECK)
        async def check(query: CheckProgram) -> CheckReport:
            self.checks.append(query)
            return report(query)

    async def create(self, made: TaskSpecification) -> TaskCreated:
        self.tasks[str(made.id)] = made
        event = TaskCreated(task_id=made.id, name=made.name, generation_id=GenerationId(new_uuid()))
        await jetstream_of(self.bus.client).publish(subjects.TASK_CREATED, event.model_dump_json().encode())
        return event

    async def generate(self, task_id: TaskId, **fields: Any) -> GenerateProgram:
        command = GenerateProgram(task_id=task_id, generation_id=GenerationId(new_uuid()), **fields)
        await jetstream_of(self.bus.client).publish(subjects.TASK_GENERATE_COMMAND, command.model_dump_json().encode())
        return command


def report(query: CheckProgram) -> CheckReport:
    """What an executor would find, without its sandbox: the programs are the test's own."""
    try:
        run = load(query.code, query.entry_point)
    except (SyntaxError, KeyError) as error:
        return CheckReport(loaded=False, problem=type(error).__name__)
    scores = []
    for side in (False, True):
        chosen = [example for example in query.examples if example.held_back is side]
        passed = sum(1 for example in chosen if run(example.input) == example.output)
        scores.append(Score(passed=passed, total=len(chosen), accuracy=passed / len(chosen) if chosen else None))
    return CheckReport(loaded=True, shown=scores[0], held_back=scores[1], latency_p50_ms=0.01, latency_p99_ms=0.02)


def artifact(command: PublishArtifact) -> ProgramArtifact:
    return ProgramArtifact(
        id=ArtifactId(new_uuid()),
        task_id=command.task_id,
        version=Version(1),
        language=Language.PYTHON,
        entry_point=command.entry_point,
        digest=digest_of(command.code),
        size_bytes=len(command.code),
        synthesis_strategy=command.synthesis_strategy,
        confidence_score=command.confidence_score,
        complexity_metrics=command.complexity_metrics,
        llm_provider=None,
        llm_model=None,
        generation_cost=0.0,
        generation_time_sec=0.0,
        validation=command.validation,
        status=ArtifactStatus.ACTIVE,
        deployment_percentage=100.0,
        created_at=datetime.now(UTC),
        deployed_at=None,
        parent_version=None,
    )


async def eventually(condition: Callable[[], object], what: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.02)
    assert condition(), what


@asynccontextmanager
async def world(nats: NatsServer, *, executor: bool = True) -> AsyncIterator[World]:
    bus = new_bus("stand-in", nats.url)
    everything = World(bus)
    everything.store()
    if executor:
        everything.executor()
    async with running(bus):
        yield everything


@asynccontextmanager
async def proxy(nats: NatsServer, tmp_path: Path, generator_url: str, **settings: str) -> AsyncIterator[ServiceProcess]:
    environment = {
        "LOOPAI_NATS_URL": nats.url,
        "GENERATOR_URL": generator_url,
        "LOOPAI_GENERATOR_PROXY_GENERATOR_API_KEY": KEY,
        **settings,
    }
    process = ServiceProcess("loopai_generator_proxy.main", "LOOPAI_GENERATOR_PROXY_", tmp_path / "log", environment)
    async with AsyncExitStack() as stack:
        await asyncio.to_thread(process.__enter__)
        stack.push_async_callback(asyncio.to_thread, process.__exit__, None, None, None)
        yield process
        log = process.log
        assert KEY not in log
        assert "Traceback" not in log


async def test_created_task_gets_a_checked_and_activated_program(own_nats: NatsServer, tmp_path: Path) -> None:
    async with world(own_nats) as around, listening(program()) as stub, proxy(own_nats, tmp_path, stub.url):
        event = await around.create(task(PRIZES))
        await eventually(lambda: around.published, "a version is published")
        (published,) = around.published
        assert (published.task_id, published.generation_id) == (event.task_id, event.generation_id)
        assert (published.code, published.activate, published.confidence_score) == (PROGRAM, True, 1.0)
        assert published.validation is not None
        assert (published.validation.shown.total, published.validation.held_back.total) == (24, 6)
        assert published.complexity_metrics.cyclomatic_complexity == 1
        ((headers, body),) = stub.asked
        assert headers["idempotency-key"] == str(event.generation_id)
        assert len(json.loads(body)["examples"]) == 24


async def test_real_generator_and_real_messages(own_nats: NatsServer, tmp_path: Path) -> None:
    generator = ServiceProcess("loopai_generator.main", "LOOPAI_GENERATOR_", tmp_path / "generator.log", {})
    async with AsyncExitStack() as stack:
        await asyncio.to_thread(generator.__enter__)
        stack.push_async_callback(asyncio.to_thread, generator.__exit__, None, None, None)
        around = await stack.enter_async_context(world(own_nats))
        await stack.enter_async_context(proxy(own_nats, tmp_path, generator.url))
        await around.create(task(messages()[:1500], accuracy_target=0.95))
        await eventually(lambda: around.published or around.failed, "a version is published")
        (published,) = around.published
        assert published.activate
        assert published.validation is not None
        assert published.validation.held_back.total == 300
        assert published.validation.held_back.accuracy is not None
        assert published.validation.held_back.accuracy >= 0.95
        assert published.confidence_score == published.validation.held_back.accuracy


async def test_command_makes_a_new_version_of_a_ready_task(own_nats: NatsServer, tmp_path: Path) -> None:
    async with world(own_nats) as around, listening(program()) as stub, proxy(own_nats, tmp_path, stub.url):
        made = task(PRIZES, status=TaskStatus.READY, active_version=2, total_versions=2)
        around.tasks[str(made.id)] = made
        await around.generate(made.id, constraints="be short")
        await eventually(lambda: around.published, "a version is published")
        assert around.published[0].parent_version == 2
        asked = json.loads(stub.asked[0][1])
        assert (asked["constraints"], asked["previous"]["code"]) == ("be short", ACTIVE)
        assert around.published[0].only_over_parent


async def test_redelivered_command_whose_version_exists_does_nothing(own_nats: NatsServer, tmp_path: Path) -> None:
    async with world(own_nats) as around, listening(program()) as stub, proxy(own_nats, tmp_path, stub.url) as process:
        made = task(PRIZES)
        event = await around.create(made)
        await eventually(lambda: around.published, "a version is published")
        again = GenerateProgram(task_id=made.id, generation_id=event.generation_id)
        await jetstream_of(around.bus.client).publish(subjects.TASK_GENERATE_COMMAND, again.model_dump_json().encode())
        await eventually(lambda: 'outcome": "skipped' in process.log, "the log says that it was skipped")
        assert (stub.attempts, len(around.published)) == (1, 1)


async def test_dead_letter_ends_its_generation_with_the_cause(own_nats: NatsServer, tmp_path: Path) -> None:
    async with world(own_nats) as around, listening(program()) as stub, proxy(own_nats, tmp_path, stub.url):
        for number, subject in enumerate((subjects.TASK_CREATED, subjects.TASK_GENERATE_COMMAND), 1):
            made = task(PRIZES)
            around.tasks[str(made.id)] = made
            letter = TaskCreated(task_id=made.id, name=made.name, generation_id=GenerationId(new_uuid()))
            await jetstream_of(around.bus.client).publish(
                subjects.dead_letter(subject),
                letter.model_dump_json().encode(),
                headers={ERROR_HEADER: "something unforeseen happened; the log has the cause"},
            )
            await eventually(lambda number=number: len(around.failed) == number, "the task fails")  # type: ignore[misc]  # bound here
            failure = around.failed[-1]
            assert (failure.task_id, failure.generation_id) == (made.id, letter.generation_id)
            assert "something unforeseen happened" in failure.reason
        assert stub.attempts == 0


@pytest.mark.parametrize("subject", [subjects.TASK_CREATED, subjects.TASK_GENERATE_COMMAND])
async def test_message_whose_process_ended_each_time_ends_its_generation(
    own_nats: NatsServer, tmp_path: Path, subject: str
) -> None:
    stream, consumer = dict(zip((subjects.TASK_CREATED, subjects.TASK_GENERATE_COMMAND), WORK, strict=True))[subject]
    async with world(own_nats) as around, listening(program()) as stub:
        jetstream = jetstream_of(around.bus.client)
        # The service's consumer, with so little patience that it has none left when the service comes.
        impatient = ConsumerConfig(
            durable_name=consumer, filter_subject=subject, ack_policy=AckPolicy.EXPLICIT, ack_wait=0.1, max_deliver=2
        )
        await jetstream.add_consumer(stream, impatient)
        made = task(PRIZES)
        event = await around.create(made) if stream == subjects.EVENTS_STREAM else await around.generate(made.id)
        around.tasks[str(made.id)] = made
        dying = await jetstream.pull_subscribe_bind(consumer, stream)
        for _ in range(2):
            assert await dying.fetch(1, timeout=PATIENCE)  # and never acknowledged
        async with proxy(own_nats, tmp_path, stub.url):
            await eventually(lambda: around.failed, "the task fails")
            assert (around.failed[0].task_id, around.failed[0].generation_id) == (made.id, event.generation_id)
            assert "each process that began with it ended" in around.failed[0].reason
            letter = await jetstream.get_last_msg(subjects.DEAD_LETTERS_STREAM, subjects.dead_letter(subject))
            assert json.loads(letter.data or b"")["generation_id"] == str(event.generation_id)
            await eventually_none_is_left(around.bus)
        assert (stub.attempts, len(around.failed)) == (0, 1)


async def eventually_none_is_left(bus: Bus) -> None:
    async with asyncio.timeout(PATIENCE):
        while (await jetstream_of(bus.client).stream_info(subjects.COMMANDS_STREAM)).state.messages:
            await asyncio.sleep(0.02)


async def test_program_that_is_handed_in_is_checked_and_published(own_nats: NatsServer, tmp_path: Path) -> None:
    async with world(own_nats) as around, listening(program()) as stub, proxy(own_nats, tmp_path, stub.url):
        made = task(PRIZES)
        around.tasks[made.name] = made
        client = RpcClient(around.bus)
        good = SubmitProgram(task=made.name, code=PROGRAM, idempotency_key="k1")
        first = await client.call(subjects.PROGRAMS_SUBMIT, good, ProgramArtifact, timeout=PATIENCE)
        assert (first.task_id, first.digest) == (made.id, digest_of(PROGRAM))
        await client.call(subjects.PROGRAMS_SUBMIT, good, ProgramArtifact, timeout=PATIENCE)
        assert len({command.generation_id for command in around.published}) == 1
        for code, detail in ((ACTIVE, "right on 20/30"), ("def run(:", "cannot be used: SyntaxError")):
            bad = SubmitProgram(task=made.name, code=code)
            with pytest.raises(ProgramRejected, match=detail):
                await client.call(subjects.PROGRAMS_SUBMIT, bad, ProgramArtifact, timeout=PATIENCE)
        missing = SubmitProgram(task="nobody", code=PROGRAM)
        with pytest.raises(TaskNotFound):
            await client.call(subjects.PROGRAMS_SUBMIT, missing, ProgramArtifact, timeout=PATIENCE)
        assert (stub.attempts, len(around.published)) == (0, 2)


async def test_event_of_a_finished_task_is_acknowledged_without_work(own_nats: NatsServer, tmp_path: Path) -> None:
    async with world(own_nats) as around, listening(program()) as stub, proxy(own_nats, tmp_path, stub.url) as process:
        await around.create(task(PRIZES, status=TaskStatus.READY, active_version=1, total_versions=1))
        await eventually(lambda: 'outcome": "skipped' in process.log, "the log says that it was skipped")
        assert (stub.attempts, around.published) == (0, [])


async def test_below_the_target_the_best_round_is_a_draft(own_nats: NatsServer, tmp_path: Path) -> None:
    never = program("def run(input):\n    return 'spam'\n")
    mostly = program("def run(input):\n    return 'ham'\n")
    async with world(own_nats) as around, listening(never, mostly) as stub, proxy(own_nats, tmp_path, stub.url):
        await around.create(task(PRIZES))
        await eventually(lambda: around.published, "a version is published")
        (published,) = around.published
        assert (published.activate, "'ham'" in published.code) == (False, True)
        assert published.failure_reason is not None
        assert "20/30 (66.7%)" in published.failure_reason
        previous: JsonValue = json.loads(stub.asked[1][1])["previous"]
        assert isinstance(previous, dict)
        assert "'spam'" in str(previous["code"])


async def test_declining_generator_ends_the_task_with_its_reason(own_nats: NatsServer, tmp_path: Path) -> None:
    no = response(success=False, error_message="only labels can be learned")
    async with world(own_nats) as around, listening(no) as stub, proxy(own_nats, tmp_path, stub.url):
        event = await around.create(task(PRIZES))
        await eventually(lambda: around.failed, "the task fails")
        assert (around.failed[0].reason, around.failed[0].generation_id) == (
            "only labels can be learned",
            event.generation_id,
        )
        assert (stub.attempts, around.published) == (1, [])


async def test_generator_that_is_not_there_ends_the_task_after_the_retries(
    own_nats: NatsServer, tmp_path: Path
) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    settings = {"LOOPAI_GENERATOR_PROXY_RETRIES": "1"}
    async with world(own_nats) as around, proxy(own_nats, tmp_path, nowhere, **settings) as process:
        await around.create(task(PRIZES))
        await eventually(lambda: around.failed, "the task fails")
        assert "ConnectError" in around.failed[0].reason
        ready = await get(f"{process.url}/health/ready")
        assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
        assert ready.json()["checks"]["generator"]["detail"] == "the generator does not answer (ConnectError)"


async def test_program_that_does_not_load_ends_the_task(own_nats: NatsServer, tmp_path: Path) -> None:
    async with world(own_nats) as around, listening(program("def run(:")) as stub, proxy(own_nats, tmp_path, stub.url):
        await around.create(task(PRIZES))
        await eventually(lambda: around.failed, "the task fails")
        assert around.failed[0].reason == "the generated program does not load in the sandbox: SyntaxError"
        assert stub.attempts == 2


async def test_without_an_executor_the_task_ends_failed_when_patience_is_used_up(
    own_nats: NatsServer, tmp_path: Path
) -> None:
    settings = {"LOOPAI_GENERATOR_PROXY_PATIENCE_SECONDS": "1"}
    async with (
        world(own_nats, executor=False) as around,
        listening(program()) as stub,
        proxy(own_nats, tmp_path, stub.url, **settings),
    ):
        await around.create(task(PRIZES))
        await eventually(lambda: around.failed, "the task fails")
        assert "could not be checked: no executor is running" in around.failed[0].reason


async def test_store_that_comes_back_gets_the_version(own_nats: NatsServer, tmp_path: Path) -> None:
    async with world(own_nats) as around, listening(program()) as stub, proxy(own_nats, tmp_path, stub.url) as process:
        around.store_is_away = True
        await around.create(task(PRIZES))
        await eventually(lambda: "waiting_for_service" in process.log, "the proxy waits")
        around.store_is_away = False
        await eventually(lambda: around.published, "a version is published")
        assert around.failed == []


async def test_task_nobody_knows_is_left_alone(own_nats: NatsServer, tmp_path: Path) -> None:
    async with world(own_nats) as around, listening(program()) as stub, proxy(own_nats, tmp_path, stub.url) as process:
        await around.generate(TaskId(new_uuid()))
        await eventually(lambda: "generation_without_task" in process.log, "the log says so")
        assert (stub.attempts, around.failed) == (0, [])


async def test_no_more_generations_run_at_once_than_allowed(own_nats: NatsServer, tmp_path: Path) -> None:
    running_now, most, gate = 0, 0, asyncio.Event()

    def counted(answer: Callable[[asyncio.StreamWriter], Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        async def wait(writer: asyncio.StreamWriter) -> None:
            nonlocal running_now, most
            running_now += 1
            most = max(most, running_now)
            await gate.wait()
            running_now -= 1
            await answer(writer)

        return wait

    settings = {"LOOPAI_GENERATOR_PROXY_CONCURRENCY": "2"}
    async with (
        world(own_nats) as around,
        listening(counted(program())) as stub,
        proxy(own_nats, tmp_path, stub.url, **settings) as process,
    ):
        for _ in range(5):
            await around.create(task(PRIZES))
        await eventually(lambda: stub.attempts == 2, "two are asked for")
        metrics = (await get(f"{process.url}/metrics")).text
        assert "loopai_generations_in_flight 2.0" in metrics
        gate.set()
        await eventually(lambda: len(around.published) == 5, "all are published")
        assert most == 2


async def test_ninth_generation_stays_in_the_stream(own_nats: NatsServer, tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def wait(writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        await program()(writer)

    async with world(own_nats) as around, listening(wait) as stub, proxy(own_nats, tmp_path, stub.url):
        for _ in range(9):
            await around.create(task(PRIZES))
        await eventually(lambda: stub.attempts == 8, "eight are asked for")
        waiting = await jetstream_of(around.bus.client).consumer_info(*WORK[0])
        assert (waiting.num_ack_pending, waiting.num_pending) == (8, 1)
        gate.set()
        await eventually(lambda: len(around.published) == 9, "all are published")
        assert stub.attempts == 9


async def test_process_that_is_killed_in_the_middle_is_done_again_once(own_nats: NatsServer, tmp_path: Path) -> None:
    hold = asyncio.Event()

    async def never(writer: asyncio.StreamWriter) -> None:
        await hold.wait()

    async with world(own_nats) as around, listening(never, program()) as stub:
        # The service's consumer, with half the patience; still more than a heartbeat takes.
        stream, consumer = WORK[0]
        impatient = ConsumerConfig(
            durable_name=consumer,
            filter_subject=subjects.TASK_CREATED,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=15.0,
            max_deliver=5,
        )
        await jetstream_of(around.bus.client).add_consumer(stream, impatient)
        async with proxy(own_nats, tmp_path, stub.url) as process:
            event = await around.create(task(PRIZES))
            await eventually(lambda: stub.attempts == 1, "the generator is asked")
            os.kill(process.pid, signal.SIGKILL)
        assert around.published == []
        async with proxy(own_nats, tmp_path, stub.url) as process:
            await eventually(lambda: around.published, "the next instance does it")
            assert "loopai_bus_redeliveries_total" in (await get(f"{process.url}/metrics")).text
        hold.set()
        assert [command.generation_id for command in around.published] == [event.generation_id]
        assert {headers["idempotency-key"] for headers, _ in stub.asked} == {str(event.generation_id)}
        assert around.failed == []


async def test_generator_that_is_down_is_asked_four_times_and_then_left_alone(
    own_nats: NatsServer, tmp_path: Path
) -> None:
    settings = {
        "LOOPAI_GENERATOR_PROXY_BREAKER_FAILURES": "1",
        "LOOPAI_GENERATOR_PROXY_BREAKER_OPEN_SECONDS": "3600",
    }
    async with (
        world(own_nats) as around,
        listening(text("", status=500)) as stub,
        proxy(own_nats, tmp_path, stub.url, **settings) as process,
    ):
        await around.create(task(PRIZES))
        await eventually(lambda: len(around.failed) == 1, "the task fails")
        assert "HTTP 500 (4 attempts)" in around.failed[0].reason
        await around.create(task(PRIZES))
        await eventually(lambda: len(around.failed) == 2, "the next one fails at once")
        assert "is left alone; try again in" in around.failed[1].reason
        assert stub.attempts == 4
        ready = await get(f"{process.url}/health/ready")
        assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
        assert "circuit breaker is open" in ready.json()["checks"]["circuit_breaker"]["detail"]
        metrics = (await get(f"{process.url}/metrics")).text
        assert 'loopai_generator_breaker_state{generator="primary",state="open"} 1.0' in metrics
        assert "circuit_breaker_changed" in process.log
    assert await dead_letters(own_nats) == 0


async def test_first_generation_that_an_operator_puts_back_is_made(own_nats: NatsServer, tmp_path: Path) -> None:
    async with world(own_nats) as around, listening(program()) as stub, proxy(own_nats, tmp_path, stub.url):
        made = task(PRIZES, status=TaskStatus.FAILED)
        around.tasks[str(made.id)] = made
        letter = TaskCreated(task_id=made.id, name=made.name, generation_id=GenerationId(new_uuid()))
        kept = await jetstream_of(around.bus.client).publish(
            subjects.dead_letter(subjects.TASK_CREATED), letter.model_dump_json().encode()
        )
        await eventually(lambda: around.failed, "the generation ends as failed")
        async with DeadLetters.at(own_nats.url) as letters:
            assert await letters.replay(kept.seq) == subjects.TASK_CREATED
        await eventually(lambda: around.published, "a version is published")
        assert around.published[0].generation_id == letter.generation_id


async def test_sigterm_in_the_middle_loses_no_task(own_nats: NatsServer, tmp_path: Path) -> None:
    hold = asyncio.Event()

    async def slowly(writer: asyncio.StreamWriter) -> None:
        await hold.wait()
        await program()(writer)

    grace = {"LOOPAI_GENERATOR_PROXY_SHUTDOWN_GRACE_SECONDS": "1"}
    async with world(own_nats) as around, listening(slowly, program()) as stub:
        async with proxy(own_nats, tmp_path, stub.url, **grace) as process:
            await around.create(task(PRIZES))
            await eventually(lambda: stub.attempts == 1, "the generator is asked")
            assert await asyncio.to_thread(process.stop) == 0
        assert around.published == []
        async with proxy(own_nats, tmp_path, stub.url):
            await eventually(lambda: around.published, "the next instance does it")
        hold.set()
        assert len(around.published) == 1


async def test_generator_that_recovers_is_not_noticed(own_nats: NatsServer, tmp_path: Path) -> None:
    async with (
        world(own_nats) as around,
        listening(text("", status=500), program()) as stub,
        proxy(own_nats, tmp_path, stub.url) as process,
    ):
        await around.create(task(PRIZES))
        await eventually(lambda: around.published, "a version is published")
        assert stub.attempts == 2
        metrics = (await get(f"{process.url}/metrics")).text
        assert 'loopai_generation_attempts_total{generator="primary",outcome="status_5xx"} 1.0' in metrics
        assert 'loopai_generations_total{outcome="activated"} 1.0' in metrics
    assert await dead_letters(own_nats) == 0


async def get(url: str) -> httpx.Response:
    async with httpx.AsyncClient(timeout=PATIENCE, trust_env=False) as client:
        return await client.get(url)


async def dead_letters(nats: NatsServer) -> int:
    async with running(new_bus("reader", nats.url)) as bus:
        return (await jetstream_of(bus.client).stream_info(subjects.DEAD_LETTERS_STREAM)).state.messages
