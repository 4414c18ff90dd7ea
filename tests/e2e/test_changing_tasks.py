"""Changing, improving and archiving tasks; handing programs in and deciding which one runs; over HTTP."""

import asyncio
import json
from collections import Counter
from typing import Any
from uuid import uuid4

import httpx
import pytest
from nats.aio.msg import Msg

from loopai_common.contracts import subjects
from tests.e2e.test_bad_requests import is_error
from tests.e2e.test_life_of_a_task import ARTIFACT_KEYS, TASK_KEYS, messages
from tests.support.builders import definition_body
from tests.support.product import ECHO, V1, V2, Product, eventually

HAM = "def run(input):\n    return 'ham'\n"
GOOD = "def run(input):\n    return 'spam' if int(input['text'].split()[-1]) % 2 else 'ham'\n"
SOURCE = {"Content-Type": "text/x-python"}


async def ready(product: Product, *codes: str, **changes: Any) -> dict[str, Any]:
    """A task that takes and gives anything, with these versions; the last is active."""
    task = await product.create(**{"input_schema": True, "output_schema": True, "examples": [], **changes})
    for code in codes:
        await product.publish(task["id"], code)
    shown: dict[str, Any] = (await product.http.get(f"{V1}/tasks/{task['id']}")).json()
    return shown


def path(task: dict[str, Any], *steps: object) -> str:
    return "/".join((f"{V1}/tasks/{task['id']}", *map(str, steps)))


class TestEntityTags:
    async def test_a_task_is_sent_again_only_when_it_changed(self, product: Product) -> None:
        created = await product.http.post(f"{V1}/tasks", json=definition_body(name=f"etag-{uuid4().hex[:8]}"))
        task = created.json()
        assert created.headers["etag"] == f'"{task["revision"]}"'
        await eventually(lambda: _is(product, task, "ready"))
        shown = await product.http.get(path(task))
        assert shown.headers["etag"] != created.headers["etag"]
        known = {"If-None-Match": shown.headers["etag"]}
        unchanged = await product.http.get(path(task), headers=known)
        assert (unchanged.status_code, unchanged.content) == (304, b"")
        assert unchanged.headers["etag"] == shown.headers["etag"]
        await product.http.patch(path(task), json={"sampling_rate": 0.5})
        assert (await product.http.get(path(task), headers=known)).status_code == 200

    async def test_a_change_on_what_was_changed_since_is_refused_and_of_many_at_once_one_wins(
        self, product: Product
    ) -> None:
        task = await ready(product)
        tag = (await product.http.get(path(task))).headers["etag"]
        first = await product.http.patch(path(task), json={"description": "first"}, headers={"If-Match": tag})
        assert first.status_code == 200
        for stale in (tag, f"W/{first.headers['etag']}", "nonsense"):
            second = await product.http.patch(path(task), json={"description": "x"}, headers={"If-Match": stale})
            is_error(second, 412, "precondition_failed")
        for fitting in (f"{tag}, {first.headers['etag']}", "*"):
            third = await product.http.patch(path(task), json={"description": fitting}, headers={"If-Match": fitting})
            assert (third.status_code, third.json()["description"]) == (200, fitting)
        headers = {"If-Match": third.headers["etag"]}
        answers = await asyncio.gather(
            *(product.http.patch(path(task), json={"description": f"d{n}"}, headers=headers) for n in range(10))
        )
        assert Counter(answer.status_code for answer in answers) == {200: 1, 412: 9}


