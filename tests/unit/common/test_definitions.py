"""The rules of a task's definition."""

from typing import Any

import pydantic
import pytest

from loopai_common.contracts.tasks import TaskDefinition
from loopai_common.definitions import definition_violations
from loopai_common.runtime.errors import violations_of
from tests.support.builders import definition, definition_body


def broken(**changes: Any) -> list[str]:
    """Fields that the contract itself refuses."""
    with pytest.raises(pydantic.ValidationError) as caught:
        TaskDefinition.model_validate(definition_body(**changes))
    return [v.field.split("/")[0] for v in violations_of(caught.value)]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", "x" * 201),
        ("name", "has space"),
        ("name", "nul\x00"),
        ("name", "new\n"),
        ("name", "01938f5e-3a6b-7c4d-9e1f-2a3b4c5d6e7f"),
        ("description", ""),
        ("description", "  \n "),
        ("description", "x" * 5001),
        ("description", "nul \x00"),
        ("accuracy_target", -0.1),
        ("accuracy_target", 1.1),
        ("accuracy_target", True),
        ("accuracy_target", "0.5"),
        ("latency_target_ms", 0),
        ("latency_target_ms", 60_001),
        ("latency_target_ms", 1.5),
        ("latency_target_ms", True),
        ("sampling_rate", 2),
        ("input_schema", "string"),
        ("output_schema", None),
        ("examples", [{"input": 1}]),
        ("examples", [{"input": 1, "output": 1}] * 10_001),
    ],
)
def test_each_rule_broken_alone(field: str, value: Any) -> None:
    assert broken(**{field: value}) == [field]


def test_all_violations_are_reported_at_once() -> None:
    assert set(broken(name="a b", description=" ", accuracy_target=7, latency_target_ms=0, sampling_rate=-1)) == {
        "name",
        "description",
        "accuracy_target",
        "latency_target_ms",
        "sampling_rate",
    }


def test_edges_are_inside() -> None:
    for changes in (
        {"accuracy_target": 0},
        {"accuracy_target": 1},
        {"latency_target_ms": 60_000},
        {"name": "A.b_c-9"},
        {"name": "x" * 200},
        {"description": "x" * 5000},
        {"input_schema": True},
    ):
        assert definition_violations(definition(**changes)) == []


def test_examples_must_satisfy_their_schemas() -> None:
    bad = definition(
        examples=[
            {"input": {"text": "x"}, "output": "spam"},
            {"input": {"text": 1}, "output": "other"},
        ]
    )
    assert [(v.field, v.code) for v in definition_violations(bad)] == [
        ("examples/1/input/text", "type"),
        ("examples/1/output", "enum"),
    ]


def test_a_flood_of_violations_is_cut() -> None:
    bad = definition(examples=[{"input": 1, "output": 1}] * 5_000)
    assert len(definition_violations(bad)) == 100
