"""``python -m benchmarks.learner``: what the built-in learner's programs are worth, beside scikit-learn's own models.

Each figure is of the emitted program, in this process; accuracies are those of five folds, the same for the baseline.
Prints a table and writes a JSON file.
"""

import os

# Before scikit-learn is imported: every figure is of one core.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import datasets
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline, make_union
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from benchmarks import machine, report
from benchmarks.bench import Figure
from benchmarks.intents import corpus
from loopai_common.contracts.generation import GenerationRequest
from loopai_common.contracts.tasks import Example
from loopai_generator.domain import LabelledText, Learned, identity
from loopai_generator.learners.choice import learn
from loopai_generator.learners.folds import FOLDS, fold_of
from tests.support.flowers import objects_request
from tests.support.sms import generation_request, load, messages

RESULTS = Path(__file__).with_name("results")
_INTENTS = 10_000
_TRAINED_ON = 3000
_CALLS = 5000
_KB = 1024


@dataclass(frozen=True, slots=True)
class Measured:
    """What was learned, and what it took: CPU seconds to learn and to load, CPU microseconds a call."""

    learned: Learned
    learn_seconds: float
    load_ms: float
    call_us: float


def measure(request: GenerationRequest) -> Measured:
    """Learns as a request with the strategy ``auto`` would, and runs the program on the examples."""
    started = time.process_time()
    learned = learn(request)
    learned_at = time.process_time()
    run = load(learned.code)
    loaded_at = time.process_time()
    inputs = [example.input for example in request.examples][:_CALLS]
    repeats = max(1, _CALLS // len(inputs))
    called = time.process_time()
    for _ in range(repeats):
        for value in inputs:
            run(value)
    call_us = (time.process_time() - called) / (repeats * len(inputs)) * 1e6
    return Measured(learned, learned_at - started, (loaded_at - learned_at) * 1000, call_us)


def texts() -> Iterator[Figure]:
    """Text to label: real messages of two labels, made-up questions of 77."""
    sms = messages()
    yield from _about("sms", generation_request(sms), _text_baseline(sms))
    request = generation_request(sms[:_TRAINED_ON])
    yield Figure("sms", f"learn {_TRAINED_ON} messages", measure(request).learn_seconds, "s", "one core; bar 10")
    questions = tuple(Example(input={"text": text}, output=label) for text, label in corpus(_INTENTS))
    request = generation_request(questions, output_schema={"type": "string"})
    yield from _about("77 intents", request, _text_baseline(questions))


def objects() -> Iterator[Figure]:
    """Objects to a label or a number, on the data that scikit-learn ships."""
    for name in ("iris", "wine", "breast_cancer"):
        data = getattr(datasets, f"load_{name}")()
        yield from _object_figures(name, data, [str(data.target_names[target]) for target in data.target], "string")
    data = datasets.load_diabetes(scaled=False)
    yield from _object_figures("diabetes", data, [float(target) for target in data.target], "number")


def _object_figures(name: str, data: Any, outputs: Sequence[Any], kind: str) -> Iterator[Figure]:
    rows = [dict(zip(map(str, data.feature_names), map(float, row), strict=True)) for row in data.data]
    examples = tuple(Example(input=row, output=output) for row, output in zip(rows, outputs, strict=True))
    numbers = kind == "number"
    models: list[Callable[[], Any]] = (
        [lambda: DecisionTreeRegressor(random_state=0), lambda: GradientBoostingRegressor(random_state=0), Ridge]
        if numbers
        else [lambda: DecisionTreeClassifier(random_state=0), lambda: GradientBoostingClassifier(random_state=0)]
    )
    folds = _folds(examples, data.target)
    baselines = {}
    for model in models:
        answers = np.zeros(len(examples))
        for fold in range(FOLDS):
            known = folds != fold
            answers[~known] = model().fit(data.data[known], data.target[known]).predict(data.data[~known])
        baselines[type(model()).__name__] = _r2(answers, data.target) if numbers else np.mean(answers == data.target)
    yield from _about(name, objects_request(examples, output=kind), baselines)


def _text_baseline(examples: Sequence[Example]) -> dict[str, float]:
    held = [example.input["text"] if isinstance(example.input, dict) else "" for example in examples]
    labels = np.array([str(example.output) for example in examples])
    folds = _folds(examples, labels)
    passed = 0
    for fold in range(FOLDS):
        model = make_pipeline(
            make_union(TfidfVectorizer(ngram_range=(1, 2)), TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5))),
            LinearSVC(random_state=0),
        )
        known = np.flatnonzero(folds != fold)
        unknown = np.flatnonzero(folds == fold)
        model.fit([held[position] for position in known], labels[known])
        passed += int(np.sum(model.predict([held[position] for position in unknown]) == labels[unknown]))
    return {"LinearSVC on TF-IDF": passed / len(examples)}


def _about(name: str, request: GenerationRequest, baselines: dict[str, float]) -> Iterator[Figure]:
    result = measure(request)
    learned = result.learned
    count = f"{learned.learner}, {len(request.examples)} examples"
    beside = ", ".join(f"{model} {value:.4f}" for model, value in baselines.items())
    if "r2" in learned.figures:
        yield Figure(name, "R2 x 100", 100 * learned.confidence, "%", f"{count}; {beside}")
        error = learned.figures["mean_absolute_error"]
        yield Figure(name, "mean absolute error", float(str(error)), "", count)
    else:
        yield Figure(name, "accuracy", 100 * learned.confidence, "%", f"{count}; {beside}")
    yield Figure(name, "learn", result.learn_seconds, "s", "one core, cross-validation included")
    yield Figure(name, "program", len(learned.code.encode()) / _KB, "KiB")
    yield Figure(name, "load", result.load_ms, "ms", "in process")
    yield Figure(name, "call", result.call_us, "µs", "CPU, in process")


def _folds(examples: Sequence[Example], targets: Any) -> Any:
    """The learner's own folds, so that the baseline is judged on the same."""
    order = {target: position for position, target in enumerate(sorted(set(targets.tolist())))}
    keys = [
        str(held["text"]) if isinstance(held, dict) and "text" in held else identity(held)
        for held in (example.input for example in examples)
    ]
    return np.array(
        fold_of([LabelledText(key, order[target]) for key, target in zip(keys, targets.tolist(), strict=True)])
    )


def _r2(answers: Any, targets: Any) -> float:
    return 1 - float(np.sum((answers - targets) ** 2) / np.sum((targets - targets.mean()) ** 2))


def main() -> None:
    """Measures everything; takes about two minutes."""
    load_average = machine.load_average()
    figures = []
    for part in (texts, objects):
        for figure in part():
            print(f"{figure.scenario}: {report.one_line(figure)}", flush=True)
            figures.append(figure)
    report.print_report([], figures)
    print(f"Written to {report.write_report([], figures, RESULTS, seconds=0.0, load_average=load_average)}")


if __name__ == "__main__":
    main()
