"""From a description to answers, over HTTP."""

import ast
import asyncio
import hashlib
import json
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.support.builders import definition_body
from tests.support.product import V1, Product

pytestmark = pytest.mark.both_lanes

TASK_KEYS = {
    "id", "name", "description", "input_schema", "output_schema", "examples", "total_examples", "accuracy_target",
    "latency_target_ms", "sampling_rate", "isolation", "comparison",
    "comparison_threshold", "status", "status_reason", "active_version", "rollout",
    "total_versions", "revision", "created_at", "updated_at",
}  # fmt: skip
EXECUTION_KEYS = {
    "execution_id", "task_id", "program_id", "version", "status", "output", "error_code", "error_message",
    "latency_ms", "sampled_for_validation", "executed_at", "correlation_id",
}  # fmt: skip
ARTIFACT_KEYS = {
    "id", "task_id", "version", "language", "entry_point", "code", "digest", "size_bytes", "synthesis_strategy",
    "confidence_score", "complexity_metrics", "llm_provider", "llm_model", "generation_cost", "generation_time_sec",
    "validation", "status", "deployment_percentage", "created_at", "deployed_at", "parent_version",
    "specification_digest", "fallback",
}  # fmt: skip


def messages(count: int) -> list[dict[str, Any]]:
    spam = ["free entry claim your prize", "win cash now text back", "urgent you have won a prize call"]
    ham = ["see you at lunch", "are you coming home", "ok talk to you later"]
    return [
        {"input": {"text": f"{(spam if i % 2 else ham)[i % 3]} {i}"}, "output": "spam" if i % 2 else "ham"}
        for i in range(count)
    ]


async def test_a_description_with_examples_becomes_a_program_that_answers(product: Product) -> None:
    task = await product.create(examples=messages(60))
    assert task.keys() == TASK_KEYS
    assert (task["status"], task["active_version"], task["total_versions"]) == ("ready", 1, 1)
    answer = await product.execute(task["name"], {"text": "you have won a prize, claim it now"})
    assert answer.status_code == 200
    assert answer.json().keys() == EXECUTION_KEYS
    assert answer.json()["output"] == "spam"
    assert answer.json()["task_id"] == task["id"]
    assert await product.output(task["id"], {"text": "talk to you at lunch"}) == "ham"


async def test_the_program_and_how_it_did_can_be_read(product: Product) -> None:
    task = await product.create(examples=messages(60))
    listed = (await product.http.get(f"{V1}/tasks/{task['name']}/artifacts")).json()
    assert [a["version"] for a in listed["items"]] == [1]
    assert listed["items"][0]["code"] is None
    response = await product.http.get(f"{V1}/tasks/{task['id']}/artifacts/active")
    artifact = response.json()
    assert artifact.keys() == ARTIFACT_KEYS
    assert artifact["status"] == "active"
    assert artifact["digest"] == "sha256:" + hashlib.sha256(artifact["code"].encode()).hexdigest()
    assert artifact["validation"]["total"] == 60
    assert artifact["validation"]["held_back"]["total"] > 0
    assert artifact["confidence_score"] == artifact["validation"]["held_back"]["accuracy"]
    code = await product.http.get(f"{V1}/tasks/{task['id']}/artifacts/1/code")
    assert code.headers["content-type"].startswith("text/x-python")
    assert code.text == artifact["code"]
    ast.parse(code.text)
    unchanged = await product.http.get(
        f"{V1}/tasks/{task['id']}/artifacts/1", headers={"If-None-Match": response.headers["etag"]}
    )
    assert (unchanged.status_code, unchanged.content) == (304, b"")


async def test_without_examples_a_program_of_low_confidence_is_made_and_says_so(product: Product) -> None:
    task = await product.create(
        examples=[], description="Decide whether a message is spam (prize, claim, free) or ham."
    )
    assert task["status"] == "ready"
    artifact = (await product.http.get(f"{V1}/tasks/{task['id']}/artifacts/1")).json()
    assert artifact["confidence_score"] < 0.6
    assert await product.output(task["id"], {"text": "claim your free prize"}) in {"spam", "ham"}


async def test_a_task_that_cannot_be_made_fails_with_the_reason(product: Product) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "array"}}, "required": ["a", "b"]}
    task = await product.create(output_schema=schema, examples=[])
    assert task["status"] == "failed"
    assert task["status_reason"]
    answer = await product.execute(task["id"], {"text": "x"})
    assert (answer.status_code, answer.json()["code"]) == (409, "task_not_ready")


