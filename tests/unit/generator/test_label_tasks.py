"""Which requests are tasks of text to label, and where their text and labels are."""

from typing import Any

import pytest

from loopai_common.contracts.tasks import Example
from loopai_generator.domain import CannotLearn, LabelTask, read_label_task
from tests.support.sms import generation_request

FREE_TEXT = {"type": "string"}


def examples(*pairs: tuple[Any, Any]) -> tuple[Example, ...]:
    return tuple(Example(input=given, output=expected) for given, expected in pairs)


def read(pairs: tuple[tuple[Any, Any], ...] = (), **changes: Any) -> LabelTask:
    return read_label_task(generation_request(examples(*pairs), **changes))


def test_labels_stand_in_the_order_of_the_enum() -> None:
    assert read(output_schema={"enum": ["b", "c", "a"]}).labels == ("b", "c", "a")


def test_labels_without_an_enum_are_those_of_the_examples() -> None:
    pairs = (({"text": "x"}, "spam"), ({"text": "y"}, "ham"), ({"text": "z"}, "ham"))
    task = read(pairs, output_schema=FREE_TEXT)
    assert task.labels == ("ham", "spam")
    assert task.counts == [2, 1]


def test_enum_behind_a_local_reference_is_found() -> None:
    schema = {"$ref": "#/$defs/Label", "$defs": {"Label": {"enum": ["x", "y"]}}}
    assert read(output_schema=schema).labels == ("x", "y")


def test_a_reference_that_points_at_itself_is_no_endless_loop() -> None:
    with pytest.raises(CannotLearn, match="enum"):
        read(output_schema={"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}})


def test_true_and_one_are_different_labels() -> None:
    pairs = (({"text": "a"}, 1), ({"text": "b"}, True), ({"text": "c"}, 1), ({"text": "d"}, True))
    assert read(pairs, output_schema={"enum": [1, True]}).counts == [2, 2]


def test_booleans_are_labels() -> None:
    assert read(output_schema={"type": "boolean"}).labels == (False, True)


def test_a_bare_string_is_the_text() -> None:
    task = read((("hello", "ham"),), input_schema={"type": "string"})
    assert task.input_properties is None
    assert task.examples[0].text == "hello"


def test_the_only_property_that_varies_is_the_text() -> None:
    pairs = (({"lang": "en", "note": "a"}, "ham"), ({"lang": "en", "note": "b"}, "spam"))
    assert read(pairs, input_schema={"type": "object"}).input_properties == ("note",)


def test_several_properties_that_vary_are_read_together() -> None:
    pairs = (({"subject": "s", "body": "a"}, "ham"), ({"subject": "t", "body": "b"}, "spam"))
    task = read(pairs, input_schema={"type": "object"})
    assert task.input_properties == ("body", "subject")
    assert task.examples[0].text == "a\ns"


def test_the_schema_names_the_text_when_there_are_no_examples() -> None:
    schema = {"type": "object", "properties": {"size": {"type": "integer"}, "body": {"type": "string"}}}
    assert read(input_schema=schema).input_properties == ("body",)


def test_the_label_may_be_the_only_property_of_the_output() -> None:
    schema = {"type": "object", "properties": {"label": {"enum": ["ham", "spam"]}}, "required": ["label"]}
    task = read((({"text": "x"}, {"label": "spam"}),), output_schema=schema)
    assert (task.output_property, task.labels) == ("label", ("ham", "spam"))


@pytest.mark.parametrize(
    ("pairs", "changes", "reason"),
    [
        ((), {"output_schema": FREE_TEXT}, "enum"),
        ((({"text": "a"}, {"x": "1", "y": "2"}),), {"output_schema": {"type": "object"}}, "several properties"),
        ((({"text": "a"}, ["x"]),), {"output_schema": {"type": "array"}}, "lists"),
        ((({"text": "a"}, 0.5), ({"text": "b"}, 0.7)), {"output_schema": {"type": "number"}}, "numbers"),
        (
            (({"text": "Ann is 25"}, "Ann"), ({"text": "Bob is 31"}, "Bob")),
            {"output_schema": FREE_TEXT},
            "pieces of the inputs",
        ),
        (
            tuple(({"text": f"t{n}"}, f"answer {n}") for n in range(10)),
            {"output_schema": FREE_TEXT},
            "nearly every example",
        ),
        ((({"size": 1}, "ham"), ({"size": 2}, "spam")), {"input_schema": {"type": "object"}}, "no text"),
        ((([1], "ham"),), {"input_schema": {"type": "array"}}, "neither text nor objects"),
        ((({"text": "a"}, "eggs"),), {}, "does not satisfy the output schema"),
        ((), {"output_schema": {"enum": [f"label {n}" for n in range(101)]}}, "at most 100"),
        ((), {"output_schema": {"enum": ["x" * 300, "y"]}}, "longer than"),
        ((), {"output_schema": {"enum": [{"a": 1}, {"a": 2}]}}, "lists or objects"),
    ],
)
def test_what_is_no_such_task_is_refused_with_the_reason(
    pairs: tuple[tuple[Any, Any], ...], changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(CannotLearn, match=reason):
        read(pairs, **changes)
