"""Lines in bytes, events in lines, items in windows."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopai_client.calls import BatchWindow, StreamedBatch
from loopai_client.framing import MAX_WINDOW_BYTES, EventLines, Lines, Windows, encode_json
from loopai_client.models import BatchItem, TaskEvent
from tests.support.api_bodies import batch_line


class Clock:
    """Time as the test says."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def lines_of(data: bytes, cuts: list[int]) -> list[bytes]:
    """The lines of ``data``, cut into chunks."""
    framer = Lines()
    found: list[bytes] = []
    bounds = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for begin, end in pairwise(bounds):
        found += framer.feed(data[begin:end])
    return found


@given(st.lists(st.binary(max_size=20).map(lambda line: line.replace(b"\n", b""))), st.lists(st.integers(min_value=0)))
def test_lines_come_whole_however_the_bytes_come(lines: list[bytes], cuts: list[int]) -> None:
    assert lines_of(b"".join(line + b"\n" for line in lines), cuts) == lines


def test_separators_within_json_end_no_line() -> None:
    text = json.dumps("a\u2028b\u0085c\x0bd", ensure_ascii=False).encode()
    assert lines_of(text + b"\n", [3, 5]) == [text]


def test_events_are_read_as_the_standard_says() -> None:
    text = (
        b": hello\n\nretry: 250\nid: 7\nevent: artifact.activated\r\n"
        b'data: {"version":\ndata: 2}\n\n'
        b'data:{"a":1}\nunknown: x\n\nid\ndata: 3\n\nevent: without-data\n\n'
    )
    reader = EventLines()
    events = [event for line in lines_of(text, [10, 50]) if (event := reader.feed(line))]
    assert events == [
        TaskEvent("artifact.activated", {"version": 2}, "7"),
        TaskEvent("message", {"a": 1}, "7"),
        TaskEvent("message", 3, None),
    ]
    assert reader.retry_seconds == 0.25


def test_event_that_was_cut_off_leaves_nothing_behind() -> None:
    reader = EventLines("6")
    for line in (b"event: task", b"data: 1"):
        assert reader.feed(line) is None
    reader.reconnected()
    assert reader.feed(b"data: 2") is None
    assert reader.feed(b"") == TaskEvent("message", 2, "6")


def test_windows_are_bounded_in_bytes() -> None:
    windows, half = Windows(Clock()), b"y" * (MAX_WINDOW_BYTES // 2)
    closed = [window for line in (half, half, half, half * 8, b"z") for window in windows.add(line)]
    assert closed == [[half, half], [half], [half * 8]]  # one that is too large alone goes alone
    assert list(windows.rest()) == [[b"z"]]
    assert list(windows.rest()) == []


def test_slow_source_gets_its_results_while_it_goes_on() -> None:
    clock = Clock()
    windows = Windows(clock)
    assert list(windows.add(b"1")) == []
    clock.now += 1
    assert list(windows.add(b"2")) == [[b"1", b"2"]]


def test_time_that_a_window_takes_does_not_close_the_next_one() -> None:
    clock = Clock()
    windows = Windows(clock)
    assert list(windows.add(b"x" * MAX_WINDOW_BYTES)) == []
    for _ in windows.add(b"y"):
        clock.now += 10
    assert list(windows.add(b"z")) == []


def test_streamed_batch_numbers_its_items_over_all_windows() -> None:
    streamed = StreamedBatch("a task", {"version": 2, "timeout_ms": None})
    items = [BatchItem("é"), BatchItem(2, id="mine"), BatchItem(3, force_validation=True)]
    lines = [streamed.line(item) for item in items]
    assert [json.loads(line) for line in lines] == [
        {"id": "1", "input": "é"},
        {"id": "mine", "input": 2},
        {"id": "3", "input": 3, "force_validation": True},
    ]
    first, second = streamed.window(lines[:2]), streamed.window(lines[2:])
    assert first.call().path == "/api/v1/tasks/a%20task/execute/batch"
    assert first.call().params == {"version": "2"}
    assert [_number(first, 1), _number(first, 2), _number(second, 1)] == [1, 2, 3]


def test_window_that_broke_off_goes_on_with_what_was_not_answered() -> None:
    window = StreamedBatch("t", {}).window([b"1\n", b"2\n", b"3\n"])
    assert _number(window, 1) == 1
    assert window.call().content == b"2\n3\n"
    assert (_number(window, 1), _number(window, 2), window.finished) == (2, 3, True)
    with pytest.raises(ValueError, match="more results"):
        window.feed(encode_json(batch_line(3)))


def test_json_is_compact_utf8_and_strict() -> None:
    assert encode_json({"a": ["é", None]}) == '{"a":["é",null]}'.encode()
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode_json(float("nan"))


def _number(window: BatchWindow, line: int) -> int:
    result = window.feed(encode_json(batch_line(line)))
    assert result is not None
    return result.line
