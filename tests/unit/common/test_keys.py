"""API keys: what is kept of them, and what counts as one."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from loopai_common.keys import (
    BadKeyFile,
    Rate,
    Scope,
    canonical_reference,
    decode_keys,
    encode_keys,
    new_key,
    verified,
)

KNOWN: dict[str, Any] = {
    "id": "abc",
    "digest": f"sha256:{'0' * 64}",
    "scopes": ["execute"],
    "created_at": "2026-01-05T09:00:00Z",
}


def file(*keys: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"format": 1, "keys": list(keys), **more}).encode()


def test_a_key_is_verified_by_its_hash_alone() -> None:
    text, known = new_key(scopes=[Scope.EXECUTE])
    other, _ = new_key(scopes=[Scope.EXECUTE])
    content = encode_keys({known.id: known})
    keys = decode_keys(content)
    assert verified(text, keys) == known
    assert verified(other, keys) is None
    assert text.rpartition("_")[2].encode() not in content


def test_a_file_holds_everything_that_was_said_of_a_key() -> None:
    expiry = datetime(2030, 1, 1, tzinfo=UTC)
    _, known = new_key(scopes=[Scope.ADMIN], tasks=["a", "b"], rate=Rate(0.5, 3), expires_at=expiry)
    assert decode_keys(encode_keys({known.id: known})) == {known.id: known}


@pytest.mark.parametrize(
    "change",
    [
        lambda key: "",
        lambda key: key[:-1],
        lambda key: key + "0",
        lambda key: key.upper(),
        lambda key: f" {key}",
        lambda key: key.replace("lk_", "lk-", 1),
        lambda key: f"lk_nobody_{key.rpartition('_')[2]}",
        lambda key: key[:-1] + ("0" if key[-1] != "0" else "1"),
    ],
    ids=range(8),
)
def test_what_is_nearly_a_key_is_none(change: Any) -> None:
    text, known = new_key(scopes=[Scope.EXECUTE])
    assert verified(change(text), {known.id: known}) is None


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (b"", "truncated"),
        (b"[" * 100_000, ""),
        (b"\xff", ""),
        (b'{"keys": []}', "format"),
        (file() + b"{}", "trailing"),
        (b'{"format": 2, "keys": []}', "format 2"),
        (file(KNOWN, KNOWN), "same id"),
        (file({**KNOWN, "task": ["a"]}), "task"),
        (file({**KNOWN, "tasks": []}), "tasks"),
        (file({**KNOWN, "tasks": ["a b"]}), "tasks"),
        (file({**KNOWN, "scopes": []}), "scopes"),
        (file({**KNOWN, "scopes": ["all"]}), "scopes"),
        (file({**KNOWN, "id": "a_b"}), "id"),
        (file({**KNOWN, "digest": "a" * 64}), "digest"),
        (file({**KNOWN, "rate": {"requests_per_second": 0, "burst": 1}}), "requests_per_second"),
        (file({**KNOWN, "rate": {"requests_per_second": 1}}), "burst"),
        (file({**KNOWN, "expires_at": "2026-01-05T09:00:00"}), "expires_at"),
        (file({**KNOWN, "expires_at": "tomorrow"}), "expires_at"),
    ],
    ids=range(18),
)
def test_a_bad_file_is_refused_with_the_place(content: bytes, where: str) -> None:
    with pytest.raises(BadKeyFile) as error:
        decode_keys(content)
    assert where in str(error.value)
    assert "0" * 64 not in str(error.value)


def test_ids_of_tasks_are_compared_in_lower_case_and_names_as_they_are() -> None:
    task = "01938F5E-3A6B-7C4D-9E1F-2A3B4C5D6E7F"
    assert canonical_reference(task) == task.lower()
    assert canonical_reference("Spam") == "Spam"