class TestChanging:
    async def test_what_is_named_changes_and_examples_are_added(self, product: Product) -> None:
        task = await product.create()
        more = {"input": {"text": "see you"}, "output": "ham"}
        change = {"accuracy_target": 0.5, "latency_target_ms": 20, "isolation": "process", "examples": [more]}
        response = await product.http.patch(f"{V1}/tasks/{task['name']}", json=change)
        changed = response.json()
        assert response.status_code == 200, response.text
        assert changed.keys() == TASK_KEYS
        assert changed["examples"] == [*task["examples"], more]
        assert [changed[k] for k in ("accuracy_target", "latency_target_ms", "isolation")] == [0.5, 20, "process"]
        assert (await product.http.get(path(task))).json() == changed

    async def test_each_rule_of_a_change_broken_alone(self, product: Product) -> None:
        task = await product.create()
        broken: list[tuple[dict[str, Any], str]] = [
            ({}, ""),
            ({"name": "another"}, "name"),
            ({"description": None}, "description"),
            ({"description": " "}, "description"),
            ({"accuracy_target": 1.5}, "accuracy_target"),
            ({"accuracy_target": "0.5"}, "accuracy_target"),
            ({"isolation": "thread"}, "isolation"),
            ({"comparison": "about"}, "comparison"),
            ({"comparison_threshold": 1.1}, "comparison_threshold"),
            ({"input_schema": {}}, "input_schema"),
            ({"examples": [{"input": {"text": 1}, "output": "ham"}]}, "examples/0/input/text"),
            ({"examples": [{"input": {"text": "a"}, "output": "neither"}]}, "examples/0/output"),
        ]
        for change, field in broken:
            body = is_error(await product.http.patch(path(task), json=change), 400, "validation_error")
            assert [detail["field"] for detail in body["details"]] == [field], change
        assert (await product.http.get(path(task))).json() == task

    async def test_a_task_that_is_not_there(self, http: httpx.AsyncClient) -> None:
        is_error(await http.patch(f"{V1}/tasks/nobody", json={"sampling_rate": 1.0}), 404, "task_not_found")
        is_error(await http.delete(f"{V1}/tasks/nobody"), 404, "task_not_found")
        is_error(await http.post(f"{V1}/tasks/nobody/generate"), 404, "task_not_found")
        is_error(await http.post(f"{V1}/tasks/nobody/artifacts", json={"code": HAM}), 404, "task_not_found")
        is_error(await http.post(f"{V1}/tasks/nobody/artifacts/1/activate"), 404, "task_not_found")
        is_error(await http.get(f"{V1}/tasks/nobody/activations"), 404, "task_not_found")


class TestArchiving:
    async def test_an_archived_task_runs_no_more_and_can_still_be_read(self, product: Product) -> None:
        task = await ready(product, ECHO)
        assert await product.output(task["id"], 1) == 1
        assert await product.output(task["name"], 1, version=1) == 1
        for _ in range(2):
            archived = await product.http.delete(path(task))
            assert (archived.status_code, archived.content) == (204, b"")

        async def refused() -> bool:
            answers = [await product.execute(task["id"], 1), await product.execute(task["name"], 1, version=1)]
            return [answer.status_code for answer in answers] == [410, 410]

        async with asyncio.timeout(2.0):  # by the event, well before an executor would ask again
            while not await refused():
                await asyncio.sleep(0.01)
        is_error(await product.execute(task["id"], 1), 410, "task_archived")
        shown = (await product.http.get(path(task))).json()
        assert (shown["status"], shown["active_version"]) == ("archived", task["active_version"])
        listed = await product.http.get(f"{V1}/tasks", params={"status": "archived", "name_prefix": task["name"]})
        assert [item["id"] for item in listed.json()["items"]] == [task["id"]]
        assert (await product.http.get(path(task, "artifacts", "active", "code"))).text == ECHO

    async def test_nothing_more_is_done_to_it_and_its_name_stays_taken(self, product: Product) -> None:
        task = await ready(product, ECHO)
        await product.http.delete(path(task))
        http = product.http
        is_error(await http.patch(path(task), json={"sampling_rate": 1.0}), 410, "task_archived")
        is_error(await http.post(path(task, "generate")), 410, "task_archived")
        is_error(await http.post(path(task, "artifacts"), json={"code": ECHO}), 410, "task_archived")
        is_error(await http.post(path(task, "artifacts", 1, "activate")), 410, "task_archived")
        again = await http.post(f"{V1}/tasks", json=definition_body(name=task["name"]))
        is_error(again, 409, "task_already_exists")


