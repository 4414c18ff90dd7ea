"""The locked loop: programs and batches of inputs in, answers out. Everything here runs beside the attacker.

Nothing the loop does protects anybody else (the kernel does that, and the executor, which distrusts every answer);
it only makes ordinary failures of ordinary programs into clean answers.
"""

import decimal
import gc
import json
import math
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context
from time import monotonic
from types import FrameType
from typing import Any, Final

import jsonschema_rs
import msgspec

from loopai_common.contracts.frames import AnswerKind
from loopai_common.schemas import compile_schema, instance_violations
from loopai_executor.sandbox.isolation import MODULE_NAME, IsolatedProgram, NoEntryPoint, SharingProgram
from loopai_executor.sandbox.protocol import (
    FLUSH_BYTES,
    LENGTH,
    MAX_ERROR_CHARACTERS,
    TICK_SECONDS,
    Answer,
    Answers,
    LoadRequest,
    encode,
    failure,
    frame,
    success,
)

_READ_BYTES: Final = 1 << 14
_PLAIN_TYPES: Final = frozenset({str, int, float, bool, type(None)})
_SUCCESS: Final = int(AnswerKind.SUCCESS)

Validator = jsonschema_rs.Draft202012Validator


class _OutOfTime(BaseException):
    """Raised within the program when its time is used up; no ``Exception``, so that it is seldom caught by accident."""


class _NotJson(Exception):
    """The output cannot be written as JSON."""


