"""The linear classifier: the emitted program is the model, byte for byte the same each time."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.svm import LinearSVC

from benchmarks.intents import corpus
from loopai_common.contracts.tasks import Example
from loopai_executor.sandbox.isolation import IsolatedProgram
from loopai_generator.domain import CannotLearn, LabelTask, read_label_task
from loopai_generator.learners.linear import (
    MAX_WEIGHTS,
    LinearModel,
    LinearTextLearner,
    feature_matrix,
    fit_model,
    write,
)
from loopai_generator.learners.text_features import features
from tests.support.sms import accuracy, generation_request, load, messages, parts

TOPICS = {
    "billing": ("invoice", "refund", "charged", "receipt", "payment"),
    "technical": ("crash", "error", "login", "screen", "update"),
    "shipping": ("parcel", "courier", "delivery", "address", "tracking"),
}


def tickets(each: int = 20) -> tuple[Example, ...]:
    return tuple(
        Example(input={"text": f"about my {words[n % 5]} and the {words[(n // 5) % 5]} case {n}"}, output=label)
        for n in range(each)
        for label, words in TOPICS.items()
    )


def model_of(task: LabelTask, size: int = 4) -> LinearModel:
    names, rows = feature_matrix(task.examples, size)
    return fit_model(rows, np.array([example.label for example in task.examples]), names, size)


def decide(model: LinearModel, text: str) -> int:
    """The model's decision, computed apart from the program."""
    found = features(text, model.size)
    present = np.array([name in found for name in model.features])
    sums = model.weights @ present + model.biases
    return model.labels[int(sums[0] > 0)] if len(sums) == 1 else model.labels[int(np.argmax(sums))]


def test_program_decides_as_the_model_on_messages_it_has_not_seen() -> None:
    known, unseen = parts()
    task = read_label_task(generation_request(known[:600]))
    model = model_of(task)
    run = load(write(model, task, None))
    judged = read_label_task(generation_request(unseen))
    assert [run({"text": example.text}) for example in judged.examples] == [
        task.labels[decide(model, example.text)] for example in judged.examples
    ]


def test_program_of_many_labels_decides_as_the_model() -> None:
    task = read_label_task(generation_request(tickets(), output_schema={"type": "string"}))
    model = model_of(task, 3)
    run = load(write(model, task, None))
    texts = ["my parcel", "the invoice is wrong", "login crash on update", "hello", "", "refund the courier"]
    assert [run({"text": text}) for text in texts] == [task.labels[decide(model, text)] for text in texts]


def test_rounding_the_weights_changes_next_to_no_decision() -> None:
    known, unseen = parts()
    task, judged = read_label_task(generation_request(known)), read_label_task(generation_request(unseen))
    model = model_of(task)
    labels = np.array([example.label for example in task.examples])
    names, rows = feature_matrix(task.examples + judged.examples, 4)
    column = {name: position for position, name in enumerate(names)}
    rows = rows.only(np.array([column[name] for name in model.features]))
    matrix = csr_matrix((np.ones(len(rows.columns)), rows.columns, rows.starts), shape=(len(rows), rows.width))
    exact = LinearSVC(C=0.02, class_weight="balanced", random_state=0).fit(matrix[: len(known)], labels)
    run = load(write(model, task, None))
    same = [
        run({"text": example.text}) == task.labels[decision]
        for example, decision in zip(judged.examples, exact.predict(matrix[len(known) :]), strict=True)
    ]
    assert sum(same) / len(same) > 0.995


def test_learns_to_tell_spam_from_ham() -> None:
    known, unseen = parts()
    learned = LinearTextLearner().learn(generation_request(known))
    assert accuracy(learned.code, unseen) >= 0.975
    assert len(learned.code.encode()) < 300_000
    assert learned.cross_validation is not None
    assert learned.cross_validation.examples == len(known)
    assert learned.confidence == learned.cross_validation.accuracy
    assert abs(learned.confidence - accuracy(learned.code, unseen)) < 0.015


def test_learns_many_labels() -> None:
    learned = LinearTextLearner().learn(generation_request(tickets(), output_schema={"type": "string"}))
    run = load(learned.code)
    assert [run({"text": t}) for t in ("where is my parcel", "refund please", "the login has an error")] == [
        "shipping",
        "billing",
        "technical",
    ]


