"""What counts as right is the task's to say, and the check before activation keeps to it."""

from typing import Any

import httpx
import pytest

from tests.support.product import V1, Product

EXAMPLES = [
    {"input": {"text": f"{name} lives in {city}"}, "output": {"name": name, "city": city, "country": "Germany"}}
    for name, city in (("Ann", "Hannover"), ("Bob", "Berlin"), ("Eve", "Bremen"))
]
MISSPELT = """
def run(input):
    words = input["text"].split()
    return {"name": words[0], "city": words[-1], "country": "Germani"}
"""
WITHOUT_COUNTRY = """
def run(input):
    words = input["text"].split()
    return {"name": words[0], "city": words[-1], "country": None}
"""


async def upload(product: Product, code: str, **how: Any) -> httpx.Response:
    """A program for a task that is compared so."""
    task = await product.create(examples=EXAMPLES, output_schema={"type": "object"}, **how)
    return await product.http.post(f"{V1}/tasks/{task['id']}/artifacts", json={"code": code})


@pytest.mark.parametrize(
    ("how", "code", "right"),
    [
        ({}, MISSPELT, False),
        ({"comparison": "exact", "comparison_threshold": 0.1}, MISSPELT, False),
        ({"comparison": "fuzzy"}, MISSPELT, True),
        ({"comparison": "fuzzy", "comparison_threshold": 0.9}, MISSPELT, False),
        ({"comparison": "fuzzy"}, WITHOUT_COUNTRY, False),
        ({"comparison": "structured", "comparison_threshold": 0.6}, WITHOUT_COUNTRY, True),
        ({"comparison": "structured"}, WITHOUT_COUNTRY, False),
    ],
)
async def test_a_program_is_accepted_by_the_comparison_of_its_task(
    product: Product, how: dict[str, Any], code: str, right: bool
) -> None:
    answer = await upload(product, code, **how)
    if right:
        assert (answer.status_code, answer.json()["status"]) == (201, "active")
        assert answer.json()["validation"]["shown"] == {"passed": 3, "total": 3, "accuracy": 1.0}
    else:
        assert (answer.status_code, answer.json()["code"]) == (400, "program_rejected")


async def test_a_comparison_can_be_changed_and_applies_to_the_next_program(product: Product) -> None:
    task = await product.create(examples=EXAMPLES, output_schema={"type": "object"})
    path = f"{V1}/tasks/{task['id']}"
    assert (task["comparison"], task["comparison_threshold"]) == ("exact", 0.8)
    refused = await product.http.post(f"{path}/artifacts", json={"code": WITHOUT_COUNTRY})
    assert refused.status_code == 400, refused.text
    change = {"comparison": "structured", "comparison_threshold": 0.5, "accuracy_target": 1.0}
    changed = await product.http.patch(path, json=change)
    assert {key: changed.json()[key] for key in change} == change
    accepted = await product.http.post(f"{path}/artifacts", json={"code": WITHOUT_COUNTRY})
    assert accepted.status_code == 201, accepted.text


async def test_how_near_a_wrong_output_came_is_shown_with_the_version(product: Product) -> None:
    how = {"comparison": "structured", "comparison_threshold": 0.9, "accuracy_target": 0.0}
    answer = await upload(product, WITHOUT_COUNTRY, **how)
    assert answer.status_code == 201, answer.text
    report = answer.json()["validation"]
    assert (report["passed"], report["accuracy"]) == (0, 0.0)
    assert [failure["similarity"] for failure in report["failures"]] == [2 / 3] * 3