class TestActivating:
    async def test_back_and_forward_again(self, product: Product) -> None:
        task = await ready(product, "def run(x):\n    return 1\n", "def run(x):\n    return 2\n")
        assert await product.output(task["id"], 0) == 2
        response = await product.http.post(
            path(task, "artifacts", 1, "activate"), json={"reason": "2 is wrong", "expected_version": 2}
        )
        artifact = response.json()
        assert response.status_code == 200, response.text
        assert artifact.keys() == ARTIFACT_KEYS
        assert (artifact["version"], artifact["status"], artifact["deployment_percentage"]) == (1, "active", 100.0)
        await product.until_active(task["id"], 1)
        assert await product.output(task["id"], 0) == 1
        assert (await product.http.post(path(task, "artifacts", 2, "activate"))).status_code == 200
        await product.until_active(task["id"], 2)
        history = (await product.http.get(path(task, "activations"))).json()
        assert [(a["from_version"], a["to_version"], a["actor"], a["reason"]) for a in history["items"]][:2] == [
            (1, 2, "api", ""),
            (2, 1, "api", "2 is wrong"),
        ]
        page = (await product.http.get(path(task, "activations"), params={"limit": 1})).json()
        assert page["items"] == history["items"][:1]
        rest = await product.http.get(path(task, "activations"), params={"cursor": page["next_cursor"]})
        assert rest.json()["items"] == history["items"][1:]

    async def test_a_share_of_the_executions_and_its_end(self, product: Product) -> None:
        task = await ready(product, HAM, ECHO)
        assert (await product.http.post(path(task, "artifacts", 1, "activate"), json={"percentage": 25})).is_success
        assert (await product.http.get(path(task))).json()["rollout"] == {"version": 1, "percentage": 25.0}
        artifacts = (await product.http.get(path(task, "artifacts"))).json()["items"]
        assert [(a["version"], a["deployment_percentage"]) for a in artifacts] == [(1, 25.0), (2, 75.0)]
        assert (await product.http.post(path(task, "artifacts", 1, "activate"), json={"percentage": 0})).is_success
        assert (await product.http.get(path(task))).json()["rollout"] is None

    async def test_what_cannot_be_activated_is_a_typed_error(self, product: Product) -> None:
        task = await ready(product, ECHO)

        async def activate(version: object, **body: Any) -> httpx.Response:
            return await product.http.post(path(task, "artifacts", version, "activate"), json=body)

        is_error(await activate(99), 404, "artifact_not_found")
        for version in ("active", "0", "x"):
            is_error(await activate(version), 404, "artifact_not_found")
        is_error(await activate(1, expected_version=7), 409, "version_conflict")
        is_error(await activate(1, expected_version=None), 409, "version_conflict")
        is_error(await activate(1, percentage=10), 409, "activation_refused")
        for bad in ({"percentage": 101}, {"percentage": -1}, {"percentage": "5"}, {"percentage": True}, {"share": 5}):
            body = is_error(await activate(1, **bad), 400, "validation_error")
            assert [detail["field"] for detail in body["details"]] == list(bad)
        assert (await product.http.get(path(task))).json()["active_version"] == 1

    async def test_without_an_active_version_nothing_can_have_the_rest(self, product: Product) -> None:
        schema = {"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a", "b"]}
        task = await product.create(output_schema=schema, examples=[])
        assert task["status"] == "failed"
        await product.publish(task["id"], ECHO, activate=False)
        share = await product.http.post(path(task, "artifacts", 1, "activate"), json={"percentage": 10})
        assert "percentage 100" in is_error(share, 409, "task_not_ready")["message"]
        assert (await product.http.post(path(task, "artifacts", 1, "activate"))).json()["status"] == "active"
        assert await _is(product, task, "ready")