def test_same_request_gives_the_same_bytes_in_processes_with_other_hash_seeds() -> None:
    script = (
        "import hashlib\n"
        "from loopai_generator.learners.choice import learn\n"
        "from tests.support.sms import generation_request, messages\n"
        "print(hashlib.sha256(learn(generation_request(messages()[:300])).code.encode()).hexdigest())\n"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_program_holds_nothing_that_can_change() -> None:
    module: dict[str, Any] = {}
    exec(LinearTextLearner().learn(generation_request(tickets(), output_schema={"type": "string"})).code, module)
    module.pop("__builtins__")
    mutable = [
        name
        for name, value in module.items()
        if not isinstance(value, (FunctionType, ModuleType, type, str, int, tuple, frozenset, type(None)))
        and not isinstance(value, re.Pattern)
        and not (isinstance(value, Mapping) and not hasattr(value, "__setitem__"))
    ]
    assert mutable == []


def test_program_imports_nothing_but_the_standard_library() -> None:
    code = LinearTextLearner().learn(generation_request(messages()[:100])).code
    imported = {line.split()[1] for line in code.splitlines() if line.startswith(("import ", "from "))}
    assert imported <= sys.stdlib_module_names


@pytest.mark.parametrize(
    "labels", [('"""', "\\"), ("it's", 'a "b"'), ("é\u2028", "\x07"), (0, 1), (True, False), (None, "x"), (1.5, 2.5)]
)
def test_labels_of_any_kind_come_back_as_they_are(labels: tuple[Any, Any]) -> None:
    pairs = tuple(
        Example(input={"text": f"{word} {n}"}, output=label)
        for n in range(8)
        for word, label in zip(("apple", "stone"), labels, strict=True)
    )
    code = LinearTextLearner().learn(generation_request(pairs, output_schema={"enum": list(labels)})).code
    answers = [load(code)({"text": word}) for word in ("an apple", "a stone")]
    assert answers == list(labels)
    assert [type(answer) for answer in answers] == [type(label) for label in labels]


def test_words_from_outside_cannot_leave_the_header() -> None:
    name = 'x"""\nraise SystemExit\n"""'
    code = LinearTextLearner().learn(generation_request(messages()[:60], task_name=name)).code
    assert load(code)({"text": "hello"}) == "ham"


@pytest.mark.parametrize(
    "value", [{}, {"text": None}, {"text": ""}, {"text": 5}, {"text": "a" * 100_000}, {"text": "漢字" * 50}]
)
def test_program_takes_any_text(value: dict[str, Any]) -> None:
    code = LinearTextLearner().learn(generation_request(messages()[:60])).code
    assert load(code)(value) in {"ham", "spam"}


def test_label_in_an_object_comes_back_in_an_object() -> None:
    wrapped = tuple(Example(input=e.input, output={"label": e.output}) for e in messages()[:60])
    code = LinearTextLearner().learn(generation_request(wrapped, output_schema={"type": "object"})).code
    assert load(code)({"text": "hello"}) == {"label": "ham"}


def test_weights_are_bounded_however_many_labels_there_are() -> None:
    pairs = tuple(
        Example(input={"text": f"word{n % 40} thing{n} other{n * 7 % 300}"}, output=f"label{n % 40}")
        for n in range(1200)
    )
    task = read_label_task(generation_request(pairs, output_schema={"type": "string"}))
    model = model_of(task)
    assert 0 < np.count_nonzero(model.weights) <= MAX_WEIGHTS


def test_label_without_examples_is_said_in_the_notes() -> None:
    learned = LinearTextLearner().learn(
        generation_request(messages()[:60], output_schema={"enum": ["ham", "spam", "scam"]})
    )
    assert learned.notes == ("1 of 3 labels have no example, and the program never gives them.",)


@pytest.mark.parametrize(
    ("pairs", "reason"),
    [
        (messages()[:9], "at least 10 examples"),
        (tuple(Example(input={"text": f"t{n}"}, output="ham") for n in range(20)), "two labels"),
        (tuple(Example(input={"text": "same"}, output=("ham", "spam")[n % 2]) for n in range(20)), "two labels"),
    ],
)
def test_too_little_to_learn_from_is_refused(pairs: tuple[Example, ...], reason: str) -> None:
    with pytest.raises(CannotLearn, match=reason):
        LinearTextLearner().learn(generation_request(pairs))


def test_more_text_than_fits_is_learned_from_in_part() -> None:
    words = ("apple", "stone")
    long = tuple(
        Example(input={"text": f"{words[n % 2]} {n} " + "filler " * 600}, output=("ham", "spam")[n % 2])
        for n in range(500)
    )
    learned = LinearTextLearner().learn(generation_request(long))
    assert learned.notes[0].startswith("The examples hold more text")
    assert load(learned.code)({"text": "apple"}) == "ham"


def test_fields_beside_the_text_stand_in_the_table_as_facts() -> None:
    pairs = tuple(
        Example(
            input={"text": f"letter {n} of many", "amount": n, "kind": "ab"[n % 2]}, output="xy"[(n > 50) ^ (n % 2)]
        )
        for n in range(100)
    )
    learned = LinearTextLearner().learn(
        generation_request(pairs, input_schema={"type": "object"}, output_schema={"type": "string"})
    )
    assert "'amount > " in learned.code
    assert "\"kind = 'a'\"" in learned.code


def test_weights_with_quotes_and_other_signs_are_read_back_as_they_were() -> None:
    signs = ('it\'s "so"', "a\\b : c", "tab\there", "é漢 \u2028 x", ":) 5 :x", '"""')
    pairs = tuple(
        Example(input={"text": f"{sign} {n}"}, output=f"label {position}")
        for n in range(6)
        for position, sign in enumerate(signs)
    )
    task = read_label_task(generation_request(pairs, output_schema={"type": "string"}))
    model = model_of(task, 3)
    module: dict[str, Any] = {}
    exec(write(model, task, None), module)
    assert tuple(sorted(module["WEIGHTS"])) == tuple(sorted(model.features))
    assert [module["run"](example.input) for example in pairs] == [example.output for example in pairs]


def test_texts_of_77_labels_are_learned_into_a_program_that_can_be_stored() -> None:
    pairs = tuple(Example(input={"text": text}, output=label) for text, label in corpus(1500))
    learned = LinearTextLearner().learn(generation_request(pairs, output_schema={"type": "string"}))
    assert learned.confidence > 0.5
    assert len(learned.code.encode()) < 1024 * 1024
    assert IsolatedProgram(compile(learned.code, "<program>", "exec"), "run").restores
