"""`loopai secrets`, and secrets that are handed over in files."""

import os
import stat
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from loopai_common.permissions import USERS
from loopai_common.runtime.settings import ServiceSettings, SettingsError, load_settings
from tests.integration.client.test_command_tasks import loopai


def passwords(directory: Path) -> dict[str, str | None]:
    return {user: urlsplit((directory / user / "nats-url").read_text()).password for user in USERS}


def test_each_user_of_the_bus_gets_a_password_of_its_own_which_stays(tmp_path: Path) -> None:
    made = loopai("secrets", str(tmp_path), "--nats", "nats.example:4222")
    assert made.returncode == 0, made.stderr
    first = passwords(tmp_path)
    assert None not in first.values()
    assert len(set(first.values())) == len(USERS)
    assert (tmp_path / "api/nats-url").read_text().startswith("nats://api:")
    assert (tmp_path / "api/nats-url").read_text().endswith("@nats.example:4222\n")
    (tmp_path / "executor/nats-url").unlink()
    again = loopai("secrets", str(tmp_path))
    assert again.stdout.strip() == "Passwords made for: executor."
    second = passwords(tmp_path)
    assert {user for user in USERS if first[user] != second[user]} == {"executor"}
    users = (tmp_path / "nats/users.conf").read_text()
    assert all(f'password: "{password}"' in users for password in second.values())
    assert not any(str(password) in made.stdout + made.stderr + again.stdout for password in first.values())


def test_only_the_owner_may_read_them(tmp_path: Path) -> None:
    loopai("secrets", str(tmp_path))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > len(USERS)
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_a_setting_may_be_read_from_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "nats-url"
    secret.write_text("nats://api:word@nats:4222\n")
    named = {"LOOPAI_API_NATS_URL_FILE": str(secret)}
    assert load_settings(ServiceSettings, "api", named).nats_url == "nats://api:word@nats:4222"
    both = {**named, "LOOPAI_API_NATS_URL": "nats://127.0.0.1:1"}
    assert load_settings(ServiceSettings, "api", both).nats_url == "nats://127.0.0.1:1"


@pytest.mark.parametrize("variable", ["LOOPAI_API_NATS_URL_FILE", "LOOPAI_NATS_URL_FILE"])
def test_a_file_that_is_not_there_is_refused_by_its_name(tmp_path: Path, variable: str) -> None:
    with pytest.raises(SettingsError, match=f"{variable}.*missing.*No such file"):
        load_settings(ServiceSettings, "api", {variable: str(tmp_path / "missing")})


def test_a_file_for_a_setting_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="unknown setting LOOPAI_API_NATS_ULR_FILE"):
        load_settings(ServiceSettings, "api", {"LOOPAI_API_NATS_ULR_FILE": str(tmp_path)})


def test_the_command_takes_secrets_from_files_too(tmp_path: Path) -> None:
    secret = tmp_path / "nats-url"
    secret.write_text("nats://operator:word@127.0.0.1:1\n")
    command = [sys.executable, "-m", "loopai_client.cli.main", "dlq", "list"]
    environment = {**os.environ, "LOOPAI_NATS_URL_FILE": str(secret)}
    refused = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 4
    assert "127.0.0.1:1" in refused.stderr
    assert "word" not in refused.stderr
    environment["LOOPAI_NATS_URL_FILE"] = str(tmp_path / "missing")
    unreadable = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert unreadable.returncode == 1
    assert "LOOPAI_NATS_URL_FILE" in unreadable.stderr
