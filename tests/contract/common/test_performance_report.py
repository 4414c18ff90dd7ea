"""The published performance report."""

import json

from benchmarks.document import page
from tests.support.contracts import ROOT


def test_the_published_report_is_what_is_made_from_the_published_results() -> None:
    files = sorted((ROOT / "benchmarks" / "published").glob("*.json"))
    assert files
    made = page([json.loads(file.read_text()) for file in files])
    assert (ROOT / "docs" / "performance-report.md").read_text() == made, "run `make report`"
