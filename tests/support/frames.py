"""Frames and parts, item by item, for tests that send or answer a few."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from loopai_common.contracts.frames import (
    FRAME_FORMAT,
    AnswerKind,
    Frame,
    FrameAnswerGroup,
    FrameGroup,
    FrameMark,
    FramePart,
)


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer of a part."""

    index: int
    kind: int
    payload: bytes
    sampled: bool
    version: int


def frame_group(
    task: str,
    *values: Any,
    version: int = 0,
    timeout_ms: int = 0,
    ids: Iterable[str] | None = None,
    marks: dict[int, FrameMark] | None = None,
) -> FrameGroup:
    """Items for one program, their inputs given as values."""
    inputs = [msgspec.Raw(msgspec.json.encode(value)) for value in values]
    return FrameGroup(task, version, timeout_ms, list(ids or ["e"] * len(inputs)), inputs, marks or {})


def asked(frame: Frame) -> Iterator[tuple[int, FrameGroup, str, msgspec.Raw]]:
    """The items of a frame: the number, the group, the execution's id, the input."""
    index = 0
    for group in frame.groups:
        for execution_id, value in zip(group.execution_ids, group.inputs, strict=True):
            yield index, group, execution_id, value
            index += 1


def part(
    *answers: tuple[int, bytes],
    kind: AnswerKind = AnswerKind.SUCCESS,
    latency_us: int = 5,
    origin: tuple[str, str, int] = ("id", "program", 1),
) -> bytes:
    """A part of a reply: payloads by the index of their item."""
    indexes = [index for index, _ in answers]
    payloads = [msgspec.Raw(payload) for _, payload in answers]
    group = FrameAnswerGroup(*origin, kind, latency_us, False, indexes, payloads)
    return msgspec.json.encode(FramePart(FRAME_FORMAT, [group]))


def answered(parts: Iterable[FramePart]) -> list[Answered]:
    """The answers in parts, one by one."""
    return [
        Answered(index, group.kind, bytes(payload), group.sampled, group.version)
        for part in parts
        for group in part.groups
        for index, payload in zip(group.indexes, group.payloads, strict=True)
    ]
