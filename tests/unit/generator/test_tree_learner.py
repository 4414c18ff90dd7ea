"""Decision trees: fields of any kind to a label or a number, the emitted program is the tree."""

import random
import subprocess
import sys
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopai_common.contracts.tasks import Example
from loopai_executor.sandbox.isolation import IsolatedProgram
from loopai_generator.domain import CannotLearn, Learned
from loopai_generator.learners.choice import learn
from loopai_generator.learners.records import Choice, Number, at, columns_of, limit_above, matrix_of
from loopai_generator.learners.trees import TreeLearner
from tests.support.flowers import flowers, objects_request
from tests.support.sms import accuracy, load, messages


@cache
def of_flowers() -> Learned:
    """What is learned from all flowers."""
    return TreeLearner().learn(objects_request(flowers()))


def learned_from(*pairs: tuple[Any, Any], output: str = "string") -> Any:
    """The program learned from the pairs."""
    examples = tuple(Example(input=given, output=expected) for given, expected in pairs)
    return load(TreeLearner().learn(objects_request(examples, output=output)).code)


def test_species_are_told_by_a_tree_that_can_be_read() -> None:
    known = tuple(flower for position, flower in enumerate(flowers()) if position % 5)
    learned = TreeLearner().learn(objects_request(known))
    assert learned.learner == "decision-tree"
    assert "if petal_length <= 2.5:\n        return 'setosa'" in learned.code
    assert accuracy(learned.code, flowers()[::5]) >= 0.93


def test_confidence_is_what_cross_validation_measured_and_the_header_says_it() -> None:
    learned = of_flowers()
    assert learned.cross_validation is not None
    assert learned.confidence == learned.cross_validation.accuracy
    assert 0.92 <= learned.confidence < 1
    assert f"cross-validation: {learned.confidence:.4f}" in learned.code
    assert "Learned from 150 examples with 3 labels" in learned.code


def test_boosted_trees_are_taken_where_they_are_clearly_better() -> None:
    draw = random.Random(3)
    rows = [{f"x{n}": draw.gauss(0, 1) for n in range(6)} for _ in range(200)]
    pairs = [Example(input=row, output="high" if sum(row.values()) > 0 else "low") for row in rows]
    learned = TreeLearner().learn(objects_request(tuple(pairs)))
    assert learned.learner == "boosted-trees"
    assert learned.confidence > 0.8


def test_boosted_trees_of_several_labels_answer_with_each() -> None:
    draw = random.Random(3)
    rows = [{f"x{n}": draw.gauss(0, 1) for n in range(4)} for _ in range(200)]
    pairs = [Example(input=row, output=max(row, key=lambda name: row[name])) for row in rows]
    learned = TreeLearner().learn(objects_request(tuple(pairs)))
    assert learned.learner == "boosted-trees"
    run = load(learned.code)
    assert {run({f"x{n}": 3.0 * (n == largest) for n in range(4)}) for largest in range(4)} == set(rows[0])


def test_texts_truths_and_absences_are_told_apart() -> None:
    draw = random.Random(1)
    pairs = []
    for _ in range(200):
        row: dict[str, Any] = {"kind": draw.choice(["a", "b"]), "paid": draw.choice([True, False]), "note": None}
        if draw.random() < 0.5:
            row["code"] = draw.choice(["x", "y", None])
        answer = "free" if "code" not in row or row["code"] is None else "b-paid" if row["paid"] else row["kind"]
        pairs.append((row, answer))
    run = learned_from(*pairs)
    assert all(run(row) == answer for row, answer in pairs)


def test_nested_objects_lists_and_lengths_are_looked_at() -> None:
    draw = random.Random(2)
    pairs = []
    for _ in range(300):
        row = {"a": {"b": draw.randint(0, 9)}, "c": [draw.randint(0, 9) for _ in range(draw.randint(0, 4))]}
        first = row["c"][0] if row["c"] else 0  # type: ignore[index]
        pairs.append((row, "long" if len(row["c"]) > 2 else "deep" if row["a"]["b"] > 5 else f"first {first > 4}"))  # type: ignore[index]
    run = learned_from(*pairs)
    assert sum(run(row) == answer for row, answer in pairs) >= 290


