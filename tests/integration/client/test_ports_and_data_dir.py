"""The port check and the lock of a data directory, against real sockets and real processes."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from loopai_client.local.data_dir import AlreadyRunning, StillRunning, held, running_stack, stop_running
from loopai_client.local.nats_server import free_port
from loopai_client.local.ports import PortTaken, listener, require_free

HOLDER = """
import signal, sys, time
if "deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
from pathlib import Path
from loopai_client.local.data_dir import held
with held(Path(sys.argv[1]), "http://127.0.0.1:1"):
    print("held", flush=True)
    time.sleep(600)
"""


@contextmanager
def holder(data_dir: Path, *options: str) -> Iterator["subprocess.Popen[str]"]:
    """A process that holds the data directory."""
    command = [sys.executable, "-c", HOLDER, str(data_dir), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_free_port_can_be_had() -> None:
    require_free("127.0.0.1", free_port())


@pytest.mark.skipif(sys.platform != "linux", reason="not on this platform: reads /proc")
def test_taken_port_names_who_has_it_and_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(PortTaken) as taken:
            require_free("127.0.0.1", port)
    assert re.fullmatch(
        rf"port {port} on 127\.0\.0\.1 is taken by process {os.getpid()} \(.+\)\. "
        r"Stop that, or choose another port: --port \d+\.",
        str(taken.value),
    )


def test_nobody_listens_on_a_free_port() -> None:
    assert listener(free_port()) is None


def test_second_holder_is_told_about_the_first(tmp_path: Path) -> None:
    with holder(tmp_path) as first, pytest.raises(AlreadyRunning) as refused, held(tmp_path, "http://127.0.0.1:2"):
        pytest.fail("two hold the directory")
    assert f"http://127.0.0.1:1 (process {first.pid})" in str(refused.value)


def test_directory_of_a_killed_holder_is_free(tmp_path: Path) -> None:
    with holder(tmp_path) as first:
        first.kill()
        first.wait()
        assert running_stack(tmp_path) is None
        with held(tmp_path, "http://127.0.0.1:2"):
            pass


def test_stop_ends_the_holder_and_returns_once_it_is_gone(tmp_path: Path) -> None:
    with holder(tmp_path) as first:
        stopped = stop_running(tmp_path, timeout_seconds=30)
        assert stopped is not None
        assert stopped.pid == first.pid
        assert first.wait(30) == -signal.SIGTERM


def test_stop_of_nothing_is_no_error(tmp_path: Path) -> None:
    assert stop_running(tmp_path / "never-used", timeout_seconds=1) is None


def test_stop_gives_up_on_a_holder_that_does_not_end(tmp_path: Path) -> None:
    with holder(tmp_path, "deaf") as first, pytest.raises(StillRunning, match=str(first.pid)):
        stop_running(tmp_path, timeout_seconds=0.2)
