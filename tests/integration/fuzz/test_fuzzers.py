"""Each fuzzer for a short while; ``python -m tests.fuzz`` runs them for as long as one likes."""

import importlib.util
from pathlib import Path

import pytest

from tests.fuzz.__main__ import NAMES, fuzz

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="not on this platform: atheris has wheels for Linux on x86-64"
)


@pytest.mark.parametrize("target", NAMES)
def test_no_input_breaks_a_promise(target: str, tmp_path: Path) -> None:
    outcome = fuzz(target, 3, tmp_path)
    assert outcome.broken_by is None, f"{outcome.report}\nby {outcome.broken_by!r}"
    assert outcome.inputs > len(list(tmp_path.glob("corpus/seed-*"))), "more than the seeds was tried"
