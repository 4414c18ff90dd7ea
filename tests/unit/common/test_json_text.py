"""Strict JSON."""

import contextlib
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopai_common import json_text
from loopai_common.errors import MalformedJson


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "Expecting value"),
        (b'{"a": 1', "Expecting"),
        (b'{"a": 1} x', "Extra data"),
        (b'"a\nb"', "control character at character 2"),
        (b'{"a": NaN}', "not JSON"),
        (b"[Infinity, -Infinity]", "not JSON"),
        (b'{"a": 1e999}', "out of range"),
        (b'{"a": 1, "a": 2}', "same key twice"),
        (b'{"a": {"b": 1, "b": 1}}', "same key twice"),
        (rb'{"a": 1, "a": "\u003a"}', "same key twice"),
        (rb'{"a": ":", "a": "\u003A:"}', "same key twice"),
        (b"[" * 100_000, "nested too deeply"),
        (b"9" * 5_000, "too many digits"),
        (rb'"\ud800"', "lone surrogate"),
        (rb'{"\uDFFF": 1}', "lone surrogate"),
        ('{"a": 1}'.encode("utf-16"), "UTF-8"),
        (b'"\xff"', "UTF-8"),
        (b'\xef\xbb\xbf{"a": 1}', "Expecting value"),
    ],
)
def test_refuses_what_python_would_let_through(body: bytes, reason: str) -> None:
    with pytest.raises(MalformedJson, match=reason):
        json_text.loads(body)

    with pytest.raises(MalformedJson, match=reason):
        json_text.check(body)


@pytest.mark.parametrize("depth", [100, 500, 700, 900, 950])
@pytest.mark.parametrize(("opens", "closes"), [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"a":', b"}]")])
def test_nesting_of_any_depth_is_either_accepted_or_refused(depth: int, opens: bytes, closes: bytes) -> None:
    body = opens * depth + b"1" + closes * depth
    for read in (json_text.loads, json_text.check):
        with contextlib.suppress(MalformedJson):
            read(body)


@given(
    st.lists(
        st.sampled_from(
            ["{", "}", "[", "]", ",", ":", '"a"', '"b"', '"\\":"', " ", "\n", "1", "null", "1e400", '"\\ud800"']
        )
    ).map("".join)
    | st.recursive(
        st.sampled_from(["1", '"x"', '"\\":"', '"a:b"']),
        lambda inner: st.lists(
            st.tuples(st.sampled_from(['"a"', '"b"', '"\\""', '"a" ']), inner).map(":".join), max_size=3
        ).map(lambda pairs: "{" + ",".join(pairs) + "}"),
        max_leaves=8,
    )
)
def test_the_quick_check_decides_as_the_slow_one(text: str) -> None:
    def outcome(function: Callable[[bytes], Any]) -> str | None:
        try:
            function(text.encode())
        except MalformedJson as error:
            return error.message
        return None

    assert outcome(json_text.check) == outcome(json_text.loads)


def test_message_never_repeats_the_content() -> None:
    with pytest.raises(MalformedJson) as caught:
        json_text.loads(b'{"secret-canary": ')
    assert "canary" not in caught.value.message


def test_a_surrogate_pair_is_one_character() -> None:
    assert json_text.loads(rb'"\ud83d\ude00"') == "😀"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=20,
    )
)
def test_reads_back_whatever_json_can_carry(value: Any) -> None:
    try:
        body = json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return
    assert json_text.loads(body) == value


@pytest.mark.parametrize("depth", [100, 500, 900, 980, 2_000, 100_000])
def test_nesting_is_read_or_refused_and_nothing_else(depth: int) -> None:
    for function in (json_text.check, json_text.loads):
        for text in ("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth):
            with suppress(MalformedJson):
                function(text.encode())
