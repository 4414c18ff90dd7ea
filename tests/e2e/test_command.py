"""The `loopai` command against the running product: every command once, for people and for machines."""

import json
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest
from typer.testing import CliRunner, Result

from loopai_client.cli.main import app
from tests.support.stack import LocalStack
from tests.support.stub_http import Answer, StubHttpServer

EXAMPLES = "happy\tlovely day\nangry\tterrible day\nhappy\tlovely weather\nangry\tterrible weather\n"
CODE = 'def run(input):\n    return "happy" if "lovely" in input["text"] else "angry"\n'


class Command:
    """Runs the command in this process."""

    def __init__(self, url: str) -> None:
        self._environment = {"LOOPAI_URL": url, "LOOPAI_API_KEY": ""}

    def run(self, *arguments: str, stdin: str | None = None) -> Result:
        """What came of it."""
        return CliRunner().invoke(app, list(arguments), input=stdin, env=self._environment)

    def text(self, *arguments: str, stdin: str | None = None) -> str:
        """What a successful command prints."""
        done = self.run(*arguments, stdin=stdin)
        assert done.exit_code == 0, done.output
        return done.stdout

    def json(self, *arguments: str, stdin: str | None = None) -> "dict[str, object] | list[dict[str, object]]":
        """What a successful command prints for machines."""
        decoded: dict[str, object] | list[dict[str, object]] = json.loads(self.text(*arguments, "--json", stdin=stdin))
        return decoded


@pytest.fixture(scope="module")
def loopai(stack: LocalStack) -> Command:
    """The command for the shared stack."""
    return Command(stack.base_url)


