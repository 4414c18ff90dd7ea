"""HTTP load, in a closed loop or an open one.

In a closed loop each connection posts the next body as soon as it has the answer to the one before: by ``wrk`` where
it is on the PATH, which costs the machine least, else by :mod:`benchmarks.load_client`, the same loop in Python. In an
open loop, which is the client's alone, requests are sent when they are due, whether or not the ones before are
answered. Either is a process of its own, so that its CPU is not the servers'.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from benchmarks.schedule import Stage
from benchmarks.tally import Tally

_SLACK_SECONDS = 30.0
_RATE_OF_A_CLIENT = 50_000
_ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Request:
    """A POST; neither path nor body holds a tab or a line break."""

    path: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Target:
    """Where the load goes; ``requests`` are sent in turn. Only open loops send ``authorization``, and know TLS."""

    host: str
    port: int
    requests: Sequence[Request]
    tls: bool = False
    authorization: str = ""


@dataclass(frozen=True, slots=True)
class Load:
    """What a run of load saw. ``errors`` are answers other than 200, and connections that broke."""

    requests: int
    errors: int
    seconds: float
    p50_ms: float
    p95_ms: float
    p99_ms: float

    @property
    def requests_per_second(self) -> float:
        """Throughput."""
        return self.requests / self.seconds


def generator() -> str:
    """The name of the load generator that is used here."""
    return "wrk" if shutil.which("wrk") else "benchmarks.load_client"


@dataclass(frozen=True, slots=True)
class Staged:
    """What a run of several stages saw; ``late_ms`` is by how much the load generator itself was late at most."""

    stages: Sequence[Tally]
    seconds: float
    late_ms: float


def run(target: Target, *, connections: int, seconds: float) -> Load:
    """Puts load on the target for ``seconds``, in a closed loop."""
    if generator() == "wrk":
        return _wrk(target, connections, seconds)
    return _load(_own(target, connections, seconds, []))


def run_at_rate(target: Target, *, connections: int, seconds: float, rate: float) -> Load:
    """Sends ``rate`` requests a second whether or not the ones before are answered (an open loop).

    Latency counts from the moment at which a request was due, so that a stall is not left out of the figures
    (coordinated omission).
    """
    return _load(run_stages(target, connections=connections, stages=[Stage(seconds, rate, rate)]))


def run_stages(target: Target, *, connections: int, stages: Sequence[Stage]) -> Staged:
    """As :func:`run_at_rate`, stage after stage, by as many processes as the highest rate needs, one a core at most."""
    return _own(target, connections, sum(stage.seconds for stage in stages), stages)


def _load(staged: Staged) -> Load:
    (tally,) = staged.stages
    percentiles = (tally.percentile_ms(share) for share in (0.50, 0.95, 0.99))
    return Load(tally.answers, tally.errors, staged.seconds, *percentiles)


def _own(target: Target, connections: int, seconds: float, stages: Sequence[Stage]) -> Staged:
    highest = max((max(stage.start_rate, stage.end_rate) for stage in stages), default=0.0)
    clients = max(1, min(ceil(highest / _RATE_OF_A_CLIENT), len(os.sched_getaffinity(0)), connections))
    plan = {
        "host": target.host,
        "port": target.port,
        "tls": target.tls,
        "authorization": target.authorization,
        "requests": [(request.path, request.body.decode()) for request in target.requests],
        "connections": ceil(connections / clients),
        "seconds": seconds,
        "stages": [(stage.seconds, stage.start_rate / clients, stage.end_rate / clients) for stage in stages],
    }
    command = [sys.executable, "-m", "benchmarks.load_client"]
    with ExitStack() as stack:
        running = []
        for _ in range(clients):
            client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_ROOT)
            stack.callback(_end, client)
            assert client.stdin is not None
            client.stdin.write(json.dumps(plan) + "\n")
            client.stdin.flush()
            running.append(client)
        results: list[Any] = [_said(client, seconds + _SLACK_SECONDS) for client in running]
    tallies = [Tally.of(parts) for parts in zip(*(result["stages"] for result in results), strict=True)]
    return Staged(tallies, max(r["seconds"] for r in results), max(r["late_ms"] for r in results))


def _said(client: "subprocess.Popen[str]", seconds: float) -> Any:
    """What the client printed at its end; raises what :func:`subprocess.run` does."""
    said, _ = client.communicate(timeout=seconds)
    if client.returncode:
        raise subprocess.CalledProcessError(client.returncode, client.args)
    return json.loads(said)


def _end(client: "subprocess.Popen[str]") -> None:
    if client.poll() is None:
        client.kill()
        client.communicate()


def _wrk(target: Target, connections: int, seconds: float) -> Load:
    with tempfile.TemporaryDirectory(prefix="loopai-load-") as directory:
        requests, script = Path(directory, "requests.tsv"), Path(directory, "post.lua")
        requests.write_bytes(
            b"".join(b"%b\t%b\n" % (request.path.encode(), request.body) for request in target.requests)
        )
        script.write_text(_WRK_SCRIPT)
        options = ["-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", str(script)]
        command = ["wrk", *options, f"http://{target.host}:{target.port}", "--", str(requests)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=seconds + _SLACK_SECONDS, check=True)
    result: Any = json.loads(done.stdout.splitlines()[-1])
    return Load(**result)


_WRK_SCRIPT = """
local requests, at = {}, 0
function init(args)
  for line in io.lines(args[1]) do
    local path, body = line:match("^(.-)\t(.*)$")
    requests[#requests + 1] = wrk.format("POST", path, {["Content-Type"] = "application/json"}, body)
  end
end
function request()
  at = at % #requests + 1
  return requests[at]
end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '{"requests": %d, "errors": %d, "seconds": %.6f, "p50_ms": %.3f, "p95_ms": %.3f, "p99_ms": %.3f}\\n',
    summary.requests, e.connect + e.read + e.write + e.status + e.timeout, summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(95) / 1e3, latency:percentile(99) / 1e3))
end
"""