class TestHandingIn:
    async def test_a_program_that_passes_is_the_next_version_and_runs(self, product: Product) -> None:
        task = await product.create(examples=messages(20))
        response = await product.http.post(path(task, "artifacts"), json={"code": GOOD, "synthesis_strategy": "rule"})
        artifact = response.json()
        assert response.status_code == 201, response.text
        assert artifact.keys() == ARTIFACT_KEYS
        assert response.headers["location"] == path(task, "artifacts", 2)
        assert (artifact["version"], artifact["status"], artifact["synthesis_strategy"]) == (2, "active", "rule")
        assert (artifact["validation"]["accuracy"], artifact["validation"]["total"]) == (1.0, 20)
        assert artifact["confidence_score"] == artifact["validation"]["held_back"]["accuracy"] == 1.0
        assert artifact["complexity_metrics"]["cyclomatic_complexity"] >= 1
        assert (await product.http.get(f"{response.headers['location']}/code")).text == GOOD
        await product.until_active(task["id"], 2)
        assert await product.output(task["id"], {"text": "x 7"}) == "spam"

    async def test_the_source_itself_may_be_the_body(self, product: Product) -> None:
        task = await ready(product, ECHO)
        code = "def classify(text):\n    return text.upper() + 'ü'\n"
        query = {"entry_point": "classify", "activate": "false"}
        response = await product.http.post(path(task, "artifacts"), content=code.encode(), headers=SOURCE, params=query)
        artifact = response.json()
        assert response.status_code == 201, response.text
        assert (artifact["entry_point"], artifact["status"], artifact["version"]) == ("classify", "draft", 2)
        assert (await product.http.get(path(task))).json()["active_version"] == 1
        assert await product.output(task["id"], {"text": "a"}, version=2) == "Aü"

    async def test_a_program_that_does_not_load_is_rejected_with_the_reason(self, product: Product) -> None:
        task = await product.create()
        for code, problem in (
            ("def run(:", "SyntaxError: invalid syntax (line 1)"),
            ("def other(x): ...", "the program defines no function 'run'"),
            ("import subprocess\ndef run(x): ...", "the module 'subprocess' is not available to programs"),
            ("def run(x):\n    “", "SyntaxError: invalid character '“' (U+201C) (line 2)"),
        ):
            response = await product.http.post(path(task, "artifacts"), json={"code": code})
            body = is_error(response, 400, "program_rejected")
            assert problem in body["message"]
            assert [(d["field"], d["code"]) for d in body["details"]] == [("code", "load_failed")]

    async def test_a_program_below_the_target_is_rejected_with_what_it_got_wrong(self, product: Product) -> None:
        task = await product.create(examples=messages(6))
        body = is_error(await product.http.post(path(task, "artifacts"), json={"code": HAM}), 400, "program_rejected")
        assert "right on 3/6 (50.0%) of the examples and the target is 90.0%" in body["message"]
        assert body["details"] == [
            {"field": f"examples/{n}", "message": 'must give "spam", gave "ham"', "code": "wrong_output"}
            for n in (1, 3, 5)
        ]
        lazy = "def run(input):\n    import socket\n"
        body = is_error(await product.http.post(path(task, "artifacts"), json={"code": lazy}), 400, "program_rejected")
        assert "the module 'socket' is not available to programs" in body["details"][0]["message"]
        assert (await product.http.get(path(task))).json()["total_versions"] == 1

    async def test_bad_uploads_are_typed_errors(self, product: Product) -> None:
        task = await ready(product, ECHO)
        upload = path(task, "artifacts")
        for bad in ({"entry_point": "start"}, {"language": "perl"}, {"activate": 1}, {"notes": "x"}, {"code": ""}):
            body = is_error(await product.http.post(upload, json={"code": ECHO, **bad}), 400, "validation_error")
            assert [detail["field"] for detail in body["details"]] == list(bad)
        is_error(await product.http.post(upload, content=b"x = 1", headers={"Content-Type": "text/plain"}), 415)
        is_error(await product.http.post(upload, content=b"\xff", headers=SOURCE), 400, "malformed_json")
        is_error(await product.http.post(upload, content=b"", headers=SOURCE), 400, "validation_error")
        large = "#" * (1 << 20) + ECHO
        is_error(await product.http.post(upload, content=large.encode(), headers=SOURCE), 413, "body_too_large")
        is_error(await product.http.post(upload, json={"code": large}), 413, "body_too_large")
        fits = "#" * ((1 << 20) - len(ECHO) - 1) + "\n" + ECHO
        assert (await product.http.post(upload, content=fits.encode(), headers=SOURCE)).json()["size_bytes"] == 1 << 20

    async def test_retries_with_one_key_make_one_version(self, product: Product) -> None:
        task = await ready(product, ECHO)
        headers = {"Idempotency-Key": uuid4().hex}
        answers = await asyncio.gather(
            *(product.http.post(path(task, "artifacts"), json={"code": HAM}, headers=headers) for _ in range(5))
        )
        assert {(answer.status_code, answer.json()["version"]) for answer in answers} == {(201, 2)}
        other = await product.http.post(path(task, "artifacts"), json={"code": ECHO}, headers=headers)
        is_error(other, 422, "idempotency_key_reused")


