"""Which schemas a task may have."""

import time
from typing import Any

import pytest

from loopai_common.schemas import compile_schema, instance_violations, schema_violations


@pytest.mark.parametrize(
    ("schema", "path", "code"),
    [
        ({"type": "nonsense"}, "s/type", "invalid_schema"),
        ({"properties": []}, "s/properties", "invalid_schema"),
        ({"minLength": -1}, "s/minLength", "invalid_schema"),
        ({"$ref": "http://127.0.0.1:1/x"}, "s/$ref", "external_reference"),
        ({"$ref": "file:///etc/passwd"}, "s/$ref", "external_reference"),
        ({"items": {"$ref": "other.json"}}, "s/items/$ref", "external_reference"),
        ({"$ref": "#/$defs/missing"}, "s", "invalid_schema"),
        ({"pattern": "^(a+)+$"}, "s/pattern", "catastrophic_pattern"),
        ({"properties": {"x": {"pattern": "(?:a|b*)*c"}}}, "s/properties/x/pattern", "catastrophic_pattern"),
        ({"patternProperties": {"(x*)*": True}}, "s/patternProperties", "catastrophic_pattern"),
        ({"pattern": "(?=lookahead)x"}, "s/pattern", "invalid_schema"),
        ({"$schema": "http://json-schema.org/draft-04/schema#"}, "s/$schema", "unsupported_dialect"),
    ],
)
def test_refuses_what_is_no_schema_or_reaches_outside(schema: dict[str, Any], path: str, code: str) -> None:
    found = schema_violations(schema, "s")
    assert [(v.field, v.code) for v in found] == [(path, code)]


def test_refuses_a_schema_nested_without_end() -> None:
    schema: dict[str, Any] = {}
    for _ in range(500):
        schema = {"items": schema}
    assert [v.code for v in schema_violations(schema, "s")] == ["schema_too_deep"]


@pytest.mark.parametrize(
    "schema",
    [
        True,
        {},
        {"type": "object", "properties": {"text": {"type": "string", "pattern": "^[a-z]+@[a-z]+$"}}},
        {"$defs": {"n": {"type": "integer"}}, "items": {"$ref": "#/$defs/n"}},
        {"enum": [{"$ref": "http://is.just/data"}]},
        {"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "string"},
    ],
)
def test_takes_good_schemas(schema: dict[str, Any] | bool) -> None:
    assert schema_violations(schema, "s") == []


def test_patterns_take_linear_time() -> None:
    validator = compile_schema({"pattern": "^(a|aa)+$"})
    started = time.perf_counter()
    assert not validator.is_valid("a" * 5_000 + "b")
    linear = time.perf_counter() - started
    assert linear < 5.0  # exponential time would not end at all


def test_violations_name_the_rule_and_the_place_but_never_the_value() -> None:
    schema = {
        "type": "object",
        "properties": {"text": {"type": "string"}, "tags": {"items": {"enum": ["a", "b"]}}},
        "required": ["text", "id"],
    }
    found = instance_violations(compile_schema(schema), {"text": 3, "tags": ["canary-1", "a/~"]}, "input")
    assert {(v.field, v.code) for v in found} == {
        ("input", "required"),
        ("input/text", "type"),
        ("input/tags/0", "enum"),
        ("input/tags/1", "enum"),
    }
    assert not any("canary" in v.message for v in found)
    assert next(v for v in found if v.code == "required").message == "must have the property 'id'"


def test_a_value_nested_too_deeply_is_a_violation_like_others() -> None:
    value: Any = 1
    for _ in range(900):
        value = [value]
    validator = compile_schema({"type": "object"})
    assert not validator.is_valid(value)
    assert [(v.field, v.code) for v in instance_violations(validator, value, "input")] == [("input", "nesting")]
