"""Learning string programs: what is found, how it is written, and what it answers to odd inputs."""

import ast
import json
from typing import Any

import pytest

from loopai_common.contracts.artifacts import SynthesisStrategy
from loopai_generator.domain import CannotLearn, Learned
from loopai_generator.learners.choice import learn
from loopai_generator.learners.strings.learner import StringLearner
from tests.support.sms import generation_request, load, messages
from tests.support.string_tasks import pairs, string_request

NAMES = [["Ada Lovelace", "Lovelace, A."], ["Alan Turing", "Turing, A."], ["Grace Brewster Hopper", "Hopper, G."]]
ORDERS = [
    ["3 x apples at $1.20", {"quantity": 3, "item": "apples", "price": 1.2}],
    ["12 x green pears at $0.50", {"quantity": 12, "item": "green pears", "price": 0.5}],
    ["1 x melon at $4.00", {"quantity": 1, "item": "melon", "price": 4.0}],
]
ODD: list[Any] = [
    "",
    " ",
    "x",
    ",,,",
    "0",
    "9" * 5000,
    "é\u0000\n",
    "$-.",
    "99/99/9999",
    None,
    5,
    1.5,
    True,
    [],
    {},
    {"text": [1]},
]


def learned(rows: list[list[Any]], **changes: Any) -> Learned:
    return StringLearner().learn(string_request(pairs(rows), **changes))


def answer(rows: list[list[Any]], value: Any, **changes: Any) -> Any:
    return load(learned(rows, **changes).code)(value)


def test_text_becomes_text() -> None:
    assert answer(NAMES, "Linus Torvalds") == "Torvalds, L."


def test_text_becomes_an_object_with_numbers() -> None:
    assert answer(ORDERS, "7 x big kiwis at $10.05") == {"quantity": 7, "item": "big kiwis", "price": 10.05}


def test_text_in_a_property_is_read_from_there() -> None:
    rows = [[{"text": given}, expected] for given, expected in NAMES]
    assert answer(rows, {"text": "Linus Torvalds"}) == "Torvalds, L."


def test_flat_object_becomes_text() -> None:
    rows = [
        [{"first name": "Ada", "class": "A", "age": 36}, "Ada (36), A"],
        [{"first name": "Alan", "class": "C", "age": 41}, "Alan (41), C"],
        [{"first name": "Grace", "class": "B", "age": 85}, "Grace (85), B"],
    ]
    assert answer(rows, {"first name": "Linus", "class": "D", "age": 5}) == "Linus (5), D"


def test_text_becomes_an_array_of_objects() -> None:
    rows = [
        ["a=1;b=2", [{"key": "a", "value": 1}, {"key": "b", "value": 2}]],
        ["x=10", [{"key": "x", "value": 10}]],
        ["p=5;q=6;r=7", [{"key": "p", "value": 5}, {"key": "q", "value": 6}, {"key": "r", "value": 7}]],
    ]
    assert answer(rows, "m=3;n=44") == [{"key": "m", "value": 3}, {"key": "n", "value": 44}]


def test_what_no_single_program_does_is_parted_by_a_condition() -> None:
    rows = [
        ["Robert 'Bob' Smith", "Bob"], ["Ada Lovelace", "Ada"], ["William 'Bill' Gates", "Bill"],
        ["Alan Turing", "Alan"], ["Elizabeth 'Liz' Taylor", "Liz"], ["Grace Hopper", "Grace"],
    ]  # fmt: skip
    code = learned(rows).code
    assert "if " in code
    assert [load(code)(name) for name in ("Richard 'Dick' Cheney", "Barbara Liskov")] == ["Dick", "Barbara"]


def test_what_is_missing_in_some_texts_becomes_null() -> None:
    rows = [
        ["Ada (1815)", {"name": "Ada", "born": 1815}], ["Homer", {"name": "Homer", "born": None}],
        ["Alan (1912)", {"name": "Alan", "born": 1912}], ["Sappho", {"name": "Sappho", "born": None}],
        ["Grace (1906)", {"name": "Grace", "born": 1906}], ["Euclid", {"name": "Euclid", "born": None}],
    ]  # fmt: skip
    run = load(learned(rows).code)
    assert run("Edsger (1930)") == {"name": "Edsger", "born": 1930}
    assert run("Plato") == {"name": "Plato", "born": None}


def test_parts_that_occur_again_are_looked_up() -> None:
    rows = [[f"{sign}{amount}", code] for amount in (5, 12, 99) for sign, code in (("$", "USD"), ("€", "EUR"))]
    assert [answer(rows, value) for value in ("€700", "$1.50")] == ["EUR", "USD"]


def test_a_few_examples_are_searched_and_all_are_kept() -> None:
    rows = [[f"user{n % 7} bought {n} things", f"{n} by user{n % 7}"] for n in range(400)]
    rows += [["user1 bought 5 red things", "5 by user1"]] * 2
    code = learned(rows).code
    run = load(code)
    assert all(run(given) == expected for given, expected in rows)