@pytest.fixture(scope="module")
def mood(loopai: Command, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A task that has a program, made by the command."""
    name = f"mood-{uuid4().hex[:8]}"
    examples = tmp_path_factory.mktemp("mood") / "examples.tsv"
    examples.write_text(EXAMPLES)
    told = loopai.text("tasks", "create", "--name", name, "--description", "d", "--examples", str(examples), "--wait")
    assert told.startswith(f"{name} ready (")
    return name


def test_tasks_are_listed_shown_and_changed(loopai: Command, mood: str) -> None:
    assert mood in loopai.text("tasks", "list", "--status", "ready")
    listed = loopai.json("tasks", "list", "--name-prefix", mood)
    assert isinstance(listed, list)
    assert [task["name"] for task in listed] == [mood]
    assert "active version" in loopai.text("tasks", "get", mood)
    assert loopai.text("task", "show", mood) == loopai.text("tasks", "get", mood)
    changes = ["--sampling-rate", "0.5", "--comparison", "fuzzy", "--comparison-threshold", "0.7"]
    changed = loopai.json("tasks", "update", mood, *changes)
    assert isinstance(changed, dict)
    assert (changed["sampling_rate"], changed["comparison"], changed["comparison_threshold"]) == (0.5, "fuzzy", 0.7)
    refused = loopai.run("tasks", "update", mood, "--description", "x", "--expected-revision", "1")
    assert (refused.exit_code, refused.stderr.partition(":")[0]) == (1, "precondition_failed")


def test_program_runs_now_and_later(loopai: Command, mood: str) -> None:
    assert loopai.text("run", mood, '{"text": "lovely"}') == "happy\n"
    assert loopai.text("execute", mood, "--input", '{"text": "lovely"}') == "happy\n"
    assert loopai.text("run", mood, "--version", "1", stdin='{"text": "terrible"}') == "angry\n"
    execution = loopai.text("run", mood, "--text", "lovely", "--async").strip()
    record = loopai.json("executions", "show", execution, "--wait")
    assert isinstance(record, dict)
    assert (record["id"], record["output"]) == (execution, "happy")
    assert "happy" in loopai.text("executions", "show", execution)
    assert execution in loopai.text("executions", "list", mood)
    assert loopai.json("executions", "list", mood, "--status", "timeout") == []
    assert loopai.run("run", mood, "{}").exit_code == 1


@pytest.mark.parametrize("as_array", [False, True])
def test_batch_takes_lines_and_arrays(loopai: Command, mood: str, tmp_path: Path, as_array: bool) -> None:
    items = [{"input": {"text": "lovely"}}, {"id": "mine", "input": {"text": "terrible"}}] * 600
    file, output = tmp_path / "items", tmp_path / "results"
    file.write_text(json.dumps(items, indent=1) if as_array else "".join(json.dumps(item) + "\n\n" for item in items))
    done = loopai.run("batch", mood, str(file), "-o", str(output))
    assert (done.exit_code, done.stdout) == (0, "")
    assert "1,200 results" in done.stderr
    results = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(r["id"], r["output"]) for r in results[:3]] == [("1", "happy"), ("mine", "angry"), ("3", "happy")]
    assert len(results) == 1200


def test_batch_with_a_failed_item_exits_3(loopai: Command, mood: str, tmp_path: Path) -> None:
    file = tmp_path / "items"
    file.write_text('{"input": {"text": "lovely"}}\n{"input": 1}\n')
    done = loopai.run("batch", mood, str(file), "--json")
    assert done.exit_code == 3
    assert [json.loads(line)["status"] for line in done.stdout.splitlines()] == ["success", "error"]
    summary, error = map(json.loads, done.stderr.splitlines())
    assert (summary["total"], summary["error"], error["error"]["code"]) == (2, 1, "program_failed")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{}\n", "line 1"),
        ("[1]", "item 1"),
        ("{nope\n", "line 1"),
        ('{"input": 1, "id": 2}\n', "line 1"),
        ("\xff", "line 1"),
    ],
)
def test_batch_file_that_is_wrong_is_a_usage_error(
    loopai: Command, mood: str, tmp_path: Path, text: str, complaint: str
) -> None:
    file = tmp_path / "items"
    file.write_text(text, encoding="latin-1")
    done = loopai.run("batch", mood, str(file))
    assert done.exit_code == 2
    assert complaint in done.stderr
    assert loopai.run("batch", mood, str(tmp_path / "no-such-file")).exit_code == 2


def test_batch_reads_stdin_and_survives_a_reader_that_leaves(stack: LocalStack, mood: str) -> None:
    command = [sys.executable, "-m", "loopai_client.cli.main", "batch", mood, "-", "--url", stack.base_url]
    done = subprocess.run(command, input='{"input": {"text": "lovely"}}\n', capture_output=True, text=True, timeout=60)
    assert (done.returncode, json.loads(done.stdout)["output"]) == (0, "happy")
    assert "1 results" in done.stderr
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.close()
        _, errors = process.communicate(b'{"input": {"text": "lovely"}}\n' * 3000, timeout=60)
    assert process.returncode == 1
    assert b"Broken pipe" in errors
    assert b"Traceback" not in errors


def test_versions_are_uploaded_shown_and_activated(loopai: Command, mood: str, tmp_path: Path) -> None:
    file = tmp_path / "program.py"
    file.write_text(CODE)
    uploaded = loopai.json("artifacts", "upload", mood, str(file), "--no-activate")
    assert isinstance(uploaded, dict)
    version = str(uploaded["version"])
    assert loopai.text("artifacts", "code", mood, version) == CODE
    assert loopai.text("artifacts", "activate", mood, version, "--percentage", "10") == (
        f"Version {version} is validated, with 10 %.\n"
    )
    loopai.text("artifacts", "activate", mood, version, "--reason", "it [is] better")
    assert "it [is] better" in loopai.text("artifacts", "history", mood)
    assert "4 of 4 right" in loopai.text("artifacts", "show", mood)
    listed = loopai.json("artifacts", "list", mood)
    assert isinstance(listed, list)
    assert str(listed[-1]["version"]) == version
    assert loopai.text("artifacts", "upload", mood, "-", stdin=CODE).startswith("Version ")
    assert loopai.run("artifacts", "show", mood, "zero").exit_code == 2
    assert loopai.run("artifacts", "upload", mood, str(tmp_path / "none")).exit_code == 2
    file.write_text("def run(input):\n    return 'sad'\n")
    rejected = loopai.run("artifacts", "upload", mood, str(file))
    assert (rejected.exit_code, rejected.stderr.partition(":")[0]) == (1, "program_rejected")


def test_task_is_improved_and_archived(loopai: Command) -> None:
    name = f"mood-{uuid4().hex[:8]}"
    options = ["--name", name, "--description", "d", "--output-schema", '{"enum": ["x"]}', "--accuracy-target", "0.5"]
    loopai.text("tasks", "create", *options)
    assert loopai.text("tasks", "generate", name, "--constraints", "Be quick.").startswith("Under way: generation ")
    assert loopai.text("tasks", "archive", name).startswith(f"{name} archived (")
    gone = loopai.run("run", name, "1", "--json")
    assert gone.exit_code == 1
    assert json.loads(gone.stderr)["error"]["code"] == "task_archived"
    assert json.loads(gone.stderr)["error"]["trace_id"]


def test_health_is_shown(loopai: Command, stack: LocalStack) -> None:
    assert f"{stack.base_url} is healthy" in loopai.text("health")
    found = loopai.json("health")
    assert isinstance(found, dict)
    assert found["status"] == "healthy"


def test_health_that_is_bad_exits_1() -> None:
    checks = {"executor": {"status": "unhealthy", "latency_ms": None, "detail": "no executor is running"}}
    script = {
        "GET /health/ready": Answer({"status": "unhealthy", "checks": checks}, 503),
        "GET /health": Answer({"status": "healthy", "version": "1", "timestamp": "2026-01-02T03:04:05.000Z"}),
    }
    with StubHttpServer(script) as api:
        done = Command(api.url).run("health")
    assert done.exit_code == 1
    assert "executor" in done.stdout
    assert "no executor is running" in done.stderr


def test_watch_prints_events_until_the_task_is_archived() -> None:
    events = (
        'id: 1\nevent: task\ndata: {"status": "ready", "active_version": 1}\n\n'
        'id: 2\nevent: artifact.activated\ndata: {"version": 2, "percentage": 10.0}\n\n'
        'id: 3\nevent: task.archived\ndata: {"name": "mood"}\n\n'
    )
    with StubHttpServer({"GET /api/v1/tasks/mood/events": Answer(events)}) as api:
        readable, machine = Command(api.url).text("tasks", "watch", "mood"), Command(api.url)
        lines = [json.loads(line) for line in machine.text("tasks", "watch", "mood", "--json").splitlines()]
    assert readable.splitlines()[:2] == [
        "task  status ready, active version 1",
        "artifact.activated  version 2, percentage 10.0",
    ]
    assert [(line["id"], line["event"]) for line in lines] == [
        ("1", "task"),
        ("2", "artifact.activated"),
        ("3", "task.archived"),
    ]
