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


@dataclass(frozen=True, slots=True)
class Target:
    """Where the load goes; ``bodies`` are sent in turn."""

    host: str
    port: int
    path: str
    bodies: Sequence[bytes]


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
        bodies = Path(directory, "bodies.jsonl")
        bodies.write_bytes(b"\n".join(target.bodies) + b"\n")
        command = (_wrk if generator() == "wrk" else _own)(target, bodies, connections, seconds)
        limit = seconds + _SLACK_SECONDS
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=True)
    result: Any = json.loads(done.stdout.splitlines()[-1])
    return Load(**result)


def _own(target: Target, bodies: Path, connections: int, seconds: float) -> list[str]:
    options = [target.host, str(target.port), target.path, str(bodies), str(connections), str(seconds)]
    return [sys.executable, "-m", "benchmarks.load_client", *options]


def _wrk(target: Target, bodies: Path, connections: int, seconds: float) -> list[str]:
    script = bodies.with_name("post.lua")
    script.write_text(_WRK_SCRIPT)
    url = f"http://{target.host}:{target.port}{target.path}"
    duration = f"{max(1, round(seconds))}s"
    return ["wrk", "-t1", f"-c{connections}", f"-d{duration}", "-s", str(script), url, "--", str(bodies)]


_WRK_SCRIPT = """
local requests, at = {}, 0
function init(args)
  for body in io.lines(args[1]) do
    requests[#requests + 1] = wrk.format("POST", nil, {["Content-Type"] = "application/json"}, body)
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
