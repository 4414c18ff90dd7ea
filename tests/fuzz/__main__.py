"""``python -m tests.fuzz --seconds 20 [TARGET …]``: fuzzes each target that long; exit code 1 when one was broken.

Each target runs in a process of its own. Its corpus begins with the target's seeds and is thrown away, unless
``--corpus`` names a directory to keep it in. The input that broke a promise is printed, to become a test.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMES = ("fast_lane", "frames", "json_texts", "parts", "worker_pipe")

_SLACK_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Outcome:
    """``inputs`` were run; ``broken_by`` is the one that broke a promise, and ``report`` says which."""

    inputs: int
    broken_by: bytes | None
    report: str


def fuzz(target: str, seconds: int, directory: Path) -> Outcome:
    """Fuzzes one target; the corpus is in ``directory``."""
    command = [sys.executable, "-m", "tests.fuzz.engine", target, "--seconds", str(seconds)]
    done = subprocess.run(
        [*command, "--directory", str(directory)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=seconds + _SLACK_SECONDS,
    )
    counted = re.search(r"stat::number_of_executed_units:\s*(\d+)", done.stdout)
    inputs = int(counted[1]) if counted else 0
    if done.returncode == 0:
        return Outcome(inputs, None, "")
    broken = sorted(directory.glob("broken-*"))
    return Outcome(inputs, broken[0].read_bytes() if broken else b"", done.stdout)


def main() -> int:
    """Fuzzes what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"which: {', '.join(NAMES)} (all)")
    parser.add_argument("--seconds", type=int, default=20, help="for each target (20)")
    parser.add_argument("--corpus", type=Path, help="keep the corpora here")
    options = parser.parse_args()
    unknown = set(options.targets) - set(NAMES)
    if unknown:
        parser.error(f"unknown target {', '.join(sorted(unknown))}")
    broken = 0
    with tempfile.TemporaryDirectory(prefix="loopai-fuzz-") as scratch:
        for name in options.targets or NAMES:
            outcome = fuzz(name, options.seconds, (options.corpus or Path(scratch)).resolve() / name)
            print(f"{name}: {outcome.inputs:,} inputs{'' if outcome.broken_by is None else ', BROKEN'}", flush=True)
            if outcome.broken_by is not None:
                broken += 1
                print(f"{outcome.report}\nby {outcome.broken_by!r}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
