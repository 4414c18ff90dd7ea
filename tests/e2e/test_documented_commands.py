"""Every command in the documents: run against a real stack, or marked with the reason why not."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.documentation import ROOT, blocks, blocks_in, pages, run, run_blocks

BY_THEIR_OWN_TESTS = {"docs/backup.md": "tests/integration/artifact_store/test_store_commands.py"}
COMMANDS = [page for page in pages() if any(block.reason is None for block in blocks(page))]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that looks like a checkout after `make`, without being one that a command could spoil."""
    home = tmp_path_factory.mktemp("checkout")
    (home / ".venv" / "bin").mkdir(parents=True)
    (home / ".venv" / "bin" / "loopai").symlink_to(Path(sys.executable).with_name("loopai"))
    for name in ("examples", "compose", "Makefile"):
        (home / name).symlink_to(ROOT / name)
    return home


@pytest.fixture(scope="module")
def url(home: Path) -> Iterator[str]:
    """Where the API of `loopai up` in that directory answers."""
    command = [".venv/bin/loopai", "up", "--json", "--port", "0"]
    with subprocess.Popen(command, cwd=home, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            events = map(json.loads, process.stdout)
            yield next(str(event["url"]) for event in events if event["event"] == "up")
        finally:
            process.terminate()
            process.wait(60)


@pytest.mark.parametrize("page", [page for page in COMMANDS if page not in BY_THEIR_OWN_TESTS])
def test_commands_of_a_page_run_in_their_order(page: str, url: str, home: Path) -> None:
    run(page, url, home)


@pytest.mark.parametrize("page", [page for page in COMMANDS if page in BY_THEIR_OWN_TESTS])
def test_other_pages_have_a_test_of_their_own(page: str) -> None:
    assert Path(page).name in (ROOT / BY_THEIR_OWN_TESTS[page]).read_text()


@pytest.mark.parametrize(
    ("markdown", "complaint"),
    [
        ("```sh\nfalse\n```", "made-up.md:1 exits with 1"),
        ("```sh\ntrue\n```\n```sh\ncurl -s localhost:8080/api/v1/tasks/nobody\n```", "task_not_found"),
        ("```console\n$ echo yes\nno\n```", "made-up.md:1 shows"),
        ("```python\nraise SystemExit(3)\n```", "exits with 3"),
    ],
)
def test_a_command_that_fails_or_prints_something_else_is_found(
    markdown: str, complaint: str, url: str, home: Path
) -> None:
    with pytest.raises(AssertionError, match=complaint):
        run_blocks(list(blocks_in("made-up.md", markdown)), url, home)


def test_blocks_that_are_not_run_say_why() -> None:
    reasons = {str(block): block.reason for page in pages() for block in blocks(page) if block.reason is not None}
    assert reasons
    assert all(len(reason.split()) > 2 for reason in reasons.values()), reasons
