"""What `make test` runs: every test with branch coverage of all processes, and a summary of what was not run.

Arguments go to pytest. In CI (``CI=true``) a skipped test is an error, unless its reason starts with
``not on this platform``: a server that cannot be had must not go unnoticed.
"""

import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOLERATED_REASON = "not on this platform"

_COVERAGE = (sys.executable, "-m", "coverage")


def main(arguments: Sequence[str]) -> int:
    """Runs the tests and returns the exit code."""
    started = time.monotonic()
    _coverage("erase")
    with tempfile.TemporaryDirectory(prefix="loopai-tests-") as directory:
        results = Path(directory, "results.xml")
        options = ["-n", "2", "--dist", "worksteal", "--junitxml", str(results)]
        command = [*_COVERAGE, "run", "-m", "pytest", *options, *arguments]
        code = subprocess.run(command, cwd=ROOT).returncode
        skipped = Counter(skips(results.read_text())) if results.exists() else Counter()
    _coverage("combine", "--quiet")
    for unreadable in ROOT.glob(".coverage.*"):  # of processes that a test killed while they wrote it
        unreadable.unlink()
    covered = _coverage("report", "--skip-covered") == 0
    print(f"\n{time.monotonic() - started:.0f} s")
    unexpected = 0
    if skipped:
        print(f"\nNot run ({skipped.total()}):")
    for (test, reason), times in sorted(skipped.items()):
        print(f"  {test}{f' ({times} times)' if times > 1 else ''}: {reason}")
        unexpected += not reason.startswith(TOLERATED_REASON)
    if code == 0 and unexpected and os.environ.get("CI") == "true":
        print("\nIn CI nothing may be skipped for want of a server.")
        return 1
    if code == 0 and not covered and not arguments:
        print("\nToo little of the code is covered (fail_under in pyproject.toml).")
        return 1
    return code


def skips(junit: str) -> Iterator[tuple[str, str]]:
    """The name and the reason of each skipped test in pytest's XML report, which this process caused to be written."""
    for case in ET.fromstring(junit).iter("testcase"):
        for skipped in case.iter("skipped"):
            if skipped.get("type") == "pytest.skip":
                yield f"{case.get('classname')}.{case.get('name')}", str(skipped.get("message"))


def _coverage(*arguments: str) -> int:
    return subprocess.run([*_COVERAGE, *arguments], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
