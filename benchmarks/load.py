"""Closed-loop HTTP load: each connection posts the next body as soon as it has the answer to the one before.

``wrk`` where it is on the PATH, which costs the machine least; else :mod:`benchmarks.load_client`, the same loop in
Python. Either is a process of its own, so that its CPU is not the servers'.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SLACK_SECONDS = 30.0
_ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Request:
    """A POST; neither path nor body holds a tab or a line break."""

    path: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Target:
    """Where the load goes; ``requests`` are sent in turn."""

    host: str
    port: int
    requests: Sequence[Request]


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


def run(target: Target, *, connections: int, seconds: float) -> Load:
    """Puts load on the target for ``seconds``."""
    with tempfile.TemporaryDirectory(prefix="loopai-load-") as directory:
        command = (_wrk if generator() == "wrk" else _own)(target, _written(target, directory), connections, seconds)
        return _result(command, seconds)


def run_at_rate(target: Target, *, connections: int, seconds: float, rate: float) -> Load:
    """Sends ``rate`` requests a second whether or not the ones before are answered (an open loop).

    Latency counts from the moment at which a request was due, so that a stall is not left out of the figures
    (coordinated omission).
    """
    with tempfile.TemporaryDirectory(prefix="loopai-load-") as directory:
        command = [*_own(target, _written(target, directory), connections, seconds), str(rate)]
        return _result(command, seconds)


def _written(target: Target, directory: str) -> Path:
    path = Path(directory, "requests.tsv")
    path.write_bytes(b"".join(b"%b\t%b\n" % (request.path.encode(), request.body) for request in target.requests))
    return path


def _result(command: Sequence[str], seconds: float) -> Load:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, timeout=seconds + _SLACK_SECONDS, check=True, cwd=_ROOT
    )
    result: Any = json.loads(done.stdout.splitlines()[-1])
    return Load(**result)


def _own(target: Target, requests: Path, connections: int, seconds: float) -> list[str]:
    options = [target.host, str(target.port), str(requests), str(connections), str(seconds)]
    return [sys.executable, "-m", "benchmarks.load_client", *options]


def _wrk(target: Target, requests: Path, connections: int, seconds: float) -> list[str]:
    script = requests.with_name("post.lua")
    script.write_text(_WRK_SCRIPT)
    url = f"http://{target.host}:{target.port}"
    duration = f"{max(1, round(seconds))}s"
    return ["wrk", "-t1", f"-c{connections}", f"-d{duration}", "-s", str(script), url, "--", str(requests)]


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
