"""The `loopai` commands on the data of a store, as processes; and every command of ``docs/backup.md``."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from loopai_artifact_store.ports import Store
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


def run(
    directory: Path, *command: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LOOPAI_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        command,
        cwd=directory,
        env={**inherited, "PATH": path, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
async def home(tmp_path: Path) -> Path:
    """A directory with a store in it that has two tasks."""
    data = tmp_path / ".loopai"
    store = Store(open_sqlite(data), open_executions(data), open_files(data))
    cases = store_on(store.catalog, store.storage)
    for name in ("spam", "mood"):
        task = await cases.create_task(creating(name))
        await cases.publish(publishing(task.id))
        await store.executions.add([record(task.id)])
    await store.executions.close()  # type: ignore[attr-defined]
    await store.catalog.close()  # type: ignore[attr-defined]
    return tmp_path


def test_export_and_import_tell_people_and_machines_what_they_did(home: Path, tmp_path: Path) -> None:
    done = run(home, "loopai", "export", "all.zip", "--executions")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Exported 2 tasks with 2 versions and 2 records of executions to all.zip (")
    one = json.loads(run(home, "loopai", "export", "one.zip", "--task", "mood", "--json").stdout)
    assert (one["tasks"], one["executions"], one["size_bytes"]) == (1, 0, (home / "one.zip").stat().st_size)
    told = run(home, "loopai", "import", "all.zip", "--data-dir", "new", "--dry-run").stdout
    assert told == "Would import 2 tasks with 2 versions and 2 records of executions; 0 were here already.\n"
    first = json.loads(run(home, "loopai", "import", "one.zip", "--data-dir", "new", "--json").stdout)
    assert (first["tasks"], first["skipped"], first["dry_run"]) == (1, 0, False)
    both = run(home, "loopai", "import", "all.zip", "--data-dir", "new")
    assert (both.returncode, both.stdout[:17]) == (0, "Imported 1 tasks ")
    assert run(home, "loopai", "export", "again.zip", "--executions", "--data-dir", "new").returncode == 0
    assert (home / "again.zip").read_bytes() == (home / "all.zip").read_bytes()


def test_damage_is_told_with_exit_code_1(home: Path) -> None:
    in_order = json.loads(run(home, "loopai", "store", "verify", "--json").stdout)
    assert (in_order["ok"], in_order["tasks"], in_order["problems"]) == (True, 2, [])
    program = next((home / ".loopai" / "artifacts").glob("*/sha256:*/program.py"))
    program.write_text("changed")
    found = run(home, "loopai", "store", "verify")
    assert found.returncode == 1
    assert found.stdout.splitlines()[0].endswith("1 problems.")
    assert "do not match the digest" in found.stdout
    as_json = run(home, "loopai", "store", "verify", "--json")
    assert (as_json.returncode, json.loads(as_json.stdout)["problems"][0]["kind"]) == (1, "wrong_bytes")
    broken = run(home, "loopai", "export", "broken.zip", "--json")
    assert (broken.returncode, json.loads(broken.stderr)["error"]["code"]) == (1, "artifact_corrupt")
    assert not (home / "broken.zip").exists()


def test_what_cannot_be_done_is_said_in_a_sentence(home: Path) -> None:
    nowhere = run(home, "loopai", "store", "verify", "--data-dir", "nowhere")
    assert (nowhere.returncode, "there is no store in 'nowhere'" in nowhere.stderr) == (2, True)
    assert not (home / "nowhere").exists()
    full = run(home, "loopai", "store", "rebuild")
    assert (full.returncode, full.stderr.partition(":")[0]) == (1, "catalog_not_empty")
    missing = run(home, "loopai", "import", "missing.zip")
    assert (missing.returncode, missing.stderr) == (1, "failed: missing.zip: No such file or directory\n")
    (home / "bad.zip").write_text("bad")
    bad = run(home, "loopai", "import", "bad.zip")
    assert (bad.returncode, bad.stderr.partition(":")[0]) == (1, "bad_archive")
    assert run(home, "loopai", "export", "x.zip", "--task", "nobody").stderr.startswith("task_not_found: ")
    wrong = run(home, "loopai", "store", "verify", environment={"LOOPAI_ARTIFACT_STORE_PROGRAMS": "azure"})
    assert (wrong.returncode, "azure_connection_string" in wrong.stderr) == (2, True)
    for done in (nowhere, full, missing, bad, wrong):
        assert "Traceback" not in done.stderr


def test_clashes_are_named(home: Path) -> None:
    assert run(home, "loopai", "export", "all.zip").returncode == 0
    code = (
        "import asyncio, pathlib, sys\n"
        "from tests.contract.artifact_store.builders import creating, open_files, open_sqlite, store_on\n"
        "data = pathlib.Path(sys.argv[1])\n"
        "asyncio.run(store_on(open_sqlite(data), open_files(data)).create_task(creating('mood')))\n"
    )
    made = run(DOCUMENT.parents[1], sys.executable, "-c", code, str(home / "other"))
    assert made.returncode == 0, made.stderr
    refused = run(home, "loopai", "import", "all.zip", "--data-dir", "other")
    assert (refused.returncode, refused.stderr.partition(":")[0]) == (1, "import_refused")
    assert "\n  mood: another task (" in refused.stderr


def test_without_the_service_the_command_says_what_to_install(home: Path) -> None:
    code = (
        "import sys, importlib.util as util\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, *more: None if name == 'loopai_artifact_store' else find(name, *more)\n"
        "from loopai_client.cli.main import main\n"
        "sys.argv = ['loopai', 'store', 'verify']\n"
        "main()\n"
    )
    done = run(home, sys.executable, "-c", code)
    assert (done.returncode, "loopai-artifact-store is not installed here" in done.stderr) == (1, True)


def test_every_documented_command_works(home: Path, azurite: Azurite) -> None:
    assert len(BLOCKS) >= 6
    environment = {
        "AZURE_STORAGE_CONNECTION_STRING": azurite.connection_string,
        "LOOPAI_ARTIFACT_STORE_AZURE_CONTAINER": f"test-{new_uuid()}",
    }
    for block in BLOCKS:
        done = run(home, "bash", "-eu", "-c", block, environment=environment)
        assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"
        assert "1 problems" not in done.stdout
    assert "Looked at 2 tasks, 2 versions, 2 programs" in done.stdout