class TestImproving:
    @pytest.mark.parametrize("version", [V1, V2])
    async def test_fifty_retries_with_one_key_are_one_generation(self, product: Product, version: str) -> None:
        task = await product.create(examples=messages(12))
        url, headers = f"{version}/tasks/{task['id']}/generate", {"Idempotency-Key": uuid4().hex}
        body = {"examples": messages(14)[12:], "constraints": "short"}
        orders: list[str] = []

        async def on_order(message: Msg) -> None:
            orders.append(json.loads(message.data)["generation_id"])

        subscription = await product.nats.subscribe(subjects.TASK_GENERATE_COMMAND, cb=on_order)
        await product.nats.flush()
        answers = await asyncio.gather(*(product.http.post(url, json=body, headers=headers) for _ in range(50)))
        assert {answer.status_code for answer in answers} == {202}
        assert len({answer.text for answer in answers}) == 1
        is_error(await product.http.post(url, headers=headers), 422, "idempotency_key_reused")
        is_error(await product.http.post(url, headers={"Idempotency-Key": "two words"}), 400, "validation_error")
        assert (await product.http.get(path(task))).json()["total_examples"] == 14
        other = await product.http.post(url, headers={"Idempotency-Key": uuid4().hex})
        await eventually(lambda: orders[-1:] == [other.json()["generation_id"]])
        assert orders == [answers[0].json()["generation_id"], other.json()["generation_id"]]
        await subscription.unsubscribe()

    async def test_more_examples_make_a_better_version(self, product: Product) -> None:
        task = await product.create(examples=messages(12))
        await product.publish(task["id"], HAM)
        response = await product.http.post(
            path(task, "generate"), json={"examples": messages(60)[12:], "constraints": "short", "strategy": "ml"}
        )
        started = response.json()
        assert response.status_code == 202, response.text
        assert started.keys() == {"task_id", "generation_id", "status"}
        assert (started["task_id"], started["status"]) == (task["id"], "generating")
        assert response.headers["location"] == path(task)
        assert (await product.http.get(path(task))).json()["total_examples"] == 60
        await eventually(lambda: _has(product, task, active_version=3))
        made = (await product.http.get(path(task, "artifacts", 3))).json()
        assert (made["parent_version"], made["status"], made["validation"]["total"]) == (2, "active", 60)
        await product.until_active(task["id"], 3)
        assert await product.output(task["id"], {"text": "you have won a prize, claim it now"}) == "spam"

    async def test_a_ready_task_stays_ready_and_what_is_better_stays_active(self, product: Product) -> None:
        noise = [{"input": {"text": f"{uuid4().hex} {n}"}, "output": "spam" if n % 2 else "ham"} for n in range(40)]
        task = await product.create(examples=noise, accuracy_target=0.1)
        assert (await product.http.post(path(task, "artifacts"), json={"code": GOOD})).status_code == 201
        assert (await product.http.post(path(task, "generate"))).status_code == 202
        await eventually(lambda: _has(product, task, total_versions=3))
        shown = (await product.http.get(path(task))).json()
        assert (shown["status"], shown["active_version"]) == ("ready", 2)
        kept = (await product.http.get(path(task, "artifacts", 3))).json()
        assert (kept["status"], kept["deployment_percentage"], kept["parent_version"]) == ("validated", 0.0, 2)

    async def test_a_task_that_failed_is_tried_again(self, product: Product) -> None:
        examples = [{"input": {"text": uuid4().hex}, "output": "spam" if n % 2 else "ham"} for n in range(40)]
        task = await product.create(examples=examples, accuracy_target=1.0)
        assert task["status"] == "failed"
        await product.http.patch(path(task), json={"accuracy_target": 0.1})
        assert (await product.http.post(path(task, "generate"))).status_code == 202
        await eventually(lambda: _is(product, task, "ready"))

    async def test_bad_orders_are_typed_errors(self, product: Product) -> None:
        task = await product.create()
        for bad in ({"strategy": "magic"}, {"constraints": "x" * 5001}, {"examples": [{"input": 1}]}, {"model": "x"}):
            body = is_error(await product.http.post(path(task, "generate"), json=bad), 400, "validation_error")
            assert body["details"][0]["field"].split("/")[0] == next(iter(bad))
        wrong = {"examples": [{"input": {"text": "x"}, "output": "neither"}]}
        body = is_error(await product.http.post(path(task, "generate"), json=wrong), 400, "validation_error")
        assert [detail["field"] for detail in body["details"]] == ["examples/0/output"]


@pytest.mark.parametrize(
    "subject",
    [
        "loopai.rpc.v1.tasks.update",
        "loopai.rpc.v1.tasks.archive",
        "loopai.rpc.v1.tasks.generate",
        "loopai.rpc.v1.generations.get",
        "loopai.rpc.v1.artifacts.activations",
        "loopai.rpc.v1.programs.submit",
    ],
)
async def test_broken_messages_on_the_bus_are_typed_errors(product: Product, subject: str) -> None:
    for body in (b"", b"not json", b"[]", b'{"task": "../x"}'):
        reply = await product.request(subject, body)
        assert json.loads(reply.data)["code"] == "validation_error"


async def _has(product: Product, task: dict[str, Any], **expected: Any) -> bool:
    shown = (await product.http.get(path(task))).json()
    return all(shown[key] == value for key, value in expected.items())


async def _is(product: Product, task: dict[str, Any], status: str) -> bool:
    return await _has(product, task, status=status)
