"""What is sampled, what is kept of it, and that none of it holds anybody up."""

import asyncio
import json
import sys
from typing import Any

import msgspec
import pytest

from loopai_common.contracts.execution import (
    EncodedRecord,
    ExecutionError,
    ExecutionPage,
    ExecutionRecord,
    RecordStatus,
)
from loopai_common.contracts.frames import AnswerKind
from loopai_common.errors import BusUnavailable
from loopai_common.identifiers import new_id
from loopai_executor.domain import Counts, error_payload
from loopai_executor.recording import NULL, Recorder, encode_record
from tests.support.sandbox import program

PROGRAM = program("", task="01938f5e-3a6b-7c4d-9e1f-2a3b4c5d6e7f", version=3)


class Published:
    """A publisher that keeps what it is given, once ``open`` is set."""

    def __init__(self) -> None:
        self.records: list[EncodedRecord] = []
        self.open = asyncio.Event()
        self.open.set()
        self.away = False

    async def publish(self, record: EncodedRecord) -> None:
        await self.open.wait()
        if self.away:
            raise BusUnavailable("not connected")
        self.records.append(record)


class Bench:
    """A recorder with its publisher, its counts and a clock that stands still."""

    def __init__(self, max_per_second: int = 50) -> None:
        self.now = 100.0
        self.counts = Counts()
        self.published = Published()
        self.recorder = Recorder(self.published, self.counts, max_per_second=max_per_second, clock=lambda: self.now)

    def record(self, value: bytes = b"1", output: bytes = b"2", **changes: Any) -> None:
        values: dict[str, Any] = {
            "execution_id": new_id(),
            "correlation_id": "",
            "value": msgspec.Raw(value),
            "kind": AnswerKind.SUCCESS,
            "payload": msgspec.Raw(output),
            "latency_us": 1500,
        }
        self.recorder.record(PROGRAM, **values | changes)


def encoded(value: bytes, output: bytes = b"null", limit: int = 1 << 20) -> Any:
    record = EncodedRecord(
        id=new_id(),
        input=msgspec.Raw(value),
        output=msgspec.Raw(output),
        status=RecordStatus.SUCCESS,
        executed_at="2026-01-05T09:00:00.000Z",
        correlation_id="c",
    )
    return json.loads(encode_record(record, limit))


class TestTheBucket:
    async def test_a_burst_is_bounded_and_refills_with_time(self) -> None:
        bench = Bench(max_per_second=10)
        assert [bench.recorder.admits() for _ in range(12)] == [True] * 10 + [False] * 2
        bench.now += 0.35
        assert [bench.recorder.admits() for _ in range(5)] == [True] * 3 + [False] * 2
        bench.now += 1000
        assert sum(bench.recorder.admits() for _ in range(50)) == 10
        assert bench.counts.records_dropped["rate"] == 2 + 2 + 40

    async def test_none_a_second_means_none(self) -> None:
        bench = Bench(max_per_second=0)
        bench.now += 3600
        assert not bench.recorder.admits()


