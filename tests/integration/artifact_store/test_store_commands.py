"""The `loopai` commands on the data of a store, as processes; and every command of ``docs/backup.md``."""

import asyncio
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from loopai_artifact_store.labelling import label_all
from loopai_artifact_store.operations.operator import main
from loopai_artifact_store.ports import Store
from loopai_client.cli.main import app
from loopai_common.identifiers import new_uuid
from tests.contract.artifact_store.builders import (
    creating,
    open_executions,
    open_files,
    open_sqlite,
    publishing,
    record,
    store_on,
)
from tests.support.servers import Azurite

DOCUMENT = Path(__file__).parents[3] / "docs" / "backup.md"
BLOCKS = re.findall(r"```sh\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)


def run(directory: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as a person runs it, in ``directory``."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LOOPAI_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**inherited, "PATH": path, **environment}
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=300)


@dataclass(frozen=True)
class Outcome:
    """How a command of the operator ended."""

    code: int
    out: str
    err: str

    def answer(self, code: int = 0) -> Any:
        """The JSON that it said on its output, having ended with ``code``."""
        return self._json(code, self.out)

    def error(self, code: int = 1) -> Any:
        """The JSON that it said of an error, having ended with ``code``."""
        return self._json(code, self.err)["error"]

    def _json(self, code: int, said: str) -> Any:
        assert self.code == code and said.startswith("{"), self  # noqa: PT018  # either way all of it is shown
        return json.loads(said)


class Operator:
    """The operator's commands in this process: what `loopai` starts, without the time that a start takes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def run(self, *arguments: str, data_dir: str = ".loopai") -> Outcome:
        self._monkeypatch.setenv("LOOPAI_DATA_DIR", data_dir)
        code = main(arguments)
        said = self._capsys.readouterr()
        return Outcome(code, said.out, said.err)


@pytest.fixture
async def home(tmp_path: Path) -> Path:
    """A directory with a store in it that has two tasks."""
    data = tmp_path / ".loopai"
    catalog, executions = open_sqlite(data), open_executions(data)
    store = Store(catalog, executions, open_files(data))
    cases = store_on(store.catalog, store.storage)
    for name in ("spam", "mood"):
        task = await cases.create_task(creating(name))
        # Each has bytes of its own: an export takes what two tasks share from the first one.
        await cases.publish(publishing(task.id, code=f"def run(input):\n    return '{name}'\n"))
        await store.executions.add([record(task.id)])
    await label_all(store)  # which the service does after the requests
    await executions.close()
    await catalog.close()
    return tmp_path


@pytest.fixture
def operator(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Operator:
    monkeypatch.chdir(home)
    return Operator(monkeypatch, capsys)


def test_export_and_import_tell_people_and_machines_what_they_did(home: Path, operator: Operator) -> None:
    done = operator.run("export", "all.zip", "--executions")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("Exported 2 tasks with 2 versions and 2 records of executions to all.zip (")
    one = operator.run("export", "one.zip", "--task", "mood", "--json").answer()
    assert (one["tasks"], one["executions"], one["size_bytes"]) == (1, 0, (home / "one.zip").stat().st_size)
    told = operator.run("import", "all.zip", "--dry-run", data_dir="new").out
    assert told == "Would import 2 tasks with 2 versions and 2 records of executions; 0 were here already.\n"
    first = operator.run("import", "one.zip", "--json", data_dir="new").answer()
    assert (first["tasks"], first["skipped"], first["dry_run"]) == (1, 0, False)
    both = operator.run("import", "all.zip", data_dir="new")
    assert (both.code, both.out[:17]) == (0, "Imported 1 tasks ")
    assert operator.run("export", "again.zip", "--executions", data_dir="new").code == 0
    assert (home / "again.zip").read_bytes() == (home / "all.zip").read_bytes()


def test_damage_is_told_with_exit_code_1(home: Path, operator: Operator) -> None:
    in_order = operator.run("verify", "--json").answer()
    assert (in_order["ok"], in_order["tasks"], in_order["problems"]) == (True, 2, [])
    program = next((home / ".loopai" / "artifacts").glob("*/sha256:*/program.py"))
    program.write_text("changed")
    found = operator.run("verify")
    assert found.code == 1, found
    assert found.out.splitlines()[0].endswith("1 problems."), found
    assert "do not match the digest" in found.out, found
    assert operator.run("verify", "--json").answer(1)["problems"][0]["kind"] == "wrong_bytes"
    assert operator.run("export", "broken.zip", "--json").error()["code"] == "artifact_corrupt"
    assert not (home / "broken.zip").exists()


def test_what_cannot_be_done_is_said_in_a_sentence(
    home: Path, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = operator.run("verify", data_dir="nowhere")
    assert (nowhere.code, "there is no store in 'nowhere'" in nowhere.err) == (2, True)
    assert not (home / "nowhere").exists()
    full = operator.run("rebuild")
    assert (full.code, full.err.partition(":")[0]) == (1, "catalog_not_empty")
    missing = operator.run("import", "missing.zip")
    assert (missing.code, missing.err) == (1, "failed: missing.zip: No such file or directory\n")
    (home / "bad.zip").write_text("bad")
    bad = operator.run("import", "bad.zip")
    assert (bad.code, bad.err.partition(":")[0]) == (1, "bad_archive")
    assert operator.run("export", "x.zip", "--task", "nobody").err.startswith("task_not_found: ")
    monkeypatch.setenv("LOOPAI_ARTIFACT_STORE_PROGRAMS", "azure")
    wrong = operator.run("verify")
    assert (wrong.code, "azure_connection_string" in wrong.err) == (2, True)


def test_clashes_are_named(home: Path, operator: Operator) -> None:
    assert operator.run("export", "all.zip").code == 0

    async def make_other() -> None:
        catalog = open_sqlite(home / "other")
        await store_on(catalog, open_files(home / "other")).create_task(creating("mood"))
        await catalog.close()

    asyncio.run(make_other())
    refused = operator.run("import", "all.zip", data_dir="other")
    assert (refused.code, refused.err.partition(":")[0]) == (1, "import_refused")
    assert "\n  mood: another task (" in refused.err


def test_without_the_service_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = CliRunner().invoke(app, ["store", "verify"])
    assert (done.exit_code, "loopai-artifact-store is not installed here" in done.stderr) == (1, True)


def test_the_command_ends_as_the_operator_does(home: Path) -> None:
    done = run(home, "loopai", "export", "one.zip", "--task", "nobody", "--json")
    assert (done.returncode, json.loads(done.stderr)["error"]["code"]) == (1, "task_not_found")


def test_every_documented_command_works(home: Path, azurite: Azurite) -> None:
    assert len(BLOCKS) >= 6
    container = f"test-{new_uuid()}"
    for block in BLOCKS:
        done = run(
            home,
            "bash",
            "-eu",
            "-c",
            block,
            AZURE_STORAGE_CONNECTION_STRING=azurite.connection_string,
            LOOPAI_ARTIFACT_STORE_AZURE_CONTAINER=container,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"
    assert "Looked at 2 tasks, 2 versions, 2 programs" in done.stdout
