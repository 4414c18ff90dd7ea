"""The tasks in ``examples/``, as their reader would use them: created over HTTP, and run on cases not seen before."""

import json
from pathlib import Path
from uuid import uuid4

import pytest

from tests.support.product import V1, Product

EXAMPLES = Path(__file__).parents[2] / "examples"
LEAST_ACCURACY = 0.9


@pytest.mark.parametrize("folder", sorted(path.parent.name for path in EXAMPLES.glob("*/task.json")))
async def test_the_program_answers_cases_it_has_not_seen(product: Product, folder: str) -> None:
    body = json.loads((EXAMPLES / folder / "task.json").read_text(encoding="utf-8"))
    unseen = json.loads((EXAMPLES / folder / "unseen.json").read_text(encoding="utf-8"))
    shown = [json.dumps(example["input"], sort_keys=True) for example in body["examples"]]
    task = await product.create(**{**body, "name": f"{folder}-{uuid4().hex[:8]}"})
    assert task["status"] == "ready", task
    passed = 0
    for case in unseen:
        answer = await product.http.post(f"{V1}/tasks/{task['id']}/execute", json={"input": case["input"]})
        assert answer.status_code == 200, answer.text
        passed += answer.json()["output"] == case["output"]
    assert passed / len(unseen) >= LEAST_ACCURACY
    assert any(json.dumps(case["input"], sort_keys=True) not in shown for case in unseen)
