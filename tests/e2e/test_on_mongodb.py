"""The whole product with MongoDB behind it, as `loopai up --mongo` runs it: no data of its own on this machine."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from pymongo import MongoClient

from tests.support.builders import definition_body
from tests.support.processes import wait_for
from tests.support.product import V1
from tests.support.servers import Mongo

DATABASE = "of-the-url"
WAIT = {"Prefer": "wait=60"}


@pytest.fixture
def database_url(mongo: Mongo) -> Iterator[str]:
    """The address of a database of the test's own."""
    yield urlsplit(mongo.url)._replace(path=f"/{DATABASE}").geturl()
    with MongoClient[dict[str, Any]](mongo.url) as client:
        client.drop_database(DATABASE)


@contextmanager
def running(data_dir: Path, *options: str) -> Iterator[httpx.Client]:
    """A stack that the command runs, until the end of ``with``."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LOOPAI_")}
    command = [sys.executable, "-m", "loopai_client.cli.main", "up", "--json", "--port", "0"]
    command += ["--data-dir", str(data_dir), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=clean) as process:
        try:
            assert process.stdout is not None
            events = (json.loads(line) for line in process.stdout)
            url = next(event["url"] for event in events if event["event"] == "up")
            with httpx.Client(base_url=url, timeout=60) as http:
                yield http
            process.send_signal(signal.SIGINT)
            assert process.wait(120) == 0
        finally:
            process.kill()


def test_a_task_lives_in_mongodb_and_outlives_the_stack(tmp_path: Path, mongo: Mongo, database_url: str) -> None:
    with running(tmp_path / "one", "--mongo", database_url) as http:
        examples = [{"input": {"text": f"{word} {n}"}, "output": word} for word in ("spam", "ham") for n in range(30)]
        created = http.post(f"{V1}/tasks", json=definition_body(name="kept", examples=examples), headers=WAIT)
        assert (created.status_code, created.json()["active_version"]) == (201, 1), created.text
        executed = http.post(f"{V1}/tasks/kept/execute", json={"input": {"text": "spam 3"}})
        assert executed.json()["output"] == "spam"
        later = http.post(
            f"{V1}/tasks/kept/execute", json={"input": {"text": "ham 3"}}, headers={"Prefer": "respond-async"}
        )
        assert later.status_code == 202
        wait_for(lambda: http.get(later.headers["Location"]).json()["status"] == "success", "the record")
        code = http.get(f"{V1}/tasks/kept/artifacts/1/code").text
    assert not list((tmp_path / "one").glob("*.sqlite3")) + list((tmp_path / "one").glob("artifacts"))

    with running(tmp_path / "two", "--mongo", database_url) as http:  # another machine, as far as it can tell
        assert http.get(f"{V1}/tasks/kept").json()["total_examples"] == len(examples)
        executed = http.post(f"{V1}/tasks/kept/execute", json={"input": {"text": "spam 3"}})
        assert (executed.status_code, executed.json()["output"]) == (200, "spam")
        assert http.get(later.headers["Location"]).json()["output"] == "ham"
        again = http.post(f"{V1}/tasks/kept/artifacts", json={"code": code.replace("def run", "\n\ndef run")})
        assert (again.status_code, again.json()["version"]) == (201, 2), again.text
    with MongoClient[dict[str, Any]](mongo.url) as client:
        database = client[DATABASE]
        assert {name: database[name].count_documents({}) for name in ("tasks", "artifacts", "programs")} == {
            "tasks": 1,
            "artifacts": 2,
            "programs": 2,
        }