class _Sink:
    """Standard output of a program: it goes nowhere, costs nothing and cannot grow."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        return None

    def isatty(self) -> bool:
        return False


class Clock:
    """The clock of a worker. The executor sends a tick (SIGALRM) every 10 ms while a batch is with the worker, so that
    a short batch costs no system call. ``on_tick`` is called when it finds the program running, however long that
    takes to finish.
    """

    def __init__(self, on_tick: Callable[[], None]) -> None:
        self._on_tick = on_tick
        self.until: float | None = None
        """When the program that runs will have used up its time (monotonic seconds); ``None``: none runs."""
        self.ticked = False

    def install(self) -> None:
        """Takes SIGALRM; must be done before the lockdown, which forbids it."""
        signal.signal(signal.SIGALRM, self._tick)

    def _tick(self, _number: int, _frame: FrameType | None) -> None:
        self.ticked = True
        if self.until is None:
            return
        self._on_tick()
        now = monotonic()
        if now >= self.until:
            self.until = now + TICK_SECONDS  # once more, should the program have caught it
            raise _OutOfTime


class LoadedProgram:
    """A program with its schemas, ready to be called. Making one executes its module, and raises what that raises."""

    def __init__(self, request: LoadRequest) -> None:
        code = compile(request.code, f"<{MODULE_NAME}>", "exec", dont_inherit=True)
        self._input_schema = _validator(request.input_schema)
        self._output_schema = _validator(request.output_schema)
        self._output_bytes = request.output_bytes
        self._takes_text = request.entry_point == "classify"
        kind = IsolatedProgram if request.fresh_globals else SharingProgram
        self._entry = kind(code, request.entry_point).entry

    def call(self, value: Any) -> Answer:
        """What the program makes of ``value``, checked; raises what the program raises, and :class:`_NotJson`."""
        schema = self._input_schema
        if schema is not None and not schema.is_valid(value):
            return _input_refused(schema, value)
        if self._takes_text and type(value) is dict and "text" in value:
            value = value["text"]
        # A context of its own for each call: what one does to the context of decimal, the next does not see.
        output = Context().run(self._entry(), value)
        text = _encode(output)
        if len(text) > self._output_bytes:
            return failure(AnswerKind.ERROR, "limit_output", f"the output is larger than {self._output_bytes} bytes")
        schema = self._output_schema
        if schema is not None:
            # As its readers will see it: tuples, data classes and the like have become JSON.
            plain = output if type(output) in _PLAIN_TYPES else msgspec.json.decode(text)
            if not schema.is_valid(plain):
                return _output_refused(schema, plain)
        return _SUCCESS, msgspec.Raw(text)


class Worker:
    """One worker's state; :meth:`run` never returns."""

    def __init__(self) -> None:
        self._clock = Clock(self._flush)
        self._programs: dict[int, LoadedProgram] = {}
        self._ready: list[Answers] = []
        self._ready_bytes = 0
        self._flushing = False
        self._decode = msgspec.json.Decoder(list[tuple[int, int, list[Any]]]).decode
        self._decode_slices = msgspec.json.Decoder(list[tuple[int, int, list[msgspec.Raw]]]).decode
        self._decode_load = msgspec.json.Decoder(LoadRequest).decode
        self._clock.install()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        # The executor decodes within the usual limit: what it passed on must not fail here and be the program's fault.
        sys.setrecursionlimit(2 * sys.getrecursionlimit())
        # A program that changes this one does not change what new contexts are copied from.
        decimal.DefaultContext = decimal.DefaultContext.copy()
        sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = _Sink()  # type: ignore[assignment,misc]  # enough of a text file for print

    def run(self) -> None:
        """Loads the programs and answers the batches that come, until the executor hangs up."""
        gc.enable()
        while True:
            payload = _receive()
            if payload.startswith(b"{"):
                self._load(self._decode_load(payload))
            else:
                self._batch(payload)

    def _load(self, request: LoadRequest) -> None:
        clock = self._clock
        try:
            clock.until = monotonic() + request.timeout_ms / 1000
            self._programs[request.program] = LoadedProgram(request)
            clock.until = None
            answer = success()
        except BaseException as error:  # noqa: BLE001  # a stranger's module may raise anything; all of it is an answer
            clock.until = None
            answer = _load_failure(error)
        kind, payload = answer
        _send([(kind, [payload])])

    def _batch(self, payload: bytes) -> None:
        runs: Sequence[tuple[int, int, Sequence[Any]]]
        clock, call = self._clock, self._call
        try:
            runs = self._decode(payload)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            runs = self._decode_slices(payload)
            call = self._call_slice
        clock.ticked = False
        for number, timeout_ms, values in runs:
            program, seconds = self._programs[number], timeout_ms / 1000
            for value in values:
                kind, payload = call(program, seconds, value)
                ready = self._ready
                if ready and ready[-1][0] == kind:
                    ready[-1][1].append(payload)
                else:
                    ready.append((kind, [payload]))
                self._ready_bytes += len(payload)
                if clock.ticked or self._ready_bytes > FLUSH_BYTES:
                    clock.ticked = False
                    self._flush()
        if sys.gettrace() is not None or sys.getprofile() is not None:
            sys.settrace(None)
            sys.setprofile(None)
        self._flush()

    def _flush(self) -> None:
        """Sends what is ready: between two items, or from the tick while a slow one runs."""
        if self._flushing or not self._ready:
            return
        self._flushing = True
        ready, self._ready, self._ready_bytes = self._ready, [], 0
        _send(ready)
        self._flushing = False

    def _call_slice(self, program: LoadedProgram, seconds: float, value: Any) -> Answer:
        """As :meth:`_call`, for a batch of which some input does not decode."""
        try:
            decoded = msgspec.json.decode(value)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return _refused("malformed_json", "the input is not JSON that a program can be given", [])
        return self._call(program, seconds, decoded)

    def _call(self, program: LoadedProgram, seconds: float, value: Any) -> Answer:
        clock = self._clock
        try:
            # The clock runs for the checks too: a schema is as untrusted as a program.
            clock.until = monotonic() + seconds
            answer = program.call(value)
            clock.until = None
        except BaseException as error:  # noqa: BLE001  # a stranger's function may raise anything; all of it is an answer
            clock.until = None
            return _call_failure(error)
        return answer


def _input_refused(validator: Validator, value: Any) -> Answer:
    found = instance_violations(validator, value, "input")
    details = [{"field": v.field, "message": v.message, "code": v.code} for v in found]
    return _refused("input_schema_violation", "the input does not satisfy the task's input schema", details)


