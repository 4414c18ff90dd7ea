"""What running services show is what the page of metrics promises, no more and no less."""

import httpx
from prometheus_client.parser import text_string_to_metric_families

from loopai_common.runtime.settings import PREFIXES
from tests.support.metrics import MetricInfo, every_metric, of_each_service, of_every_service, of_the_bus
from tests.support.product import ECHO, V1, Product, eventually
from tests.support.stack import LocalStack

FROM_THE_CLIENT = ("process_", "python_")


def shown(text: str) -> dict[str, list[dict[str, str]]]:
    """The labels of each series of ours, by the metric."""
    found: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(text):
        if not family.name.startswith(FROM_THE_CLIENT) and not family.name.endswith("_created"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            found[name] = [s.labels for s in family.samples if not s.name.endswith("_created")]
    return found


def wrong(metric: MetricInfo, labels: dict[str, str]) -> list[str]:
    """What a series has that the page does not say."""
    own = {name: value for name, value in labels.items() if name != "le"}
    if set(own) != set(metric.labels):
        return [f"{metric.name}: {own}"]
    allowed = {name: metric.values(name) for name in own}
    return [
        f"{metric.name}: {name}={value}"
        for name, value in own.items()
        if not isinstance(allowed[name], str) and value not in allowed[name]
    ]


async def test_every_service_shows_the_metrics_on_its_page_with_labels_from_their_sets(
    stack: LocalStack, product: Product
) -> None:
    task = (await product.program(ECHO, sampling_rate=1))["id"]
    await product.output(task, 1)
    await product.http.get(f"{V1}/tasks/nobody-knows-it")
    await product.http.post(f"{V1}/tasks/{task}/execute/batch", json={"items": [{"input": 1}]})
    metrics, promised = every_metric(), of_each_service()
    assert set(stack.operations_urls) == set(PREFIXES)
    for service, url in stack.operations_urls.items():
        async with httpx.AsyncClient() as client:
            found = shown((await client.get(f"{url}/metrics")).text)
        assert [problem for name, series in found.items() for s in series for problem in wrong(metrics[name], s)] == []
        expected = {metric.name for metric in (*of_every_service(), *promised[service])}
        expected |= set() if service == "generator" else {metric.name for metric in of_the_bus()}
        # A group of the machine's control groups and Redis are not there everywhere.
        absent = expected - set(found) - {"loopai_sandbox_memory_bytes", "loopai_cache_breaker_open"}
        assert (service, absent, set(found) - expected) == (service, set(), set())


async def test_the_lag_of_each_durable_consumer_is_shown(stack: LocalStack) -> None:
    async def consumers() -> bool:
        async with httpx.AsyncClient() as client:
            texts = [(await client.get(f"{url}/metrics")).text for url in stack.operations_urls.values()]
        pending = [s["consumer"] for text in texts for s in shown(text).get("loopai_bus_consumer_pending_messages", [])]
        return {"executor-execute", "artifact-store-task-create", "generator-proxy-created"} <= set(pending)

    await eventually(consumers)


async def test_the_busiest_tasks_are_counted_by_outcome(stack: LocalStack, product: Product) -> None:
    task = (await product.program("def run(input):\n    return 1 / input\n", sampling_rate=0))["id"]
    for value in [1] * 50 + [0] * 5:
        assert (await product.execute(task, value)).status_code == 200
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"{stack.operations_urls['executor']}/metrics")).text
    counts = {
        sample.labels["outcome"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "loopai_task_executions_total" and sample.labels["task_id"] == task
    }
    assert counts["failure"] >= 5
    assert counts["success"] >= 50