@pytest.mark.parametrize("wrap", [lambda value: value, lambda value: [value, 1], lambda value: {"n": value}])
def test_the_input_may_be_a_number_a_list_or_an_object(wrap: Any) -> None:
    run = learned_from(*((wrap(n), "big" if n > 20 else "small") for n in range(40)))
    assert [run(wrap(n)) for n in (3, 20, 21, 1000)] == ["small", "small", "big", "big"]


def test_a_missing_number_has_a_branch_of_its_own() -> None:
    pairs = [({"n": n} if n % 3 else {"other": n}, "none" if n % 3 == 0 else "some") for n in range(-30, 30)]
    run = learned_from(*pairs)
    assert [run({}), run({"n": None}), run({"n": -9e9}), run({"n": 4})] == ["none", "none", "some", "some"]


def test_numbers_that_single_precision_cannot_tell_apart_are_told_apart() -> None:
    start = 1_700_000_000_000
    run = learned_from(*(({"at": start + n}, "after" if n > 50 else "before") for n in range(100)))
    assert (run({"at": start + 50}), run({"at": start + 51})) == ("before", "after")


def test_numbers_are_estimated_with_the_decimals_of_the_examples() -> None:
    pairs = [({"size": n, "kind": "ab"[n % 2]}, 1.25 * (n // 20) + n % 2) for n in range(200)]
    run = learned_from(*pairs, output="number")
    assert all(run(row) == value for row, value in pairs)


def test_whole_numbers_come_back_whole_and_within_what_was_seen() -> None:
    draw = random.Random(5)
    rows = [{f"x{n}": draw.gauss(0, 1) for n in range(4)} for _ in range(200)]
    pairs = [(row, round(100 * sum(row.values()))) for row in rows]
    learned = TreeLearner().learn(
        objects_request(tuple(Example(input=row, output=value) for row, value in pairs), output="integer")
    )
    assert learned.learner == "boosted-trees"
    answers = [load(learned.code)({f"x{n}": far for n in range(4)}) for far in (-99, 0.5, 99)]
    assert all(type(answer) is int for answer in answers)
    assert min(v for _, v in pairs) <= min(answers) <= max(answers) <= max(v for _, v in pairs)
    assert learned.figures["r2"] == round(learned.confidence, 6)
    assert learned.confidence > 0.6
    assert "tolerance" in learned.notes[0]


def test_a_label_in_an_object_comes_back_in_an_object() -> None:
    assert learned_from(*(({"n": n}, {"size": "big" if n > 5 else "small"}) for n in range(20)), output="object")(
        {"n": 9}
    ) == {"size": "big"}


def test_few_examples_give_a_tree_that_is_hardly_trusted() -> None:
    learned = learn(objects_request(tuple(Example(input={"n": n}, output=n > 2) for n in range(6)), output="boolean"))
    assert (learned.learner, learned.cross_validation) == ("decision-tree", None)
    assert 0 < learned.confidence < 0.5
    assert "was not measured" in learned.notes[0]
    assert load(learned.code)({"n": 4}) is True


@pytest.mark.parametrize(
    ("pairs", "reason"),
    [
        ((), "needs examples"),
        (tuple(({"n": n}, "same") for n in range(20)), "the same output"),
        (tuple(({"text": f"text {n}"}, "ab"[n % 2]) for n in range(40)), "no fields"),
        (tuple(({"a": "xyz"[n % 3], "b": n}, "xyz"[n % 3]) for n in range(40)), "copies"),
        (tuple(({"n": n}, {"a": 1, "b": n}) for n in range(40)), "several properties"),
    ],
)
def test_what_no_tree_can_learn_is_refused(pairs: tuple[tuple[Any, Any], ...], reason: str) -> None:
    with pytest.raises(CannotLearn, match=reason):
        learned_from(*pairs, output="object" if "several" in reason else "string")


@pytest.mark.parametrize(
    "odd", [None, 5, "x", [], {}, {"petal_width": "wide"}, {"petal_width": {}}, {"petal_width": [1]}, 10**400]
)
def test_the_program_takes_any_input(odd: Any) -> None:
    run = load(of_flowers().code)
    assert run(odd) in {"setosa", "versicolor", "virginica"}


def test_names_from_outside_cannot_leave_their_place() -> None:
    keys = ('x"""', "class", "a b", "A b", "1", "é", "input", "x\n", "")
    draw = random.Random(4)
    rows = [{key: draw.randint(0, 9) for key in keys} for _ in range(200)]
    run = learned_from(*((row, "yes" if sum(row.values()) > 40 else "no'\n") for row in rows))
    assert run(dict.fromkeys(keys, 9)) == "yes"


def test_same_examples_give_the_same_bytes_whatever_the_hash_seed_and_the_order_of_keys() -> None:
    script = (
        "import hashlib\n"
        "from loopai_common.contracts.tasks import Example\n"
        "from loopai_generator.learners.choice import learn\n"
        "from tests.support.flowers import flowers, objects_request\n"
        "turned = lambda e: Example(input=dict(sorted(e.input.items(), reverse=TURN)), output=e.output)\n"
        "code = learn(objects_request(tuple(map(turned, flowers()[::5])))).code\n"
        "print(hashlib.sha256(code.encode()).hexdigest())\n"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", script.replace("TURN", str(seed == "1"))],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(path for path in sys.path if path) + ":."},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_the_sandbox_need_not_make_the_globals_of_a_tree_anew() -> None:
    code = of_flowers().code
    assert IsolatedProgram(compile(code, "<program>", "exec"), "run").restores


def test_text_beside_other_fields_is_learned_from_together() -> None:
    draw = random.Random(6)
    pairs = []
    for message in messages()[:300]:
        assert isinstance(message.input, dict)
        urgent = draw.random() < 0.5
        level: Any = draw.choice([1, 5, None]) if urgent else draw.choice([7, 9])
        row = {"text": message.input["text"], "level": level, "from": {"channel": draw.choice("ab")}}
        pairs.append(Example(input=row, output="drop" if message.output == "spam" else "now" if urgent else "later"))
    learned = learn(objects_request(tuple(pairs[:200])))
    assert learned.learner == "linear-text"
    assert accuracy(learned.code, tuple(pairs[200:])) > 0.9
    run = load(learned.code)
    assert run({"text": "see you at home", "level": 9}) == "later"
    assert run({"text": "see you at home"}) == "now"


def test_columns_leave_free_text_and_constants_out() -> None:
    inputs = [{"text": f"text {n}", "same": 1, "n": n % 5, "kind": "ab"[n % 2]} for n in range(30)]
    assert columns_of(inputs) == (  # type: ignore[arg-type]
        Choice(("kind",), "a"),
        Choice(("kind",), "b"),
        Number(("n",), (0, 1, 2, 3, 4)),
    )


def test_true_is_no_number_and_null_is_as_good_as_absent() -> None:
    inputs: list[Any] = [{"v": 1}, {"v": True}, {"v": None}, {}, {"v": True}, {"v": 2}, {"v": "1"}, {"v": "1"}]
    columns = columns_of(inputs)
    rows = matrix_of(inputs, columns)
    by_column = dict(zip(columns, rows.T.tolist(), strict=True))
    assert by_column[Number(("v",), (1, 2))] == [1, 0, 0, 0, 0, 2, 0, 0]
    assert by_column[Choice(("v",), True)] == [0, 1, 0, 0, 1, 0, 0, 0]
    assert by_column[Choice(("v",), None)] == [0, 0, 1, 1, 0, 0, 0, 0]


@given(
    st.lists(
        st.one_of(st.integers(-(2**70), 2**70), st.floats(-1e299, 1e299, allow_nan=False)),
        min_size=2,
        unique=True,
    )
)
def test_a_limit_parts_its_two_values(values: list[float]) -> None:
    column = Number(("n",), tuple(sorted(values)))
    for rank in range(1, len(column.values)):
        assert column.values[rank - 1] <= limit_above(column, rank) < column.values[rank]


def test_a_limit_is_short() -> None:
    assert limit_above(Number((), (2.4, 2.9)), 1) == 2.6
    assert limit_above(Number((), (3, 8)), 1) == 5


@pytest.mark.parametrize(
    ("path", "found"), [(("a", 1), 3), (("a", -1), 2), (("a", 2), None), (("b",), None), (("a", "x"), None), ((), None)]
)
def test_a_path_leads_to_a_value_or_to_none(path: tuple[str | int, ...], found: Any) -> None:
    value: Any = {"a": [2, 3]} if path else None
    assert at(value, path) == found


def test_a_line_of_the_program_never_grows_with_the_depth_of_the_data() -> None:
    assert max(map(len, of_flowers().code.splitlines())) < 120
