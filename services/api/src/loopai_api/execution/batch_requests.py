"""The bodies of batches: a JSON object with many items, or a stream of lines with one item each."""

from dataclasses import dataclass
from typing import Any

import msgspec
import pydantic

from loopai_api.bodies import MAX_EXECUTE_BYTES, json_object
from loopai_api.models import MAX_ITEM_ID_LENGTH, BatchItemRequest, ExecuteBatchRequest
from loopai_api.problems import broken_rules
from loopai_common import json_text
from loopai_common.contracts.base import MAX_VERSION
from loopai_common.contracts.execution import MAX_BATCH_ITEMS, MAX_TIMEOUT_MS
from loopai_common.errors import LoopaiError, MalformedJson, ValidationFailed, Violation
from loopai_common.runtime.errors import violations_of

MAX_BATCH_CONCURRENCY = 100
_MAX_REPORTED_VIOLATIONS = 100


class BatchItem(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """As :class:`~loopai_api.models.BatchItemRequest`, with the input's own bytes."""

    id: str
    input: msgspec.Raw
    force_validation: bool = False


class BatchBody(msgspec.Struct, forbid_unknown_fields=True):
    """As :class:`~loopai_api.models.ExecuteBatchRequest`."""

    items: list[BatchItem]
    version: int | None = None
    max_concurrency: int = MAX_BATCH_CONCURRENCY
    stop_on_first_error: bool = False
    timeout_ms: int | None = None


@dataclass(frozen=True, slots=True)
class BrokenItem:
    """A line that holds no item, with its id where that could be read."""

    id: str | None
    error: LoopaiError


_decode_batch = msgspec.json.Decoder(BatchBody).decode
_decode_item = msgspec.json.Decoder(BatchItem).decode
_UNREADABLE = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)


def parse_batch(body: bytes) -> BatchBody:
    """Reads the body of a batch; raises :class:`MalformedJson`, or :class:`ValidationFailed` with every violation."""
    try:
        batch = _decode_batch(body)
    except _UNREADABLE:
        raise _explain_batch(body, []) from None
    json_text.check(body)  # what msgspec lets through: duplicate keys, lone surrogates, numbers out of range
    oversized = [
        Violation(f"items/{index}/input", f"must have at most {MAX_EXECUTE_BYTES} bytes", "too_large")
        for index, item in enumerate(batch.items)
        if len(memoryview(item.input)) > MAX_EXECUTE_BYTES
    ]
    if oversized or not _within_rules(batch):
        raise _explain_batch(body, oversized)
    return batch


def parse_item(line: bytes) -> BatchItem | BrokenItem:
    """Reads one line of a streamed batch; what is wrong with it is for its own result to say."""
    try:
        item = _decode_item(line)
        json_text.check(line)
    except _UNREADABLE:
        return _explain_item(line)
    except MalformedJson as error:
        return BrokenItem(None, error)
    return item if 1 <= len(item.id) <= MAX_ITEM_ID_LENGTH else _explain_item(line)


def _within_rules(batch: BatchBody) -> bool:
    ids = {item.id for item in batch.items}
    return (
        1 <= len(batch.items) <= MAX_BATCH_ITEMS
        and len(ids) == len(batch.items)
        and all(1 <= len(item_id) <= MAX_ITEM_ID_LENGTH for item_id in ids)
        and (batch.version is None or 1 <= batch.version <= MAX_VERSION)
        and (batch.timeout_ms is None or 1 <= batch.timeout_ms <= MAX_TIMEOUT_MS)
        and 1 <= batch.max_concurrency <= MAX_BATCH_CONCURRENCY
    )


def _explain_batch(body: bytes, oversized: list[Violation]) -> LoopaiError:
    """The error for a body that is no batch, with what its fields, its inputs, and its ids break."""
    value = json_object(body)
    found: list[Violation] = []
    try:
        ExecuteBatchRequest.model_validate(value)
    except pydantic.ValidationError as error:
        found = violations_of(error)
    return _broken([*found, *oversized, *_duplicates(value.get("items"))])


def _explain_item(line: bytes) -> BrokenItem:
    try:
        value = json_text.loads(line)
    except MalformedJson as error:
        return BrokenItem(None, error)
    if not isinstance(value, dict):
        return BrokenItem(None, MalformedJson("the line must be a JSON object"))
    found: list[Violation] = []
    try:
        BatchItemRequest.model_validate(value)
    except pydantic.ValidationError as error:
        found = violations_of(error)
    item_id = value.get("id")
    readable = isinstance(item_id, str) and 1 <= len(item_id) <= MAX_ITEM_ID_LENGTH
    return BrokenItem(item_id if readable else None, _broken(found))


def _duplicates(items: Any) -> list[Violation]:
    """One violation for each item whose id an item before it has."""
    if not isinstance(items, list):
        return []
    first: dict[str, int] = {}
    found = []
    for index, item in enumerate(items):
        item_id = item.get("id") if isinstance(item, dict) else None
        if isinstance(item_id, str) and first.setdefault(item_id, index) != index:
            message = f"must be unique in the batch; item {first[item_id]} has the same"
            found.append(Violation(f"items/{index}/id", message, "duplicate_id"))
    return found


def _broken(found: list[Violation]) -> ValidationFailed:
    if not found:
        return ValidationFailed("the request cannot be read; check the types of its fields")
    return broken_rules(found, listed=_MAX_REPORTED_VIOLATIONS)