class TestTheQueue:
    async def test_a_record_says_what_ran_and_how_it_ended(self) -> None:
        bench = Bench()
        execution_id = new_id()
        bench.record(b'{"text":"x"}', b'"spam"', execution_id=execution_id, correlation_id="c1")
        await bench.recorder.close()
        (record,) = bench.published.records
        assert (record.id, record.correlation_id) == (execution_id, "c1")
        assert (record.task_id, record.program_id, record.version) == (PROGRAM.task_id, PROGRAM.program_id, 3)
        assert (bytes(record.input), bytes(record.output)) == (b'{"text":"x"}', b'"spam"')
        assert (record.status, record.latency_ms, record.sampled_for_validation) == ("success", 1.5, True)
        assert (record.memory_usage_mb, record.validation_id, record.error_code) == (None, None, None)
        assert bench.counts.records_published == 1

    @pytest.mark.parametrize(
        ("kind", "error", "status"),
        [
            (AnswerKind.ERROR, ExecutionError.RAISED, "error"),
            (AnswerKind.TIMEOUT, ExecutionError.TIME, "timeout"),
        ],
    )
    async def test_a_failure_keeps_its_reason_and_has_no_output(
        self, kind: AnswerKind, error: ExecutionError, status: str
    ) -> None:
        bench = Bench()
        bench.record(kind=kind, payload=error_payload(error, "it went wrong"))
        await bench.recorder.close()
        (record,) = bench.published.records
        assert (record.status, record.error_code, record.error_message) == (status, error, "it went wrong")
        assert bytes(record.output) == b"null"

    async def test_what_never_ran_is_not_recorded(self) -> None:
        bench = Bench()
        bench.record(kind=AnswerKind.REFUSED, payload=msgspec.Raw(b"{}"))
        await bench.recorder.close()
        assert bench.published.records == []

    async def test_an_id_that_is_none_is_replaced_and_an_empty_correlation_id_is_the_id(self) -> None:
        bench = Bench()
        bench.record(execution_id="mine")
        await bench.recorder.close()
        (record,) = bench.published.records
        assert len(record.id) == 36
        assert record.correlation_id == record.id

    async def test_slices_do_not_keep_their_frames_in_memory(self) -> None:
        bench = Bench()
        frame = b'["x", "' + b"y" * 1000 + b'"]'
        before = sys.getrefcount(frame)
        value = msgspec.json.decode(frame, type=list[msgspec.Raw])[0]
        assert sys.getrefcount(frame) > before, "a slice does"
        bench.recorder.record(PROGRAM, new_id(), "", value, AnswerKind.SUCCESS, value, 1)
        del value
        assert sys.getrefcount(frame) == before
        await bench.recorder.close()
        assert bytes(bench.published.records[0].input) == b'"x"'

    async def test_what_does_not_fit_is_dropped_and_counted_at_once(self) -> None:
        bench = Bench()
        bench.published.open.clear()
        for _ in range(1200):
            bench.record()
        assert bench.counts.records_dropped["queue"] == 200
        bench.published.open.set()
        await bench.recorder.close()
        assert len(bench.published.records) == bench.counts.records_published == 1000

    async def test_large_records_fill_the_queue_by_their_bytes(self) -> None:
        bench = Bench()
        bench.published.open.clear()
        for _ in range(40):
            bench.record(value=b'"' + b"x" * (1 << 20) + b'"')
        assert bench.counts.records_dropped["queue"] == 40 - 15
        bench.published.open.set()
        await bench.recorder.close()
        bench.record()
        await bench.recorder.close()
        assert len(bench.published.records) == 16

    async def test_a_bus_that_is_away_costs_records_and_nothing_else(self) -> None:
        bench = Bench()
        bench.published.away = True
        bench.record()
        await bench.recorder.close()
        assert bench.counts.records_dropped["bus"] == 1
        bench.published.away = False
        bench.record()
        await bench.recorder.close()
        assert len(bench.published.records) == 1

    async def test_closing_a_recorder_that_never_recorded_is_nothing(self) -> None:
        await Bench().recorder.close()


class TestEncoding:
    def test_input_and_output_keep_their_own_text(self) -> None:
        record = EncodedRecord(
            id=new_id(),
            input=msgspec.Raw(b'{"b": 1.50, "a":  10000000000000000000000}'),
            output=msgspec.Raw(b"[ 1 ]"),
            status=RecordStatus.SUCCESS,
            executed_at="2026-01-05T09:00:00.000Z",
            correlation_id="c",
        )
        body = encode_record(record, 1 << 20)
        assert b'"input":{"b": 1.50, "a":  10000000000000000000000},"output":[ 1 ]' in body
        assert ExecutionRecord.model_validate_json(body).output == [1]

    @pytest.mark.parametrize(
        "value",
        [b'"\xff"', b'"\\ud800"', b"9" * 5000, b"[" * 400 + b"]" * 400, b"{not json"],
        ids=["encoding", "surrogate", "digits", "nesting", "garbage"],
    )
    def test_what_no_reader_could_decode_is_left_out(self, value: bytes) -> None:
        assert encoded(value, b"7")["input"] is None
        assert encoded(value, b"7")["output"] == 7
        assert encoded(b"7", value)["output"] is None

    def test_the_deepest_value_that_is_kept_can_be_read_in_a_page(self) -> None:
        depth = max(n for n in range(100, 300) if encoded(b"[" * n + b"]" * n)["input"] is not None)
        assert depth >= 150
        record = ExecutionRecord.model_validate(
            {**encoded(b"[" * depth + b"]" * depth), "correlation_id": "c", "program_id": "p"}
        )
        page = ExecutionPage(items=(record,)).model_dump_json()
        assert ExecutionPage.model_validate_json(page).items == (record,)

    def test_a_record_that_is_too_large_leaves_out_both(self) -> None:
        value = encoded(b'"' + b"x" * 1000 + b'"', b"7", limit=800)
        assert (value["input"], value["output"], value["status"]) == (None, None, "success")

    def test_the_two_forms_of_a_record_have_the_same_fields(self) -> None:
        assert EncodedRecord.__struct_fields__ == tuple(ExecutionRecord.model_fields)
        assert encoded(bytes(NULL)).keys() == ExecutionRecord.model_fields.keys()