def _output_refused(validator: Validator, value: Any) -> Answer:
    found = instance_violations(validator, value, "output", limit=1)
    where = f"{found[0].field} {found[0].message}" if found else "output does not satisfy the schema"
    return failure(AnswerKind.ERROR, "output_schema_violation", where)


def _encode(output: Any) -> bytes:
    """JSON for what a program returned; raises :class:`_NotJson`."""
    try:
        text = encode(output)
        # msgspec writes NaN and infinities as null, so only text with a null in it can hold one.
        if type(output) is not str and b"null" in text and not _is_finite(msgspec.to_builtins(output)):
            raise _NotJson("NaN and infinities are not JSON")
    except OverflowError:  # an integer of more than 64 bits, which msgspec does not write
        return _encode_large_integers(output)
    except (TypeError, ValueError, RecursionError) as error:
        raise _NotJson(str(error)) from error
    return text


def _encode_large_integers(output: Any) -> bytes:
    try:
        text = json.dumps(msgspec.to_builtins(output), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise _NotJson(str(error)) from error


def _is_finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    return not isinstance(value, list | tuple | set | frozenset) or all(map(_is_finite, value))


def _validator(schema: Any) -> Validator | None:
    """The compiled schema, or ``None`` for one that everything satisfies."""
    return None if schema is True or schema == {} else compile_schema(schema)


def _refused(code: str, message: str, details: Sequence[Mapping[str, str]]) -> Answer:
    body = {"code": code, "message": message, "retryable": False, "details": details}
    return AnswerKind.REFUSED, msgspec.Raw(encode(body))


def _call_failure(error: BaseException) -> Answer:
    if isinstance(error, _OutOfTime):
        return failure(AnswerKind.TIMEOUT, "limit_time", "the program used up its time")
    if isinstance(error, MemoryError):
        return failure(AnswerKind.ERROR, "limit_memory", "the program used up its memory")
    if isinstance(error, _NotJson):
        return failure(AnswerKind.ERROR, "output_not_json", f"the output is not JSON: {_text_of(error)}")
    return failure(AnswerKind.ERROR, "program_raised", describe(error))


def _load_failure(error: BaseException) -> Answer:
    if isinstance(error, _OutOfTime):
        return failure(AnswerKind.ERROR, "load_failed", "the program did not finish loading in its time")
    if isinstance(error, MemoryError):
        return failure(AnswerKind.ERROR, "load_failed", "the program used up its memory while it was loaded")
    if isinstance(error, SyntaxError):
        return failure(AnswerKind.ERROR, "load_failed", f"SyntaxError: {error.msg} (line {error.lineno})")
    if isinstance(error, NoEntryPoint):
        return failure(AnswerKind.ERROR, "load_failed", str(error))
    return failure(AnswerKind.ERROR, "load_failed", describe(error))


def describe(error: BaseException) -> str:
    """``TypeName: message``, whatever the exception's own methods do."""
    message = _text_of(error)
    name = type(error).__name__
    return f"{name}: {message}" if message else name


def _text_of(error: BaseException) -> str:
    try:
        return str(error)[:MAX_ERROR_CHARACTERS]
    except BaseException:  # noqa: BLE001  # a stranger's __str__ may raise anything
        return ""


def _receive() -> bytes:
    """The payload of the next frame; ends the process when the executor has hung up."""
    data = os.read(0, _READ_BYTES)
    if not data:
        os._exit(0)
    missing = LENGTH.size + LENGTH.unpack_from(data)[0] - len(data)
    if missing:
        parts = [data]
        while missing > 0:
            part = os.read(0, min(missing, 1 << 20))
            if not part:
                os._exit(0)
            parts.append(part)
            missing -= len(part)
        data = b"".join(parts)
    return data[LENGTH.size :]


def _send(answers: list[Answers]) -> None:
    data = frame(encode(answers))
    sent = os.write(1, data)
    while sent < len(data):
        sent += os.write(1, data[sent:])
