"""The Python clients against the running product: every method, blocking and asyncio."""

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import pytest

from loopai_client import AsyncLoopaiClient, BatchItem, LoopaiClient
from loopai_client.errors import Conflict, InvalidRequest, NotFound, TaskGone
from loopai_client.framing import MAX_WINDOW_BYTES
from loopai_client.models import Json
from tests.support.builders import definition_body
from tests.support.stack import LocalStack

CODE = "def run(input):\n    return input['n'] + 1\n"
BETTER = "def run(input):\n    return 1 + input['n']\n"


@pytest.fixture(scope="module")
def client(stack: LocalStack) -> Iterator[LoopaiClient]:
    """A blocking client of the shared stack."""
    with LoopaiClient(stack.base_url) as connected:
        yield connected


@pytest.fixture
async def async_client(stack: LocalStack) -> AsyncIterator[AsyncLoopaiClient]:
    """An asyncio client of the shared stack."""
    async with AsyncLoopaiClient(stack.base_url) as connected:
        yield connected


@pytest.fixture(scope="module")
def adder(client: LoopaiClient) -> tuple[str, int]:
    """A task and the version of it that adds one."""
    name = f"client-{uuid4().hex[:8]}"
    client.create_task(counting(name))
    return name, client.upload_artifact(name, CODE).version


