"""``python -m benchmarks.string_programs``: what the search for string programs solves, and what its programs cost.

Runs over the corpus of transformations (``tests/data/string_tasks.jsonl``). A task is solved when the program that was
found from its shown examples is right on all unseen ones. Seconds are of CPU, cross-validation included. Prints a
table and writes a JSON file.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks import machine, report
from benchmarks.bench import Figure
from loopai_generator.domain import CannotLearn, Learned
from loopai_generator.learners.strings.learner import StringLearner
from tests.support.sms import load
from tests.support.string_tasks import Transformation, pairs, string_request, transformations

NAME = "string_programs"
RESULTS = Path(__file__).with_name("results")
_CALLS = 2000
_MANY = 10_000


def run() -> Iterator[Figure]:
    """The figures, over all tasks of the corpus."""
    seconds, microseconds, sizes, confidences = [], [], [], []
    unsolved = []
    tasks = transformations()
    for task in tasks:
        started = time.process_time()
        learned = _learned(task)
        seconds.append(time.process_time() - started)
        if learned is None or not task.solved_by(learned.code):
            unsolved.append(task.name)
        if learned is not None:
            microseconds.append(_call_us(learned.code, task))
            sizes.append(len(learned.code.encode()))
            confidences.append(learned.confidence)
    shown = median(len(task.shown) for task in tasks)
    yield Figure(NAME, "solved on unseen inputs", 100 - 100 * len(unsolved) / len(tasks), "%", f"{len(tasks)} tasks")
    yield Figure(NAME, "mean confidence", 100 * sum(confidences) / len(tasks), "%", f"median of {shown:g} examples")
    yield Figure(NAME, "time to learn, p50", median(seconds), "s", "CPU, cross-validation included")
    yield Figure(NAME, "time to learn, max", max(seconds), "s", tasks[seconds.index(max(seconds))].name)
    yield Figure(NAME, "call, p50", median(microseconds), "µs", "in process")
    yield Figure(NAME, "call, max", max(microseconds), "µs", "in process")
    yield Figure(NAME, "size of a program, p50", median(sizes), "bytes")
    yield Figure(NAME, "size of a program, max", max(sizes), "bytes")
    yield Figure(NAME, "time to learn from many", _many_seconds(), "s", f"{_MANY} order lines to objects, CPU")
    for name in unsolved:
        print(f"not solved: {name}")


def _learned(task: Transformation) -> Learned | None:
    try:
        return StringLearner().learn(string_request(task.shown, task_name=task.name))
    except CannotLearn:
        return None


def _call_us(code: str, task: Transformation) -> float:
    """CPU microseconds a call, over the unseen inputs in turn."""
    program = load(code)
    inputs = [example.input for example in task.unseen]
    rounds = _CALLS // len(inputs)
    started = time.process_time()
    for _ in range(rounds):
        for value in inputs:
            program(value)
    return (time.process_time() - started) / (rounds * len(inputs)) * 1e6


def _many_seconds() -> float:
    rows = [
        [
            f"{n % 50 + 1} x article {n} @ ${n % 997 / 100:.2f}",
            {"quantity": n % 50 + 1, "item": f"article {n}", "price": n % 997 / 100},
        ]
        for n in range(_MANY)
    ]
    started = time.process_time()
    StringLearner().learn(string_request(pairs(rows)))
    return time.process_time() - started


def main() -> None:
    """Prints the table and writes the file."""
    load_average = machine.load_average()
    figures = []
    for figure in run():
        print(report.one_line(figure), flush=True)
        figures.append(figure)
    print(f"Written to {report.write_report([], figures, RESULTS, seconds=0.0, load_average=load_average)}")


if __name__ == "__main__":
    main()
