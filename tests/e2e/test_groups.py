"""Tasks with ``isolation: group`` over the whole path: their programs share a worker, and nothing else."""

import asyncio
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.support.product import V1, Product, eventually
from tests.support.stack import LocalStack

SPARE_WORKERS = 2


def numbered(number: int) -> str:
    return f"n = {number}\ndef run(x):\n    global n\n    n += 1\n    return [{number}, n - {number}, x]\n"


async def gauges(stack: LocalStack) -> dict[str, float]:
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"{stack.operations_urls['executor']}/metrics")).text
    return {s.name: s.value for family in text_string_to_metric_families(text) for s in family.samples if not s.labels}


async def test_programs_of_a_group_share_a_worker_and_keep_their_outcomes_apart(
    own_stack: LocalStack, own_product: Product
) -> None:
    product = own_product
    tasks = await asyncio.gather(*(product.program(numbered(n), isolation="group", sampling_rate=0) for n in range(6)))
    for _ in range(3):
        answers = await asyncio.gather(*(product.output(tasks[i % 6]["id"], i) for i in range(60)))
        assert answers == [[i % 6, 1, i] for i in range(60)]

    await eventually(lambda: _workers_are(own_stack, 1))
    assert (await gauges(own_stack))["loopai_warm_programs"] >= 6

    body = {"items": [{"id": str(n), "input": n} for n in range(100)]}
    batch = await product.http.post(f"{V1}/tasks/{tasks[3]['id']}/execute/batch", json=body)
    assert [result["output"] for result in batch.json()["results"]] == [[3, 1, n] for n in range(100)]

    await _a_candidate_takes_its_share(product, tasks[0])
    await _a_member_that_dies_fails_alone(product, tasks)
    await eventually(lambda: _workers_are(own_stack, 1))
    await _a_task_leaves_the_group(own_stack, product, tasks[2])


async def _workers_are(stack: LocalStack, count: int) -> bool:
    """Whether so many workers have programs."""
    return (await gauges(stack))["loopai_sandbox_workers"] == SPARE_WORKERS + count


async def _a_candidate_takes_its_share(product: Product, task: dict[str, Any]) -> None:
    published = await product.publish(task["id"], numbered(70), activate=False)
    path = f"{V1}/tasks/{task['id']}/artifacts/{published['version']}/activate"
    response = await product.http.post(path, json={"percentage": 50})
    assert response.status_code == 200, response.text

    async def both_run() -> bool:
        outputs = await asyncio.gather(*(product.output(task["id"], n) for n in range(40)))
        assert {output[1] for output in outputs} == {1}
        return {output[0] for output in outputs} == {0, 70}

    await eventually(both_run)


async def _a_member_that_dies_fails_alone(product: Product, tasks: list[dict[str, Any]]) -> None:
    code = "import os\ndef run(x):\n    if x == 'die':\n        os._exit(1)\n    return x\n"
    killer = await product.program(code, isolation="group", sampling_rate=0)
    assert await product.output(killer["id"], 1) == 1
    died, *others = await asyncio.gather(
        product.execute(killer["id"], "die"), *(product.output(task["id"], 1) for task in tasks[1:])
    )
    assert (died.json()["status"], died.json()["error_code"]) == ("error", "crashed")
    assert others == [[number, 1, 1] for number in range(1, 6)]


async def _a_task_leaves_the_group(stack: LocalStack, product: Product, task: dict[str, Any]) -> None:
    response = await product.http.patch(f"{V1}/tasks/{task['id']}", json={"isolation": "call"})
    assert (response.status_code, response.json()["isolation"]) == (200, "call")

    async def alone() -> bool:
        assert await product.output(task["id"], 5) == [2, 1, 5]
        return await _workers_are(stack, 2)

    await eventually(alone)
