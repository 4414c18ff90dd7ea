"""What is taken for a program. The answers of real models are in ``tests/data/openai_answers``."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loopai_common.contracts.artifacts import MAX_CODE_BYTES
from loopai_generator.language_model.extraction import NoProgram, check_program, extract_program

PROGRAM = "def run(input):\n    return 1\n"


FUNCTIONS = {
    "decorated": """
from functools import lru_cache

@lru_cache
def run(input, *, strict=False):
    return strict
""",
    "with any arguments": """
def run(*values):
    return values[0]
""",
    "with a default": """
def run(input, limit=3):
    return input[:limit]
""",
    "lambda": """
run = lambda input: input
""",
    "with dotted imports": """
import os.path as p, urllib.parse

def run(input):
    return p.join(urllib.parse.quote(input))
""",
    "with all of a module": """
from math import *

def run(input):
    return sqrt(input)
""",
    "that handles an error": """
def run(input):
    try:
        return int(input)
    except ValueError as error:
        return str(error)
""",
    "that matches patterns": """
def run(input):
    match input:
        case [first, *rest]:
            return first, rest
        case {"a": a, **others}:
            return a, others
        case other:
            return other
""",
    "that names a value": """
def run(input):
    if (n := len(input)) > 1:
        return [x for x in input if __name__]
    return n
""",
    "that calls what comes later": """
def run(input):
    return helper(input)

def helper(value):
    global CACHE
    CACHE = value
    return CACHE
""",
    "that binds names by hand": """
globals()["table"] = {}

def run(input):
    return table.get(input)
""",
}


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_function_is_accepted(kind: str) -> None:
    code = FUNCTIONS[kind].lstrip()
    assert check_program(code).code == code


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("", "defines no function"),
        ("def walk(input):\n    return 1\n", "defines no function"),
        ("if True:\n    def run(input):\n        return 1\n", "defines no function"),
        ("def run():\n    return 1\n", "exactly one argument"),
        ("def run(a, b):\n    return 1\n", "exactly one argument"),
        ("def run(a, *, b):\n    return 1\n", "exactly one argument"),
        ("class run:\n    pass\n", "not a class"),
        ("def run(input):\n\treturn 1\n        return 2\n", "does not parse"),
        ("def run(input):\n    return re.sub('a', '', input)\n", "nor imports: re"),
        ("(" * 100_000, "does not parse"),
        (f"X = '{'x' * MAX_CODE_BYTES}'\n{PROGRAM}", "longer than"),
    ],
)
def test_program_is_refused_with_the_reason(code: str, problem: str) -> None:
    with pytest.raises(NoProgram, match=problem):
        check_program(code)


PARTS = ("```", "```python\n", "~~~", "\n", "<think>", "</think>", PROGRAM, "def run(", "It's", "    ", "\r", "\x00")
ANSWERS = st.lists(st.sampled_from([*PARTS, "\ud800"]) | st.text(max_size=20), max_size=30).map("".join)


@given(ANSWERS)
@settings(deadline=None)
def test_any_answer_gives_a_program_that_compiles_or_a_reason(answer: str) -> None:
    try:
        code = extract_program(answer).code
    except NoProgram:
        return
    compile(code, "<program>", "exec")


@given(st.text(alphabet="abc `~\n#*", max_size=200).filter(lambda text: "```" not in text and "~~~" not in text))
@settings(deadline=None)
def test_a_fenced_program_is_found_behind_any_prose(prose: str) -> None:
    assert extract_program(f"{prose}\n```python\n{PROGRAM}```\n{prose}").code == PROGRAM


def test_a_long_answer_without_a_program_is_read_in_reasonable_time() -> None:
    with pytest.raises(NoProgram):
        extract_program("def is a word.\n\nIt's " * 50_000)
