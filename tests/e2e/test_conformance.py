"""schemathesis, with every check it has, against both versions of the running product."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from loopai_client.local.key_file import changed_keys
from loopai_common.keys import Scope, new_key
from tests.support.stack import LocalStack

ROOT = Path(__file__).parents[2]
EXAMPLES = 5
SECONDS = 180.0

# Where a request that satisfies the schema may be refused all the same: an input is checked against the task's own
# schema, a definition against itself, a cursor must be one that a page gave, options of a stream are not for a JSON
# batch, a key belongs to one body, the tool archives the tasks it goes on to use, and a second API key beside the first
# has to be a good one.
CONFIGURATION = """
hooks = "tests.support.ndjson"

[checks]
positive_data_acceptance.expected-statuses = ["2xx", 304, 400, 401, 404, 409, 410, 412, 422]
negative_data_rejection.expected-statuses = [400, 401, 404, 405, 409, 410, 412, 413, 415, 422]

# A line that is no item fails alone, in an answer that is 200.
[[operations]]
include-operation-id-regex = "_execute_batch$"
checks.negative_data_rejection.expected-statuses = [200, 400, 401, 404, 405, 409, 410, 413, 415]

# It has no end.
[[operations]]
include-operation-id-regex = "_follow_task$"
enabled = false

[parameters]
Prefer = "wait=1"
"""


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_product_is_what_its_document_says(tmp_path: Path, version: str) -> None:
    """In a stack of its own, which the tool fills with tasks, and which asks for keys, as the document says."""
    key, known = new_key(scopes=[Scope.ADMIN])
    with changed_keys(tmp_path / "keys.json") as keys:
        keys[known.id] = known
    with LocalStack(tmp_path / "stack", keys_file=tmp_path / "keys.json") as stack:
        _conforms(stack.base_url, key, tmp_path, version)


def _conforms(url: str, key: str, tmp_path: Path, version: str) -> None:
    configuration = tmp_path / "schemathesis.toml"
    configuration.write_text(CONFIGURATION)
    command = [
        *(sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"),
        *("--config-file", str(configuration), "run", f"{url}/api/{version}/openapi.json"),
        *("--header", f"Authorization: Bearer {key}"),
        *("--checks", "all", "--phases", "examples,coverage,fuzzing,stateful"),
        *("--max-examples", str(EXAMPLES), "--generation-deterministic"),
        *("--continue-on-failure", "--no-color", "--report-dir", str(tmp_path)),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert f"Base URL:         {url}" in done.stdout
