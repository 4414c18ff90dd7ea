"""Reading examples from files' text, and what follows from them."""

import json
from pathlib import Path

import pytest

from loopai_client.examples import labels_schema, parse_json, parse_tsv, read_examples


def written(directory: Path, name: str, text: str) -> Path:
    path = directory / name
    path.write_text(text, encoding="utf-8")
    return path


def test_jsonl_skips_blank_lines_and_keeps_line_separators_within_strings(tmp_path: Path) -> None:
    lines = '{"input": "a\u2028b", "output": 1}\n\n{"input": 2, "output": null}\n'
    assert read_examples(written(tmp_path, "e.jsonl", lines)) == [
        {"input": "a\u2028b", "output": 1},
        {"input": 2, "output": None},
    ]


def test_json_list(tmp_path: Path) -> None:
    examples = [{"input": 1, "output": 2}]
    assert read_examples(written(tmp_path, "e.JSON", json.dumps(examples))) == examples


def test_tsv_keeps_further_tabs_in_the_text() -> None:
    assert list(parse_tsv("ham\ta\tb\r\n")) == [{"input": {"text": "a\tb"}, "output": "ham"}]


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("e.jsonl", '{"input": 1}', "line 1 is not"),
        ("e.jsonl", '{"input": 1, "output": 2, "more": 3}', "line 1 is not"),
        ("e.jsonl", '{"input": NaN, "output": 2}', "NaN is no JSON number"),
        ("e.json", '{"input": 1, "output": 2}', "not a list"),
        ("e.json", "[3]", "example 1 is not"),
        ("e.tsv", "ham\tx\nno tab here", "line 2 is not a label"),
        ("e.csv", "a,b", "unknown kind of file"),
    ],
)
def test_bad_file_says_what_is_wrong_and_where(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        read_examples(written(tmp_path, name, text))


def test_absurd_nesting_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json("[" * 100_000)


def test_labels_are_the_distinct_outputs_in_order() -> None:
    examples = [{"input": 0, "output": label} for label in ("spam", "ham", "spam")]
    assert labels_schema(examples) == {"type": "string", "enum": ["ham", "spam"]}


@pytest.mark.parametrize("outputs", [[], [1, 2], ["a", None], [str(number) for number in range(51)]])
def test_other_outputs_are_no_labels(outputs: list[object]) -> None:
    assert labels_schema([{"input": 0, "output": output} for output in outputs]) is None