DATES = [["2024-03-05", "5 March"], ["1999-12-31", "31 December"], ["2020-02-02", "2 February"]]


@pytest.mark.parametrize("rows", [NAMES, ORDERS, DATES], ids=["names", "orders", "dates"])
def test_odd_inputs_are_answered_with_json(rows: list[list[Any]]) -> None:
    run = load(learned(rows).code)
    for value in ODD:
        json.dumps(run(value), allow_nan=False)


@pytest.mark.parametrize(
    ("schema", "default"),
    [
        ({"type": "string"}, ""),
        ({"type": ["string", "null"]}, None),
        ({"anyOf": [{"type": "null"}, {"type": "string"}]}, None),
        ({"enum": ["Lovelace, A.", "none"]}, "Lovelace, A."),
        (True, None),
    ],
)
def test_where_nothing_matches_the_default_keeps_to_the_schema(schema: Any, default: Any) -> None:
    assert answer(NAMES, "", output_schema=schema) == default


def test_defaults_of_properties_keep_to_their_schemas() -> None:
    properties = {"quantity": {"$ref": "#/$defs/n"}, "item": {"type": "string"}, "price": {"type": ["number", "null"]}}
    schema = {"type": "object", "properties": properties, "$defs": {"n": {"type": "integer"}}}
    assert answer(ORDERS, "", output_schema=schema) == {"quantity": 0, "item": "", "price": None}


def test_the_program_says_how_it_was_made_and_is_plain_python() -> None:
    result = learned(NAMES)
    text = ast.get_docstring(ast.parse(result.code))
    assert text is not None
    assert "Found from 3 examples" in text
    assert "dsl" in text
    assert result.strategy is SynthesisStrategy.DSL
    imports = {n.names[0].name for n in ast.walk(ast.parse(result.code)) if isinstance(n, ast.Import)}
    assert imports <= {"re"}


def test_the_task_cannot_write_into_the_program() -> None:
    rows = [[{'a"""\nimport os': given}, {'b"""\'\nimport os': expected}] for given, expected in NAMES]
    code = learned(rows, task_name='x"""\nimport os\n"""').code
    assert "os" not in {n.names[0].name for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Import)}
    assert load(code)({'a"""\nimport os': "Linus Torvalds"}) == {'b"""\'\nimport os': "Torvalds, L."}


def test_same_request_gives_the_same_program() -> None:
    assert learned(ORDERS).code == learned(ORDERS).code


def test_confidence_is_what_cross_validation_found() -> None:
    rows = [[f"{a} {b}", f"{b}-{a}"] for a, b in zip("abcdefghij", "qrstuvwxyz", strict=True)]
    easy = learned(rows)
    assert easy.cross_validation is not None
    assert (easy.cross_validation.folds, easy.cross_validation.examples) == (5, 10)
    assert easy.confidence == easy.cross_validation.accuracy == 1.0
    hard = learned([["a1", "x"], ["b2", "y"], ["c3", "x"], ["d4", "y"]])
    assert hard.confidence < 0.6
    assert any("more examples" in note for note in hard.notes)


def test_examples_that_contradict_each_other_have_no_program() -> None:
    with pytest.raises(CannotLearn, match="the output"):
        learned([*NAMES, ["Ada Lovelace", "Countess"]])


def test_the_property_without_a_program_is_named() -> None:
    rows = [
        [text, {"name": text[0], "mood": mood}]
        for text, mood in (("ab", "q1"), ("cd", "zz"), ("ef", "7y"), ("ab", "p"))
    ]
    with pytest.raises(CannotLearn, match="mood"):
        learned(rows)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (NAMES[:2], "at least 3"),
        ([[[1], "a"], [[2], "b"], [[3], "c"]], "neither text nor flat objects"),
        ([[{"a": [1]}, "a"], [{"a": [2]}, "b"], [{"a": [3]}, "c"]], "neither text nor numbers"),
        ([["a", {"x": "a"}], ["b", {"y": "b"}], ["c", {"x": "c"}]], "as null"),
        ([["a", {"x": "a"}], ["b", "b"], ["c", "c"]], "different kinds"),
    ],
)
def test_what_is_no_such_task_is_refused_with_the_reason(rows: list[list[Any]], reason: str) -> None:
    with pytest.raises(CannotLearn, match=reason):
        learned(rows)


def test_auto_takes_a_string_program_where_texts_are_rewritten() -> None:
    request = string_request(
        pairs([[f"{a} {b}", f"{b}, {a}"] for a, b in zip("ABCDEFGHIJKL", "mnopqrstuvwx", strict=True)])
    )
    result = learn(request.model_copy(update={"strategy": SynthesisStrategy.AUTO}))
    assert result.learner == "string-program"


def test_auto_leaves_labels_to_classifiers() -> None:
    with pytest.raises(CannotLearn, match="labels"):
        StringLearner().learn(generation_request(messages()[:20]))
