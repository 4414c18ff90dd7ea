"""One trace for one request, through every service that has a part in it."""

import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from tests.support.builders import definition_body
from tests.support.otlp import Span, TraceCollector
from tests.support.product import ECHO, V1, Product, eventually
from tests.support.stack import LocalStack

CALLER = "00f067aa0ba902b7"
"""The span of whoever sends the requests."""
ORDINARY = {"Prefer": "the-ordinary-lane"}
RUN = ("executor", "run")


@pytest.fixture(scope="module")
def collector() -> Iterator[TraceCollector]:
    with TraceCollector() as running:
        yield running


@pytest.fixture(scope="module")
def traced_stack(collector: TraceCollector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        environment.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
        environment.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        with LocalStack(tmp_path_factory.mktemp("traced")) as running:
            yield running


@pytest.fixture
async def traced(traced_stack: LocalStack) -> AsyncIterator[Product]:
    async with Product.connect(traced_stack) as connected:
        yield connected


def sampled() -> tuple[str, dict[str, str]]:
    """A trace id of a caller of its own, and the header that says so."""
    trace_id = secrets.token_hex(16)
    return trace_id, {"traceparent": f"00-{trace_id}-{CALLER}-01"}


def chain(spans: list[Span], last: Span) -> list[tuple[str, str]]:
    """A span with what it came from, the outermost first."""
    by_id = {span.id: span for span in spans}
    found = [last]
    while found[-1].parent_id in by_id:
        found.append(by_id[found[-1].parent_id])
    return [(span.service.removeprefix("loopai-"), span.name) for span in reversed(found)]


def only(spans: list[Span], service: str, name: str) -> Span:
    (found,) = [s for s in spans if s.service == f"loopai-{service}" and s.name == name]
    return found


def has(collector: TraceCollector, trace_id: str, *wanted: tuple[str, str]) -> bool:
    """Whether these spans (service, name) came, and all that they are parts of (a parent ends after its child)."""
    spans = collector.trace(trace_id)
    ids = {CALLER, *(span.id for span in spans)}
    came = {(span.service.removeprefix("loopai-"), span.name) for span in spans}
    return came.issuperset(wanted) and all(span.parent_id in ids for span in spans)


async def test_creating_a_task_is_one_trace_down_to_the_executors_that_hear_of_its_version(
    traced: Product, collector: TraceCollector
) -> None:
    trace_id, header = sampled()
    body = definition_body(name=f"task-{uuid4().hex[:12]}")
    response = await traced.http.post(f"{V1}/tasks", json=body, headers={"Prefer": "wait=60", **header})
    assert response.status_code == 201, response.text
    activated = ("executor", "process loopai.evt.v1.artifact.activated")
    learning = ("generator", "learning")
    await eventually(lambda: has(collector, trace_id, ("api", f"POST {V1}/tasks"), activated, learning))
    spans = collector.trace(trace_id)
    heard, learned = only(spans, *activated), only(spans, *learning)
    created = [
        ("api", f"POST {V1}/tasks"),
        ("api", "loopai.rpc.v1.tasks.create"),
        ("artifact-store", "loopai.rpc.v1.tasks.create"),
        ("artifact-store", "send loopai.evt.v1.task.created"),
        ("generator-proxy", "process loopai.evt.v1.task.created"),
        ("generator-proxy", "generation"),
    ]
    assert chain(spans, learned) == [
        *created,
        ("generator-proxy", "POST /generate"),
        ("generator", "POST /generate"),
        ("generator", "learning"),
    ]
    assert chain(spans, heard) == [
        *created,
        ("generator-proxy", "loopai.rpc.v1.artifacts.publish"),
        ("artifact-store", "loopai.rpc.v1.artifacts.publish"),
        ("artifact-store", "send loopai.evt.v1.artifact.activated"),
        ("executor", "process loopai.evt.v1.artifact.activated"),
    ]
    assert any(s.attributes.get("db.operation.name") for s in spans)
    assert {s.kind for s in spans} == {"server", "client", "producer", "consumer", "internal"}
    assert not [s for s in spans if s.failed]


@pytest.mark.parametrize("lane", [{}, ORDINARY], ids=["fast lane", "ordinary lane"])
async def test_an_execution_is_one_trace_down_to_its_run_in_the_worker(
    traced: Product, collector: TraceCollector, lane: dict[str, str]
) -> None:
    task = (await traced.program(ECHO, sampling_rate=0))["id"]
    trace_id, header = sampled()
    path = f"{V1}/tasks/{task}/execute"
    response = await traced.http.post(path, json={"input": 1}, headers={**header, **lane})
    assert response.status_code == 200, response.text
    await eventually(lambda: has(collector, trace_id, ("api", f"POST {V1}/tasks/{{task}}/execute"), RUN))
    spans = collector.trace(trace_id)
    run = only(spans, "executor", "run")
    assert chain(spans, run) == [
        ("api", f"POST {V1}/tasks/{{task}}/execute"),
        ("executor", "execute"),
        ("executor", "run"),
    ]
    server, execution = spans[0], only(spans, "executor", "execute")
    assert server.parent_id == CALLER
    assert server.attributes == {
        "http.request.method": "POST",
        "http.route": f"{V1}/tasks/{{task}}/execute",
        "http.response.status_code": 200,
        "url.scheme": "http",
        "url.path": path,
    }
    assert execution.attributes["loopai.task_id"] == task
    assert (execution.kind, execution.attributes["loopai.outcome"]) == ("server", "success")
    assert server.start_ns <= execution.start_ns <= run.start_ns <= run.end_ns <= execution.end_ns <= server.end_ns
    assert round(run.end_ns - run.start_ns, -3) == round(response.json()["latency_ms"] * 1e6, -3)


async def test_an_execution_over_nats_belongs_to_the_trace_of_its_caller(
    traced: Product, collector: TraceCollector
) -> None:
    task = (await traced.program(ECHO))["id"]
    trace_id, header = sampled()
    reply = await traced.nats.request(f"loopai.rpc.v1.execute.{task}.active", b'{"input": 1}', 20, headers=header)
    assert b'"success"' in reply.data
    await eventually(lambda: has(collector, trace_id, ("executor", "loopai.rpc.v1.execute"), RUN))
    spans = collector.trace(trace_id)
    assert chain(spans, only(spans, "executor", "run")) == [
        ("executor", "loopai.rpc.v1.execute"),
        ("executor", "execute"),
        ("executor", "run"),
    ]
    assert spans[0].attributes == {"rpc.system.name": "nats", "rpc.method": "loopai.rpc.v1.execute"}


async def test_an_asynchronous_execution_keeps_the_trace_of_who_asked_for_it(
    traced: Product, collector: TraceCollector
) -> None:
    task = (await traced.program(ECHO))["id"]
    trace_id, header = sampled()
    asked = {"Prefer": "respond-async", **header}
    response = await traced.http.post(f"{V1}/tasks/{task}/execute", json={"input": 1}, headers=asked)
    assert response.status_code == 202
    last = ("artifact-store", "process loopai.evt.v1.execution.completed")
    await eventually(lambda: has(collector, trace_id, ("api", f"POST {V1}/tasks/{{task}}/execute"), RUN, last))
    spans = collector.trace(trace_id)
    assert chain(spans, only(spans, *last)) == [
        ("api", f"POST {V1}/tasks/{{task}}/execute"),
        ("api", "send loopai.cmd.v1.execute"),
        ("executor", "process loopai.cmd.v1.execute"),
        ("executor", "send loopai.evt.v1.execution.completed"),
        last,
    ]


async def test_of_a_batch_the_first_item_is_traced(traced: Product, collector: TraceCollector) -> None:
    task = (await traced.program(ECHO))["id"]
    trace_id, header = sampled()
    items = [{"id": str(i), "input": i} for i in range(20)]
    path = f"{V1}/tasks/{task}/execute/batch"
    response = await traced.http.post(path, json={"items": items}, headers=header)
    assert response.status_code == 200, response.text
    await eventually(lambda: has(collector, trace_id, ("api", f"POST {V1}/tasks/{{task}}/execute/batch"), RUN))
    assert [s.name for s in collector.trace(trace_id)].count("execute") == 1


async def test_what_nobody_samples_leaves_no_span(traced: Product, collector: TraceCollector) -> None:
    task = (await traced.program(ECHO, sampling_rate=0))["id"]
    unsampled = secrets.token_hex(16)
    headers = {"traceparent": f"00-{unsampled}-{secrets.token_hex(8)}-00"}
    for lane in ({}, ORDINARY):
        assert (
            await traced.http.post(f"{V1}/tasks/{task}/execute", json={"input": 1}, headers={**headers, **lane})
        ).status_code == 200
        await traced.output(task, 1)
    trace_id, header = sampled()
    await traced.http.post(f"{V1}/tasks/{task}/execute", json={"input": 1}, headers=header)
    await eventually(lambda: has(collector, trace_id, RUN))
    about_this_task = [s for s in collector.spans if s.attributes.get("loopai.task_id") == task]
    assert {s.trace_id for s in about_this_task} == {trace_id}
    assert not collector.trace(unsampled)


async def test_failures_are_marked_with_their_code_alone(traced: Product, collector: TraceCollector) -> None:
    trace_id, header = sampled()
    response = await traced.http.get(f"{V1}/tasks/nobody-knows-it", headers=header)
    assert response.status_code == 404
    request, question = ("api", f"GET {V1}/tasks/{{task}}"), ("artifact-store", "loopai.rpc.v1.tasks.get")
    await eventually(lambda: has(collector, trace_id, request, question))
    spans = collector.trace(trace_id)
    asked = only(spans, *question)
    assert (asked.failed, asked.attributes["error.type"]) == (True, "task_not_found")
    assert not only(spans, *request).failed


async def test_log_lines_name_the_trace(traced: Product, traced_stack: LocalStack) -> None:
    trace_id, header = sampled()
    body = definition_body(name=f"task-{uuid4().hex[:12]}")
    response = await traced.http.post(f"{V1}/tasks", json=body, headers={"Prefer": "wait=60", **header})
    assert response.status_code == 201
    log = traced_stack.logs / "generator-proxy.log"
    await eventually(lambda: f'"trace_id": "{trace_id}"' in log.read_text())
    (line,) = [line for line in log.read_text().splitlines() if trace_id in line and "generation_ended" in line]
    assert response.headers["x-correlation-id"] in line
    assert '"span_id"' in line


async def test_no_input_output_code_or_key_is_in_a_span(traced: Product, collector: TraceCollector) -> None:
    canary = f"canary{secrets.token_hex(8)}"
    code = f"def run(input):\n    if input == 'raise':\n        raise ValueError('{canary}')\n    return '{canary}'\n"
    task = (await traced.program(code, sampling_rate=1))["id"]
    trace_ids = []
    for value in (canary, "raise"):
        for lane in ({}, ORDINARY, {"Prefer": "respond-async"}):
            trace_id, header = sampled()
            headers = {**header, **lane, "X-API-Key": canary}
            url = f"{V1}/tasks/{task}/execute?key={canary}"
            await traced.http.post(url, json={"input": value, canary: canary}, headers=headers)
            await traced.http.post(f"{V1}/tasks/{task}/execute", json={"input": value}, headers=headers)
            trace_ids.append(trace_id)
    trace_id, header = sampled()
    await traced.http.get(f"/{canary}", headers=header)
    artifact = {"code": code, "entry_point": "run"}
    published = await traced.http.post(f"{V1}/tasks/{task}/artifacts", json=artifact, headers=header)
    assert published.status_code in {201, 422}, published.text
    await eventually(lambda: all(has(collector, each, RUN) for each in trace_ids))
    await eventually(lambda: has(collector, trace_id, ("executor", "loopai.rpc.v1.programs.check")))
    assert canary.encode() not in collector.raw


async def test_a_collector_that_is_away_delays_nothing_and_is_logged_once(tmp_path: Path) -> None:
    with TraceCollector() as gone:
        address = gone.url
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        environment.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_on")
        environment.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        environment.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
        with LocalStack(tmp_path / "stack") as stack:
            async with Product.connect(stack) as product:
                task = (await product.program(ECHO, sampling_rate=0))["id"]

                async def failed(url: str) -> bool:
                    text = (await product.http.get(f"{url}/metrics")).text
                    (line,) = [x for x in text.splitlines() if 'loopai_trace_spans_total{outcome="failed"}' in x]
                    return float(line.split()[1]) > 100

                async def more() -> bool:
                    for _ in range(50):
                        await product.output(task, 1)
                    return await failed(stack.base_url)

                await eventually(more)
            assert stack.terminate("api", grace_seconds=10), "the api did not stop by itself"
            lines = (stack.logs / "api.log").read_text().splitlines()
    assert len([line for line in lines if "traces_not_exported" in line]) == 1
    assert not [line for line in lines if "opentelemetry" in line or "Traceback" in line]


def test_importing_services_does_not_import_the_exporter() -> None:
    probe = "import sys, loopai_api.main, loopai_executor.main; print('opentelemetry.sdk' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True).stdout.strip() == "False"


async def test_a_caller_that_is_sampled_is_answered_alike_where_nothing_is_traced(product: Product) -> None:
    task = (await product.program(ECHO))["id"]
    _, header = sampled()
    response: httpx.Response = await product.http.post(
        f"{V1}/tasks/{task}/execute", json={"input": [1]}, headers=header
    )
    assert (response.status_code, response.json()["output"]) == (200, [1])