async def test_below_the_accuracy_target_the_version_stays_a_draft_and_the_task_fails(product: Product) -> None:
    examples = [
        {"input": {"text": f"{uuid4().hex}"}, "output": "spam" if i % 2 else "ham"} for i in range(40)
    ]  # nothing to learn
    task = await product.create(examples=examples, accuracy_target=1.0)
    assert (task["status"], task["active_version"], task["total_versions"]) == ("failed", None, 1)
    assert "accuracy" in task["status_reason"]
    artifact = (await product.http.get(f"{V1}/tasks/{task['id']}/artifacts/1")).json()
    assert artifact["status"] == "draft"
    assert artifact["validation"]["failures"]


async def test_creating_answers_at_once_without_a_preference(http: httpx.AsyncClient) -> None:
    response = await http.post(f"{V1}/tasks", json=definition_body(name=f"now-{uuid4().hex[:8]}"))
    task = response.json()
    assert response.status_code == 201
    assert task["status"] == "generating"
    assert response.headers["location"] == f"{V1}/tasks/{task['id']}"
    assert (await http.get(response.headers["location"])).json()["id"] == task["id"]


async def test_a_name_is_taken_once(product: Product) -> None:
    task = await product.create()
    response = await product.http.post(f"{V1}/tasks", json=definition_body(name=task["name"]))
    assert (response.status_code, response.json()["code"]) == (409, "task_already_exists")


async def test_fifty_retries_with_one_key_make_one_task(http: httpx.AsyncClient) -> None:
    body, headers = definition_body(name=f"idem-{uuid4().hex[:8]}"), {"Idempotency-Key": uuid4().hex}
    responses = await asyncio.gather(*(http.post(f"{V1}/tasks", json=body, headers=headers) for _ in range(50)))
    assert {r.status_code for r in responses} == {201}
    assert len({r.json()["id"] for r in responses}) == 1
    other = await http.post(f"{V1}/tasks", json={**body, "description": "another"}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


@pytest.mark.one_lane
async def test_lists_page_through_everything_once(product: Product) -> None:
    prefix = f"page-{uuid4().hex[:6]}"
    created = [(await product.create(name=f"{prefix}-{i}"))["id"] for i in range(5)]
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = (
            await product.http.get(
                f"{V1}/tasks", params={"limit": 2, "name_prefix": prefix, "status": "ready", **cursor}
            )
        ).json()
        assert "examples" not in page["items"][0]
        seen += [t["id"] for t in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert seen == created


async def test_a_newer_version_takes_over_and_older_ones_can_still_be_named(product: Product) -> None:
    task = await product.program("def run(input):\n    return 'first'\n")
    first = (await product.http.get(f"{V1}/tasks/{task['id']}/artifacts/active")).json()["version"]
    second = (await product.publish(task["id"], "def run(input):\n    return 'second'\n"))["version"]
    assert second == first + 1
    assert await product.output(task["id"], 1) == "second"
    assert await product.output(task["id"], 1, version=first) == "first"
    old = (await product.http.get(f"{V1}/tasks/{task['id']}/artifacts/{first}")).json()
    assert old["status"] == "deprecated"


@pytest.mark.parametrize("entry_point", ["run", "main", "classify"])
async def test_programs_of_other_generators_run_unchanged(product: Product, entry_point: str) -> None:
    task = await product.create(input_schema=True, output_schema=True, examples=[])
    body = {"task_id": task["id"], "generation_id": str(uuid4()), "entry_point": entry_point}
    code = f"def {entry_point}(x):\n    return x\n"
    reply = await product.request("loopai.rpc.v1.artifacts.publish", json.dumps({**body, "code": code}).encode())
    await product.until_active(task["id"], json.loads(reply.data)["version"])
    expected = "hello" if entry_point == "classify" else {"text": "hello"}
    assert await product.output(task["id"], {"text": "hello"}) == expected


async def test_the_correlation_id_of_the_caller_is_everywhere(product: Product) -> None:
    task = await product.program("def run(input):\n    return 1\n")
    cid = f"order-{uuid4().hex[:8]}"
    response = await product.http.post(
        f"{V1}/tasks/{task['id']}/execute", json={"input": 1}, headers={"X-Correlation-ID": cid}
    )
    assert response.headers["x-correlation-id"] == cid
    assert response.json()["correlation_id"] == cid
    missing = await product.http.get(f"{V1}/tasks/nobody", headers={"X-Correlation-ID": cid})
    assert missing.json()["trace_id"] == cid
