"""The check of a program: it runs on examples, and what it makes of them is compared."""

import asyncio
import time
from typing import Any, Final

import msgspec

from loopai_common.contracts.artifacts import MAX_REPORTED_FAILURES, ExampleFailure, Score
from loopai_common.contracts.execution import CheckExample, CheckProgram, CheckReport, ExecutionError
from loopai_common.contracts.failure import Failure
from loopai_common.contracts.frames import AnswerKind
from loopai_common.contracts.tasks import Comparison
from loopai_executor.comparison import equal_outputs, similarity
from loopai_executor.domain import percentile
from loopai_executor.ports import Trial

_MAX_CHECK_TIMEOUTS: Final = 5

_decode_error = msgspec.json.Decoder(tuple[ExecutionError, str]).decode


class Examination:
    """Runs a loaded program on the examples of a check and keeps the score."""

    def __init__(self, trial: Trial, command: CheckProgram, until: float) -> None:
        self._trial = trial
        self._command = command
        self._until = until
        self._passed = {False: 0, True: 0}
        self._total = {False: 0, True: 0}
        self._latencies_ms: list[float] = []
        self._failures: list[ExampleFailure] = []
        self._timeouts = 0

    async def report(self) -> CheckReport:
        """The score of all examples; those that there was no time for count as failed."""
        for example in self._command.examples:
            self._total[example.held_back] += 1
            failure = await self._examine(example)
            if failure is None:
                self._passed[example.held_back] += 1
            elif len(self._failures) < MAX_REPORTED_FAILURES:
                self._failures.append(failure)
        return CheckReport(
            loaded=True,
            shown=self._score(held_back=False),
            held_back=self._score(held_back=True),
            latency_p50_ms=percentile(self._latencies_ms, 0.5),
            latency_p99_ms=percentile(self._latencies_ms, 0.99),
            failures=tuple(self._failures),
        )

    async def _examine(self, example: CheckExample) -> ExampleFailure | None:
        if self._timeouts >= _MAX_CHECK_TIMEOUTS:
            return _failed(example, error=f"not run: the program ran out of time on {self._timeouts} examples before")
        if time.monotonic() > self._until:
            return _failed(example, error="not run: the time for the check was used up")
        value = msgspec.json.encode(example.input)
        kind, payload, seconds = await self._trial.run(value, self._command.timeout_ms)
        self._latencies_ms.append(round(seconds * 1000, 4))
        if kind == AnswerKind.SUCCESS:
            return await self._judge(example, msgspec.json.decode(payload))
        if kind == AnswerKind.REFUSED:
            return _failed(example, error=Failure.model_validate_json(bytes(payload)).message)
        self._timeouts += kind == AnswerKind.TIMEOUT
        code, message = _decode_error(payload)
        return _failed(example, error=f"{code}: {message}")

    async def _judge(self, example: CheckExample, actual: Any) -> ExampleFailure | None:
        comparison = self._command.comparison
        if comparison is Comparison.EXACT:
            return None if equal_outputs(example.output, actual) else _failed(example, actual=actual)
        # In a thread: long texts take milliseconds, and the executions of others run on this loop.
        near = await asyncio.to_thread(similarity, comparison, example.output, actual)
        return None if near >= self._command.comparison_threshold else _failed(example, actual=actual, similarity=near)

    def _score(self, *, held_back: bool) -> Score:
        passed, total = self._passed[held_back], self._total[held_back]
        return Score(passed=passed, total=total, accuracy=passed / total if total else None)


def _failed(
    example: CheckExample, *, actual: Any = None, error: str | None = None, similarity: float | None = None
) -> ExampleFailure:
    return ExampleFailure(
        input=example.input, expected=example.output, actual=actual, error=error, similarity=similarity
    )
