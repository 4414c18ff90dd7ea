"""``json_text.check`` decides as ``json_text.loads`` does."""

import json

from loopai_common import json_text
from loopai_common.errors import MalformedJson
from tests.fuzz.invariants import require

SEEDS = (
    b'{"input": {"text": "free entry", "n": [1, -2.5e3, true, null]}}',
    b'{"a": 1, "a": 2}',
    rb'{"a": 1, "a": "\u003a"}',
    b'{"a" : {"b":":", "\\u0061": "\\ud83d\\ude00"}}',
    rb'"\ud800"',
    rb'{"a\":":1,"a\"":2}',
    b"[NaN, Infinity, 1e999, -0]",
    b"[" * 1200,
    b"[" * 450 + b"]" * 450,
    b'{"a":[' * 240 + b"1" + b"]}" * 240,
    b'"\xff"',
    b"\xef\xbb\xbf1",
    b"1" * 4400,
    b"[1] 2",
)
DICTIONARY = (
    b'":',
    b'" :',
    b"\\u",
    b"\\u003a",
    b"\\ud800",
    b"NaN",
    b"1e999",
    b"-Infinity",
    b'{"',
    b'"}',
    b"[[[[",
    b"]]]]",
    b"\xef\xbb\xbf",
)


_TOO_DEEP = "the value is nested too deeply"


def fuzz(data: bytes) -> None:
    """Both refuse with the same words, or both accept, and what is accepted is JSON that can be written again.

    How deep is too deep depends on the stack of the caller, so what is close to it may be refused by one of them only.
    """
    value, refusal = None, ""
    try:
        value = json_text.loads(data)
    except MalformedJson as error:
        refusal = error.message
    checked = ""
    try:
        json_text.check(data)
    except MalformedJson as error:
        checked = error.message
    if _TOO_DEEP in (refusal, checked):
        return
    require(checked == refusal, f"check decides as loads does: {checked!r}, {refusal!r}")
    if not refusal:
        again = json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
        require(json_text.loads(again) == value, "what was accepted can be written and read again")
