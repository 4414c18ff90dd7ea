"""The documents that are made from the code: up to date, complete, and true to themselves."""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest

from tests.support.contracts import ROOT, SCHEMAS, documents

VERSIONS = ("v1", "v2")


def read(version: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(ROOT.joinpath(f"tests/contract/api/openapi-{version}.json").read_text())
    return document


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method} {path}", operation


def bodies(operation: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Where, media type and description of each body of the operation."""
    for media_type, body in operation.get("requestBody", {}).get("content", {}).items():
        yield "request", media_type, body
    for status, response in operation["responses"].items():
        for media_type, body in response.get("content", {}).items():
            yield status, media_type, body


def test_what_is_published_is_what_the_code_says() -> None:
    wanted = documents()
    stale = [name for name, text in wanted.items() if not (ROOT / name).exists() or (ROOT / name).read_text() != text]
    gone = [
        str(p.relative_to(ROOT)) for p in ROOT.joinpath(SCHEMAS).iterdir() if str(p.relative_to(ROOT)) not in wanted
    ]
    assert not stale + gone, "run `make contracts`, and look at what it changes"


@pytest.mark.parametrize("version", VERSIONS)
def test_every_operation_says_what_a_caller_must_know(version: str) -> None:
    seen = set()
    for where, operation in operations(read(version)):
        assert operation["summary"], where
        assert operation["description"], where
        assert operation["operationId"].startswith(f"{version}_"), where
        assert operation["operationId"] not in seen, where
        seen.add(operation["operationId"])
        assert {"408", "431", "500", "503"} <= operation["responses"].keys(), where
        for status, response in operation["responses"].items():
            assert response["description"], (where, status)
            assert "X-Correlation-ID" in response["headers"], (where, status)
            assert ("Retry-After" in response["headers"]) == (status in {"429", "503"}), (where, status)
            assert response.get("content") or status in {"204", "304"}, (where, status)
        for part, media_type, body in bodies(operation):
            assert "schema" in body, (where, part)
            assert "example" in body or body.get("examples") or body["schema"].get("examples"), (where, part)
            expected = "application/problem+json" if version == "v2" else "application/json"
            error = part >= "400" and part != "request" and "Readiness" not in str(body["schema"])
            assert not error or media_type == expected, (where, part)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_example_satisfies_its_schema(version: str) -> None:
    document = read(version)
    checked = 0
    for where, operation in operations(document):
        for part, media_type, body in bodies(operation):
            if "json" not in media_type or "ndjson" in media_type:
                continue
            schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **body["schema"]}
            validator = jsonschema_rs.Draft202012Validator({**schema, "components": document["components"]})
            for name, example in body["examples"].items():
                problems = [e.message for e in validator.iter_errors(example["value"])]
                assert not problems, (where, part, name, problems)
                checked += 1
    assert checked > 50


def test_both_versions_have_the_same_operations() -> None:
    first, second = ({where.replace(f"/api/{v}/", "/") for where, _ in operations(read(v))} for v in VERSIONS)
    assert first == second
    assert "ErrorResponse" not in read("v2")["components"]["schemas"]
    assert "Problem" not in read("v1")["components"]["schemas"]


def test_a_program_that_fails_is_documented_as_it_is_answered() -> None:
    paths = {v: read(v)["paths"][f"/api/{v}/tasks/{{task}}/execute"]["post"]["responses"] for v in VERSIONS}
    assert "422" not in paths["v1"]
    assert paths["v2"]["422"]["content"]["application/problem+json"]["examples"].keys() == {"program_error"}
    assert "program_timeout" in paths["v2"]["504"]["content"]["application/problem+json"]["examples"]


def test_the_list_of_errors_explains_every_code() -> None:
    text = ROOT.joinpath("docs/errors.md").read_text()
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) > 25
    assert all(len(row) == 5 and all(cell.strip("| ") for cell in row) for row in rows)
