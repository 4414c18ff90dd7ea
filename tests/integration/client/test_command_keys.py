"""`loopai keys` as a process: a key is shown once, and the file never holds it."""

import json
import re
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from loopai_client.local.key_file import read_keys
from loopai_common.keys import verified
from tests.integration.client.test_command_tasks import loopai


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "keys.json"


def keys(file: Path, command: str, *options: str) -> "subprocess.CompletedProcess[str]":
    return loopai("keys", command, *options, "--file", str(file))


def test_a_key_is_printed_once_and_verified_by_the_file(file: Path) -> None:
    made = keys(file, "create", "--scope", "execute", "--scope", "tasks:read")
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    assert re.fullmatch(r"lk_[0-9a-f]{12}_[0-9a-f]{64}", key)
    known = verified(key, read_keys(file))
    assert known is not None
    assert set(known.scopes) == {"execute", "tasks:read"}
    secret = key.rpartition("_")[2]
    listed = keys(file, "list")
    assert known.id in listed.stdout
    for text in (file.read_text(), listed.stdout, listed.stderr, made.stderr, keys(file, "list", "--json").stdout):
        assert secret not in text
    assert known.digest not in listed.stdout


def test_everything_that_limits_a_key_is_kept(file: Path) -> None:
    options = ["--task", "spam", "--task", "a.b", "--rate", "100", "--burst", "200", "--expires", "30d", "--json"]
    shown = json.loads(keys(file, "create", "--scope", "execute", *options).stdout)
    assert shown["tasks"] == ["a.b", "spam"]
    assert shown["rate"] == {"requests_per_second": 100.0, "burst": 200}
    expiry = datetime.fromisoformat(shown["expires_at"])
    assert timedelta(days=29, hours=23) < expiry - datetime.now(UTC) <= timedelta(days=30)
    (listed,) = json.loads(keys(file, "list", "--json").stdout)
    assert {**listed, "key": shown["key"]} == shown
    row = keys(file, "list").stdout
    assert "a.b, spam" in row
    assert "100/s, 200 at once" in row


def test_a_revoked_key_is_gone(file: Path) -> None:
    shown = json.loads(keys(file, "create", "--scope", "admin", "--json").stdout)
    assert keys(file, "revoke", shown["id"]).returncode == 0
    assert json.loads(keys(file, "list", "--json").stdout) == []
    again = keys(file, "revoke", shown["id"], "--json")
    assert again.returncode == 1
    assert "there is no key" in json.loads(again.stderr)["error"]["message"]


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--scope", "everything"],
        ["--scope", "execute", "--burst", "5"],
        ["--scope", "execute", "--rate", "0"],
        ["--scope", "execute", "--task", "a b"],
        ["--scope", "execute", "--expires", "soon"],
        ["--scope", "execute", "--expires", "0d"],
    ],
    ids=range(7),
)
def test_what_makes_no_sense_is_a_usage_error_and_makes_no_key(file: Path, options: list[str]) -> None:
    assert keys(file, "create", *options).returncode == 2
    assert not file.exists()


def test_a_file_of_another_kind_is_not_touched(file: Path) -> None:
    file.parent.mkdir()
    file.write_text('{"my": "file"}')
    failed = keys(file, "create", "--scope", "admin")
    assert failed.returncode == 1
    assert "not a file of API keys" in failed.stderr
    assert "lk_" not in failed.stdout
    assert file.read_text() == '{"my": "file"}'
