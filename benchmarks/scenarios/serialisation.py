"""Micro-benchmarks of what each request is decoded and encoded by."""

import time
import timeit
from collections.abc import Callable, Iterator

import msgspec

from benchmarks.bench import Bench, Figure
from loopai_api.execution.rendering import Origin, render_execution, timestamp_now
from loopai_api.execution.requests import parse_execute
from loopai_common import json_text
from loopai_common.contracts.frames import (
    FRAME_FORMAT,
    AnswerKind,
    Frame,
    FrameAnswerGroup,
    FrameGroup,
    FramePart,
)

NAME = "serialisation"

_ITEMS = 64
_ID = "01938f5e-3a6b-7c4d-9e1f-2a3b4c5d6e7f"
_INPUT = b'{"text":"Free entry in 2 a wkly comp to win FA Cup final tkts 21st May 2005. Text FA to 87121"}'
_BODY = b'{"input":' + _INPUT + b"}"
_REPEATS = 5


def run(bench: Bench) -> Iterator[Figure]:
    """The best of five runs of each, in microseconds a request."""
    output = msgspec.Raw(b'"spam"')
    frame = Frame(FRAME_FORMAT, [FrameGroup(_ID, 0, 1000, [_ID] * _ITEMS, [msgspec.Raw(_INPUT)] * _ITEMS)])
    answers = FrameAnswerGroup(_ID, _ID, 1, AnswerKind.SUCCESS, 7, False, list(range(_ITEMS)), [output] * _ITEMS)
    part = FramePart(FRAME_FORMAT, [answers])
    encode = msgspec.json.Encoder().encode
    frame_bytes, part_bytes = encode(frame), encode(part)
    decode_frame, decode_part = msgspec.json.Decoder(Frame).decode, msgspec.json.Decoder(FramePart).decode
    origin = Origin(answers, time.perf_counter(), timestamp_now())
    measured: list[tuple[str, Callable[[], object], int]] = [
        ("parse_execute", lambda: parse_execute(_BODY, _ID), 1),
        ("json_text.check", lambda: json_text.check(_BODY), 1),
        ("json_text.loads", lambda: json_text.loads(_BODY), 1),
        ("render_execution", lambda: render_execution(origin, output, _ID, None, "spam"), 1),
        ("encode a frame", lambda: encode(frame), _ITEMS),
        ("decode a frame", lambda: decode_frame(frame_bytes), _ITEMS),
        ("encode a part", lambda: encode(part), _ITEMS),
        ("decode a part", lambda: decode_part(part_bytes), _ITEMS),
    ]
    for name, call, items in measured:
        timer = timeit.Timer(call)
        number, _ = timer.autorange()
        best = min(timer.repeat(_REPEATS, number)) / number / items * 1e6
        note = f"{len(_BODY)}-byte body" if items == 1 else f"an item, of {items}"
        yield Figure(NAME, name, best, "µs", note)
