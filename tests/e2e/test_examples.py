"""Every example of the OpenAPI documents, run against the product: the documented status, in the documented shape."""

import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import jsonschema_rs
import pytest

from tests.support.product import Product, eventually

JSON = "application/json"

# All examples share one task, which must stay.
LEFT_OUT = {"delete"}


class Call:
    """One request that a document shows: an operation with one of the examples of its body."""

    def __init__(self, path: str, method: str, operation: dict[str, Any], media_type: str, body: Any) -> None:
        self.path = path
        self.method = method
        self.operation = operation
        self.media_type = media_type
        self.body = body

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.media_type}"

    async def send(self, http: httpx.AsyncClient, key: str) -> httpx.Response:
        # The revision in the example of If-Match is that of no task here.
        path, headers = self.path, {"Idempotency-Key": key, "If-Match": "*"}
        for parameter in self.operation["parameters"]:
            example = parameter.get("example", (parameter.get("schema", {}).get("examples") or [None])[0])
            if parameter.get("in") == "path":
                path = path.replace(f"{{{parameter['name']}}}", str(example))
            elif parameter.get("in") == "header" and example is not None:
                headers.setdefault(parameter["name"], example)
        if self.body is None:
            return await http.request(self.method, path, headers=headers)
        headers["Content-Type"] = self.media_type
        content = self.body if isinstance(self.body, str) else json.dumps(self.body)
        return await http.request(self.method, path, content=content, headers=headers)


def calls(document: dict[str, Any]) -> Iterator[Call]:
    for path, methods in document["paths"].items():
        for method in sorted(methods.keys() - LEFT_OUT):
            operation = methods[method]
            if "text/event-stream" in operation["responses"].get("200", {}).get("content", {}):
                continue  # it has no end
            content = operation.get("requestBody", {}).get("content", {"": {}})
            for media_type, body in content.items():
                shown = [example["value"] for example in body.get("examples", {}).values()]
                shown += [body["example"]] if "example" in body else []
                for value in shown or body.get("schema", {}).get("examples", [None]):
                    yield Call(path, method, operation, media_type, value)


def check(call: Call, response: httpx.Response, components: dict[str, Any]) -> None:
    success = {status for status in call.operation["responses"] if status.startswith("2")}
    assert str(response.status_code) in success, (str(call), response.status_code, response.text[:500])
    described = call.operation["responses"][str(response.status_code)]
    for name in described["headers"]:
        assert name in response.headers or name in {"Preference-Applied"}, (str(call), name)
    media_type = response.headers["content-type"].partition(";")[0]
    assert media_type in described["content"], (str(call), media_type)
    if media_type == JSON:
        schema = {**described["content"][JSON]["schema"], "components": components}
        problems = [e.message for e in jsonschema_rs.Draft202012Validator(schema).iter_errors(response.json())]
        assert not problems, (str(call), problems)
        shown = [example["value"] for example in described["content"][JSON]["examples"].values()]
        assert response.json().keys() in [value.keys() for value in shown], (str(call), response.json())


async def an_execution(http: httpx.AsyncClient, version: str) -> str:
    """The path of one that is recorded; the id in the document is that of none."""
    headers = {"Prefer": "respond-async"}
    path = f"/api/{version}/tasks/spam-detection/execute"
    accepted = await http.post(path, json={"input": {"text": "Are you there?"}}, headers=headers)
    location: str = accepted.headers["location"]

    async def has_run() -> bool:
        return bool((await http.get(location)).json()["status"] != "accepted")

    await eventually(has_run)
    return location


@pytest.mark.both_lanes
async def test_every_example_is_answered_as_documented(product: Product) -> None:
    key = "the-examples"  # the versions, and the lanes, make one task between them
    found = 0
    for version in ("v1", "v2"):
        document = (await product.http.get(f"/api/{version}/openapi.json")).json()
        for call in sorted(calls(document), key=lambda call: (not call.path.endswith("/tasks"), call.method != "post")):
            if "{execution}" in call.path:
                call.path = await an_execution(product.http, version)
            response = await call.send(product.http, key)
            check(call, response, document["components"])
            found += 1
    assert found > 20


@pytest.mark.parametrize(("version", "media_type"), [("v1", JSON), ("v2", "application/problem+json")])
async def test_errors_have_the_documented_shape(http: httpx.AsyncClient, version: str, media_type: str) -> None:
    document = (await http.get(f"/api/{version}/openapi.json")).json()
    responses = document["paths"][f"/api/{version}/tasks/{{task}}"]["get"]["responses"]
    schema = {**responses["404"]["content"][media_type]["schema"], "components": document["components"]}
    response = await http.get(f"/api/{version}/tasks/nobody-{uuid4().hex}")
    assert response.headers["content-type"] == media_type
    assert jsonschema_rs.Draft202012Validator(schema).is_valid(response.json())
    shown = responses["404"]["content"][media_type]["examples"]["task_not_found"]["value"]
    assert response.json().keys() == shown.keys()
