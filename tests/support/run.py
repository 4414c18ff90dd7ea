"""What `make test` runs: every test with branch coverage of all processes, and a summary of what was not run.

Arguments go to pytest. In CI (``CI=true``) a skipped test is an error, unless its reason starts with
``not on this platform``: a server that cannot be had must not go unnoticed.

Without arguments, a few tests that failed are run once more, alone. Those that pass then are named as unstable: on a
machine that is busy for some seconds they do not stop a change, and nobody overlooks them.
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

_TESTS_FAILED = 1
_RUN_AGAIN = 5
"""More failures than these have a cause that is no accident."""
_COVERAGE = (sys.executable, "-m", "coverage")


def main(arguments: Sequence[str]) -> int:
    """Runs the tests and returns the exit code."""
    started = time.monotonic()
    _coverage("erase")
    with tempfile.TemporaryDirectory(prefix="loopai-tests-") as directory:
        results = Path(directory, "results.xml")
        options = ["-n", "2", "--dist", "worksteal", "--junitxml", str(results)]
        code = _pytest(*options, *arguments)
        report = results.read_text() if results.exists() else "<testsuites />"
    skipped = Counter(skips(report))
    failed = list(failures(report))
    run_again = code == _TESTS_FAILED and not arguments and len(failed) <= _RUN_AGAIN
    if run_again:
        code = _pytest("--last-failed", "--last-failed-no-failures", "none")
    _coverage("combine", "--quiet")
    for unreadable in ROOT.glob(".coverage.*"):  # of processes that a test killed while they wrote it
        unreadable.unlink()
    covered = _coverage("report", "--skip-covered") == 0
    print(f"\n{time.monotonic() - started:.0f} s")
    if run_again:
        print("\nFailed, and then run once more, alone (a test that passed then is unstable; mend it):")
        print(*(f"  {test}" for test in failed), sep="\n")
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


def failures(junit: str) -> Iterator[str]:
    """The name of each test that failed, or whose fixtures did, in pytest's XML report."""
    for case in ET.fromstring(junit).iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            yield f"{case.get('classname')}.{case.get('name')}"


def _pytest(*arguments: str) -> int:
    return subprocess.run([*_COVERAGE, "run", "-m", "pytest", *arguments], cwd=ROOT).returncode


def _coverage(*arguments: str) -> int:
    return subprocess.run([*_COVERAGE, *arguments], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
