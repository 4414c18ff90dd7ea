"""What is measured: a running system, as a place to send requests and the processes that serve them."""

import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

from benchmarks.baselines import fastapi_faststream, program
from benchmarks.load import Request, Target
from loopai_client.local.nats_server import NatsServer, free_port

ROOT = Path(__file__).parents[1]

_HOST = "127.0.0.1"
_START_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class System:
    """``processes`` are the roots of the process trees that serve the target, by name."""

    name: str
    target: Target
    processes: Mapping[str, Sequence[int]]


@contextmanager
def fastapi_in_process(source: Path, bodies: Sequence[bytes]) -> Iterator[System]:
    """The baseline that runs the program within FastAPI."""
    port = free_port()
    environment = {program.VARIABLE: str(source)}
    with _web("fastapi_inprocess", port, environment) as web:
        yield System("FastAPI, in process", _target(port, bodies), {"fastapi": [web]})


@contextmanager
def fastapi_and_faststream(source: Path, bodies: Sequence[bytes], directory: Path) -> Iterator[System]:
    """The baseline that sends one FastStream request over NATS for each call."""
    port = free_port()
    nats = NatsServer(directory)
    nats.start()
    try:
        environment = {program.VARIABLE: str(source), fastapi_faststream.NATS_VARIABLE: nats.url}
        with ExitStack() as stack:
            worker = stack.enter_context(_process(["-m", fastapi_faststream.__name__], environment))
            web = stack.enter_context(_web("fastapi_faststream", port, environment))
            processes = {"fastapi": [web], "worker": [worker], "nats-server": [nats.pid]}
            yield System("FastAPI + FastStream", _target(port, bodies), processes)
    finally:
        nats.stop()


def go_is_here() -> bool:
    """Whether there is a Go compiler to build the net/http baseline with."""
    return shutil.which("go") is not None


@contextmanager
def net_http(bodies: Sequence[bytes], directory: Path) -> Iterator[System]:
    """The baseline in Go: net/http, and the tiny program in process."""
    binary = directory / "net_http"
    source = Path(__file__).parent / "baselines" / "net_http"
    subprocess.run(["go", "build", "-o", str(binary), "."], cwd=source, check=True)
    port = free_port()
    with _run([str(binary), f"{_HOST}:{port}"], {}) as pid:
        yield System("Go net/http, in process", _target(port, bodies), {"go": [pid]})


def _target(port: int, bodies: Sequence[bytes]) -> Target:
    return Target(_HOST, port, [Request("/execute", body) for body in bodies])


def post(target: Target, request: Request) -> bytes:
    """One request; returns the body of the answer, raises :class:`~urllib.error.URLError`."""
    url = f"http://{target.host}:{target.port}{request.path}"
    posted = urllib.request.Request(url, request.body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(posted, timeout=10) as response:
        answer: bytes = response.read()
    return answer


def wait_until_it_answers(target: Target) -> bytes:
    """Asks until the system gives its first answer, which is returned; raises the last error after half a minute."""
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            return post(target, target.requests[0])
        except (URLError, OSError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@contextmanager
def _web(module: str, port: int, environment: Mapping[str, str]) -> Iterator[int]:
    app = f"benchmarks.baselines.{module}:create_app"
    options = ["--host", _HOST, "--port", str(port), "--no-access-log", "--log-level", "warning"]
    with _process(["-m", "uvicorn", app, "--factory", *options], environment) as pid:
        yield pid


@contextmanager
def _process(arguments: Sequence[str], environment: Mapping[str, str]) -> Iterator[int]:
    with _run([sys.executable, *arguments], environment) as pid:
        yield pid


@contextmanager
def _run(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[int]:
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment}) as process:
        try:
            yield process.pid
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
