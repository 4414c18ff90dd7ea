"""Every program of the hostile corpus is contained: by a sandbox started by root, and by one of an ordinary user."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_ROOT = Path(__file__).parents[3]
_CORPUS = [json.loads(line) for line in (_ROOT / "tests/data/hostile_programs.jsonl").read_text().splitlines()]
_CANARY = "canary-7f3d2c9b"
_CANARY_FILE = Path("/tmp/loopai-canary/secret.txt")
_ORDINARY_USER = "65534"

# Makes the interpreter reachable for a user who may not enter the home it lies in: in a mount namespace of its own, the
# directory above is replaced by one that everybody may enter.
_AS_ORDINARY_USER = """
set -e
prefix=$1; home=$2; shift 2
mount --make-rprivate /
mount --bind "$prefix" /mnt
mount -t tmpfs -o mode=0755 none "$home"
mkdir -p "$prefix"
mount --move /mnt "$prefix"
exec setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all --bounding-set=-all "$@"
"""


class Sandbox:
    """A process with a sandbox in it, which programs are given to one by one."""

    def __init__(self, command: list[str]) -> None:
        environment = {"PATH": "/usr/bin:/bin", "CANARY": _CANARY, "PYTHONDONTWRITEBYTECODE": "1"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_ROOT, env=environment
        )

    def run(self, source: str, value: Any, timeout_ms: int = 60) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"source": source, "input": value, "timeout_ms": timeout_ms}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the sandbox's process ended"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(30) == 0


def _command_of(user: str) -> list[str]:
    script = [sys.executable, "-m", "tests.support.hostile"]
    if user == "own":
        return script
    if os.geteuid() != 0:
        pytest.skip("only root can become another user; the sandbox of an ordinary user is what 'own' tests here")
    for tool in ("unshare", "setpriv", "mount"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is needed to become another user")
    prefix = Path(sys.base_prefix).resolve()
    closed = next((p for p in reversed(prefix.parents) if not p.stat().st_mode & 0o001), None)
    if closed is None:
        return ["setpriv", "--reuid", _ORDINARY_USER, "--regid", _ORDINARY_USER, "--clear-groups", *script]
    return ["unshare", "--mount", "sh", "-c", _AS_ORDINARY_USER, "sh", str(prefix), str(closed), *script]


@pytest.fixture(scope="module", params=["own", "ordinary"])
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    sandbox = Sandbox(_command_of(request.param))
    yield sandbox
    sandbox.stop()


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """The canary where the corpus looks for it, and one more beside; neither may change."""
    _CANARY_FILE.parent.mkdir(mode=0o755, exist_ok=True)
    second = tmp_path / "secret.txt"
    second.write_text(_CANARY)
    second.chmod(0o644)
    if not _CANARY_FILE.exists():
        # Other tests read it at the same time: it is there whole, or not at all.
        whole = tmp_path / "whole.txt"
        shutil.copy(second, whole)
        shutil.move(whole, _CANARY_FILE)
    yield second
    for file in (_CANARY_FILE, second):
        assert file.read_text() == _CANARY
    assert {p.name for p in _CANARY_FILE.parent.iterdir()} == {_CANARY_FILE.name}


@pytest.mark.parametrize("case", _CORPUS, ids=lambda case: case["id"])
def test_hostile_program_is_contained(sandbox: Sandbox, canary: Path, case: dict[str, Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        value = {"port": listener.getsockname()[1]} if case["input"] == "PORT" else case["input"]
        outcome = sandbox.run(case["source"], value)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert _CANARY not in json.dumps(outcome)
    assert "root:" not in json.dumps(outcome)
    assert outcome["neighbour_answered"]
    assert outcome["zygote_alive"]
    assert len(outcome["answers"]) == 2
    assert all(kind in range(4) for kind, _ in outcome["answers"])


def test_second_canary_is_not_read_either(sandbox: Sandbox, canary: Path) -> None:
    outcome = sandbox.run("def run(x):\n    return open(x).read()\n", str(canary))
    assert outcome["answers"][0] == [
        1,
        ["program_raised", f"PermissionError: [Errno 13] Permission denied: '{canary}'"],
    ]


def test_the_ordinary_user_is_one(sandbox: Sandbox, request: pytest.FixtureRequest) -> None:
    uid = sandbox.run("def run(x):\n    return x\n", 1)["uid"]
    assert uid == (65534 if request.node.callspec.params["sandbox"] == "ordinary" else os.geteuid())