def counting(name: str) -> dict[str, Json]:
    """A task that adds one to ``n``."""
    return definition_body(
        name=name,
        description="Add one to n.",
        input_schema={"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
        output_schema={"type": "integer"},
        examples=[],
    )


def items(count: int) -> list[BatchItem]:
    """Numbers, and in the middle something that is none."""
    return [BatchItem({"n": "none" if n == count // 2 else n}) for n in range(count)]


def check_results(outputs: list[Json]) -> None:
    """The outputs of :func:`items` in their order."""
    assert outputs == [None if n == len(outputs) // 2 else n + 1 for n in range(len(outputs))]


def test_both_clients_have_the_same_methods_with_the_same_parameters() -> None:
    def methods(client: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(method).parameters)
            for name, method in vars(client).items()
            if not name.startswith("_")
        }

    assert methods(LoopaiClient) == methods(AsyncLoopaiClient)
    assert LoopaiClient.execute.__doc__ == AsyncLoopaiClient.execute.__doc__


def test_life_of_a_task_with_the_blocking_client(client: LoopaiClient) -> None:
    name = f"client-{uuid4().hex[:8]}"
    created = client.create_task(counting(name), idempotency_key=name)
    assert client.create_task(counting(name), idempotency_key=name).id == created.id
    uploaded = client.upload_artifact(name, CODE, idempotency_key=name)
    version = uploaded.version
    assert client.upload_artifact(name, CODE, idempotency_key=name).version == version
    assert (version, uploaded.status) == (1, "active")
    assert client.get_code(name) == client.get_code(name, version) == client.get_artifact(name).code == CODE
    assert [t.id for t in client.list_tasks(name_prefix=name)] == [created.id]

    assert client.execute(name, {"n": 1}, version=version, timeout_ms=5000, force_validation=True).output == 2
    accepted = client.execute_async(name, {"n": 41}, version=version)
    record = client.wait_for_execution(accepted.execution_id)
    assert (record.status, record.output, client.get_execution(record.id)) == ("success", 42, record)
    assert record in list(client.list_executions(name, since=record.executed_at))

    whole = client.batch(name, items(50), version=version, max_concurrency=10, timeout_ms=5000)
    check_results([r.output for r in whole.results])
    assert (whole.success_count, whole.results[25].error_code) == (49, "input_schema_violation")
    streamed = list(client.batch_stream(name, iter(items(2500)), version=version))
    check_results([r.output for r in streamed])
    assert [r.line for r in streamed] == list(range(1, 2501))

    client.wait_for_task(name)
    task = client.get_task(name)
    changed = client.update_task(name, sampling_rate=0.5, expected_revision=task.revision)
    assert changed.sampling_rate == 0.5
    with pytest.raises(Conflict) as conflict:
        client.update_task(name, sampling_rate=0.6, expected_revision=task.revision)
    assert conflict.value.code == "precondition_failed"

    second = client.upload_artifact(name, BETTER, activate=False)
    assert second.status != "active"
    client.activate(name, second.version, percentage=10, reason="a tenth")
    client.activate(name, second.version, expected_version=version)
    assert [a.percentage for a in client.list_activations(name)][:2] == [100, 10]
    assert [a.version for a in client.list_artifacts(name)][-1] == second.version
    assert all(a.code for a in client.list_artifacts(name, include_code=True))
    assert client.generate(name, constraints="Be quick.").task_id == created.id

    client.archive_task(name)
    client.archive_task(name)
    with pytest.raises(TaskGone):
        client.execute(name, {"n": 1}, version=version)


async def test_life_of_a_task_with_the_asyncio_client(async_client: AsyncLoopaiClient) -> None:
    client, name = async_client, f"client-{uuid4().hex[:8]}"
    created = await client.create_task(counting(name))
    version = (await client.upload_artifact(name, CODE)).version
    assert await client.get_code(name) == (await client.get_artifact(name, version)).code == CODE
    assert [t.id async for t in client.list_tasks(name_prefix=name)] == [created.id]

    assert (await client.execute(name, {"n": 1}, version=version)).output == 2
    accepted = await client.execute_async(name, {"n": 41}, version=version)
    record = await client.wait_for_execution(accepted.execution_id)
    assert (record.output, await client.get_execution(record.id)) == (42, record)
    assert record in [r async for r in client.list_executions(name)]

    whole = await client.batch(name, items(50), version=version)
    check_results([r.output for r in whole.results])

    async def given() -> AsyncIterator[BatchItem]:
        for item in items(2500):
            yield item

    check_results([r.output async for r in client.batch_stream(name, given(), version=version)])
    check_results([r.output async for r in client.batch_stream(name, items(10), version=version)])

    assert (await client.wait_for_task(name)).status == "ready"
    assert (await client.update_task(name, accuracy_target=0.5)).accuracy_target == 0.5
    second = await client.upload_artifact(name, BETTER, activate=False)
    await client.activate(name, second.version)
    assert second.version in [a.to_version async for a in client.list_activations(name)]
    assert [a.version async for a in client.list_artifacts(name)][-1] == second.version
    assert (await client.generate(name)).task_id == created.id
    await client.archive_task(name)
    with pytest.raises(TaskGone):
        await client.execute(name, {"n": 1})


async def test_health_with_both(client: LoopaiClient, async_client: AsyncLoopaiClient) -> None:
    assert client.health().status == (await async_client.health()).status == "healthy"
    assert client.readiness().checks.keys() == (await async_client.readiness()).checks.keys() >= {"nats", "executor"}
    assert "loopai_http_requests_total" in client.metrics()
    assert "loopai_http_requests_total" in await async_client.metrics()


def test_errors_are_typed(client: LoopaiClient) -> None:
    with pytest.raises(NotFound) as nobody:
        client.execute("nobody", 1)
    assert nobody.value.code == "task_not_found"
    assert nobody.value.trace_id
    with pytest.raises(InvalidRequest) as invalid:
        client.create_task({"name": "x"})
    assert {detail.field for detail in invalid.value.details} >= {"description", "input_schema"}
    with pytest.raises(InvalidRequest) as missing:
        next(client.batch_stream("nobody", [BatchItem(1)], max_concurrency=1000))
    assert missing.value.code == "validation_error"
    with pytest.raises(NotFound):
        next(client.batch_stream("nobody", [BatchItem(1)]))


def test_streamed_batch_takes_no_more_than_a_window_ahead_of_its_results(
    client: LoopaiClient, adder: tuple[str, int]
) -> None:
    (name, version), taken = adder, 0

    def endless() -> Iterator[BatchItem]:
        nonlocal taken
        while True:
            taken += 1
            yield BatchItem({"n": taken}, id="x" * 100)

    results = client.batch_stream(name, endless(), version=version)
    for expected in range(1, 3001):
        assert next(results).line == expected
        assert (taken - expected) * 100 < MAX_WINDOW_BYTES
    results.close()  # type: ignore[attr-defined]


def test_outputs_that_are_far_larger_than_their_inputs_block_nobody(client: LoopaiClient) -> None:
    name = f"client-{uuid4().hex[:8]}"
    client.create_task(definition_body(name=name, input_schema=True, output_schema=True, examples=[]))
    version = client.upload_artifact(name, "def run(input):\n    return 'x' * 100_000\n").version
    results = client.batch_stream(name, (BatchItem(n) for n in range(500)), version=version)
    assert sum(len(result.output) for result in results) == 50_000_000


def test_slow_source_gets_each_result_before_its_next_item(client: LoopaiClient, adder: tuple[str, int]) -> None:
    (name, version), answered = adder, threading.Event()

    def slow() -> Iterator[BatchItem]:
        for n in range(3):
            answered.clear()
            threading.Event().wait(0.06)  # longer than a window stays open
            yield BatchItem({"n": n})
            assert answered.is_set()

    for _ in client.batch_stream(name, slow(), version=version):
        answered.set()


async def test_one_client_serves_many_at_once(
    client: LoopaiClient, async_client: AsyncLoopaiClient, adder: tuple[str, int]
) -> None:
    name, version = adder
    awaited = await asyncio.gather(*(async_client.execute(name, {"n": n}, version=version) for n in range(50)))
    assert [r.output for r in awaited] == list(range(1, 51))
    threads = await asyncio.gather(
        *(asyncio.to_thread(client.execute, name, {"n": n}, version=version) for n in range(20))
    )
    assert [r.output for r in threads] == list(range(1, 21))
