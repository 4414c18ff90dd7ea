"""`loopai tasks` and `loopai run`, under the names they had first too, against a server that stands for the API."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from loopai_client.local.nats_server import free_port
from tests.support.api_bodies import ARTIFACT, EXECUTION, TASK
from tests.support.stub_http import Answer, StubHttpServer


def loopai(*arguments: str, stdin: str | None = None) -> "subprocess.CompletedProcess[str]":
    """Runs the command."""
    return subprocess.run(
        [sys.executable, "-m", "loopai_client.cli.main", *arguments],
        capture_output=True,
        text=True,
        input=stdin,
        stdin=None if stdin is not None else subprocess.DEVNULL,
        timeout=60,
    )


def test_create_sends_the_definition_with_examples_and_waits(tmp_path: Path) -> None:
    examples = tmp_path / "examples.tsv"
    examples.write_text("happy\tlovely day\nangry\tterrible [day]\n")
    generating = {**TASK, "status": "generating", "active_version": None}
    script: dict[str, Answer | list[Answer]] = {
        "POST /api/v1/tasks": Answer(generating, 201),
        f"GET /api/v1/tasks/{TASK['id']}": [Answer(generating), Answer(TASK)],
    }
    with StubHttpServer(script) as api:
        options = ["--name", "mood", "--description", "The mood.", "--examples", str(examples), "--wait"]
        done = loopai("task", "create", *options, "--url", api.url)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"mood ready ({TASK['id']})\n"
    created = api.asked[0]
    assert created.headers["Prefer"] == "wait=60"
    assert created.body["output_schema"] == {"type": "string", "enum": ["angry", "happy"]}
    assert created.body["examples"] == [
        {"input": {"text": "lovely day"}, "output": "happy"},
        {"input": {"text": "terrible [day]"}, "output": "angry"},
    ]


def test_create_without_wait_returns_at_once_and_takes_schemas_from_files(tmp_path: Path) -> None:
    (tmp_path / "in.json").write_text('{"type": "integer"}')
    with StubHttpServer({"POST /api/v1/tasks": Answer({**TASK, "status": "generating"}, 201)}) as api:
        schemas = ["--input-schema", f"@{tmp_path}/in.json", "--output-schema", '{"type": "integer"}']
        done = loopai("task", "create", "--name", "n", "--description", "d", *schemas, "--url", api.url, "--json")

    assert done.returncode == 0
    assert json.loads(done.stdout)["status"] == "generating"
    assert "Prefer" not in api.asked[0].headers
    assert api.asked[0].body["input_schema"] == {"type": "integer"}


def test_create_whose_generation_fails_says_why_and_exits_1() -> None:
    failed = {**TASK, "status": "failed", "status_reason": "accuracy 0.4 is below 0.9", "active_version": None}
    with StubHttpServer({"POST /api/v1/tasks": Answer(failed, 201)}) as api:
        options = ["--name", "n", "--description", "d", "--output-schema", "{}", "--wait"]
        done = loopai("task", "create", *options, "--url", api.url)

    assert done.returncode == 1
    assert "accuracy 0.4 is below 0.9" in done.stderr


def test_error_of_the_api_is_shown_with_its_details_and_exits_1() -> None:
    details = [{"field": "accuracy_target", "message": "must be at most 1", "code": "less_than_equal"}]
    body = {"code": "validation_error", "message": "the request is not valid", "details": details}
    with StubHttpServer({"POST /api/v1/tasks": Answer(body, 400)}) as api:
        options = ["task", "create", "--name", "n", "--description", "d", "--output-schema", "{}", "--url", api.url]
        readable, machine = loopai(*options), loopai(*options, "--json")

    assert readable.returncode == machine.returncode == 1
    assert readable.stdout == machine.stdout == ""
    assert readable.stderr == (
        "validation_error: the request is not valid\n  accuracy_target: must be at most 1 (less_than_equal)\n"
    )
    error = json.loads(machine.stderr)["error"]
    assert (error["code"], error["status"], error["details"]) == ("validation_error", 400, details)


@pytest.mark.parametrize(
    ("option", "value", "complaint"),
    [
        ("--input-schema", "{not json", "Expecting property name"),
        ("--input-schema", "@/no/such/file", "No such file"),
        ("--examples", "/no/such/file.tsv", "No such file"),
        ("--examples", "examples.xlsx", "unknown kind of file"),
    ],
)
def test_bad_option_is_a_usage_error_and_nothing_is_sent(option: str, value: str, complaint: str) -> None:
    with StubHttpServer({}) as api:
        options = ["--name", "n", "--description", "d", "--output-schema", "{}", option, value]
        done = loopai("task", "create", *options, "--url", api.url)

    assert done.returncode == 2
    assert complaint in done.stderr
    assert api.asked == []


def test_create_without_output_schema_and_labels_is_a_usage_error() -> None:
    done = loopai("task", "create", "--name", "n", "--description", "d")
    assert done.returncode == 2
    assert "--output-schema" in done.stderr


def test_list_follows_the_pages() -> None:
    second = {**TASK, "name": "second", "status": "failed", "active_version": None}
    script = {
        "GET /api/v1/tasks?limit=200": Answer({"items": [TASK], "next_cursor": "c2"}),
        "GET /api/v1/tasks?limit=200&cursor=c2": Answer({"items": [second], "next_cursor": None}),
    }
    with StubHttpServer(script) as api:
        readable, machine = loopai("task", "list", "--url", api.url), loopai("task", "list", "--url", api.url, "--json")

    assert readable.returncode == machine.returncode == 0
    header, _, *rows = [line.split() for line in readable.stdout.splitlines() if line.strip()]
    assert header == ["name", "status", "active", "versions", "created"]
    assert [row[:3] for row in rows] == [["mood", "ready", "1"], ["second", "failed", "-"]]
    assert json.loads(machine.stdout) == [TASK, second]


def test_show_prints_the_task_and_its_versions() -> None:
    script = {
        "GET /api/v1/tasks/mood": Answer(TASK),
        "GET /api/v1/tasks/mood/artifacts?limit=200": Answer({"items": [ARTIFACT], "next_cursor": None}),
    }
    with StubHttpServer(script) as api:
        done = loopai("task", "show", "mood", "--url", api.url)

    assert done.returncode == 0
    assert "The mood of a message." in done.stdout
    assert done.stdout.strip().splitlines()[-1].split() == [
        *("1", "active", "100", "%", "ml", "0.987", "12,345", "0123456789ab")
    ]


@pytest.mark.parametrize(
    ("arguments", "stdin"),
    [
        (["--text", "lovely"], None),
        (["--input", '{"text": "lovely"}'], None),
        ([], '{"text": "lovely"}'),
    ],
)
def test_execute_takes_text_json_or_stdin(arguments: list[str], stdin: str | None) -> None:
    with StubHttpServer({"POST /api/v1/tasks/mood/execute": Answer(EXECUTION)}) as api:
        done = loopai("execute", "mood", *arguments, "--url", api.url, stdin=stdin)

    assert (done.returncode, done.stdout) == (0, "happy\n")
    assert api.asked[0].body == {"input": {"text": "lovely"}}


def test_execute_prints_structured_output_as_json_and_the_whole_record_when_asked() -> None:
    result = {**EXECUTION, "output": {"total": 3}}
    with StubHttpServer({"POST /api/v1/tasks/mood/execute": Answer(result)}) as api:
        plain = loopai("execute", "mood", "--text", "x", "--url", api.url)
        machine = loopai("execute", "mood", "--text", "x", "--url", api.url, "--json")

    assert plain.stdout == '{"total": 3}\n'
    assert json.loads(machine.stdout) == result


def test_program_that_raises_exits_3_with_its_message() -> None:
    result = {**EXECUTION, "status": "error", "output": None, "error_message": "KeyError: 'text'"}
    with StubHttpServer({"POST /api/v1/tasks/mood/execute": Answer(result)}) as api:
        done = loopai("execute", "mood", "--input", "{}", "--url", api.url)

    assert (done.returncode, done.stdout) == (3, "")
    assert "KeyError: 'text'" in done.stderr


def test_two_inputs_are_a_usage_error() -> None:
    assert loopai("execute", "mood", "--text", "a", "--input", "1").returncode == 2


def test_nobody_at_the_url_exits_4_and_says_how_to_start() -> None:
    done = loopai("tasks", "list", "--url", f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 4
    assert "loopai up" in done.stderr


def test_foreign_server_at_the_url_is_told_from_loopai() -> None:
    with StubHttpServer({"GET /api/v1/tasks?limit=200": Answer("<html>hello</html>")}) as foreign:
        done = loopai("task", "list", "--url", foreign.url)
    assert done.returncode == 1
    assert "is the URL right?" in done.stderr
