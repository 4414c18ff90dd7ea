"""Properties of string programs: what the language can say is found again from examples of it."""

import string
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loopai_generator.domain import CannotLearn
from loopai_generator.learners.strings.learner import find
from loopai_generator.learners.strings.operations import read_date
from loopai_generator.learners.strings.task import read_string_task
from loopai_generator.learners.strings.writing import write
from tests.support.sms import load
from tests.support.string_tasks import pairs, string_request

SHOWN = 8
ROWS = 20

Part = Callable[[list[str]], str]

SLOW = settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def words(minimum: int = 3) -> st.SearchStrategy[str]:
    return st.text(string.ascii_letters, min_size=minimum, max_size=8)


rows = st.lists(
    st.tuples(words(), words(), st.integers(100, 99_999).map(str), st.dates().map(lambda day: day.isoformat())).map(
        list
    ),
    min_size=ROWS,
    max_size=ROWS,
    unique_by=(lambda row: row[0].lower()[:3], lambda row: row[1].lower()[:3], lambda row: row[2]),
)
parts: st.SearchStrategy[Part] = st.sampled_from(
    [
        lambda row: row[0],
        lambda row: row[1].upper(),
        lambda row: row[0].lower(),
        lambda row: row[1].capitalize(),
        lambda row: row[0][:1],
        lambda row: row[1][:3],
        lambda row: row[0][-2:],
        lambda row: row[2],
        lambda row: row[2].zfill(6),
        lambda row: row[3],
        lambda row: read_date(row[3], 0, day_first=True).strftime("%d.%m.%Y"),
        lambda row: read_date(row[3], 0, day_first=True).strftime("%B"),
    ]
)
separators = st.sampled_from([", ", " ", ";", " | ", "/"])
glue = st.sampled_from(["-", " ", ": ", " (x) ", "_", "/"])


def program_for(examples: list[list[Any]]) -> Callable[[Any], Any]:
    task = read_string_task(string_request(pairs(examples)))
    return load(write(find(task, range(len(examples))), task, None))


@SLOW
@given(rows, st.lists(parts, min_size=1, max_size=3), separators, glue)
def test_concatenations_are_recovered(table: list[list[str]], chosen: list[Part], separator: str, between: str) -> None:
    examples = [[separator.join(row), between.join(part(row) for part in chosen)] for row in table]
    run = program_for(examples[:SHOWN])
    assert [run(given_) for given_, _ in examples[:SHOWN]] == [expected for _, expected in examples[:SHOWN]]
    right = sum(run(given_) == expected for given_, expected in examples[SHOWN:])
    assert right >= ROWS - SHOWN - 1, examples


@SLOW
@given(rows, st.lists(parts, min_size=2, max_size=3), separators)
def test_objects_are_recovered(table: list[list[str]], chosen: list[Part], separator: str) -> None:
    examples = [[separator.join(row), {f"p{n}": part(row) for n, part in enumerate(chosen)}] for row in table]
    run = program_for(examples[:SHOWN])
    assert sum(run(given_) == expected for given_, expected in examples[SHOWN:]) >= ROWS - SHOWN - 1


@SLOW
@given(st.lists(st.lists(words(), min_size=1, max_size=5), min_size=3, max_size=7), st.sampled_from([",", "; ", " | "]))
def test_arrays_are_recovered(table: list[list[str]], separator: str) -> None:
    shown = [["Alpha", "BETA", "gamma"], ["Delta", "EPSILON"], *table]
    run = program_for([[separator.join(row), [word.lower() for word in row]] for row in shown])
    assert run(separator.join(["One", "TWO"])) == ["one", "two"]


@SLOW
@given(st.lists(st.tuples(st.text(max_size=12), st.text(max_size=6)), min_size=3, max_size=6))
def test_a_program_reproduces_its_examples_or_there_is_none(examples: list[tuple[str, str]]) -> None:
    try:
        run = program_for([list(example) for example in examples])
    except CannotLearn:
        return
    assert [run(given_) for given_, _ in examples] == [expected for _, expected in examples]


@SLOW
@given(st.text(max_size=40))
def test_programs_answer_any_text(text: str) -> None:
    run = program_for([["Ada L 1.5 2024-01-02", "L"], ["Bob M 2 2023-05-06", "M"], ["Cy N 77 1999-12-31", "N"]])
    assert isinstance(run(text), (str, type(None)))
