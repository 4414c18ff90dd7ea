"""The documentation pages in a real browser, which reaches nothing but the service."""

from collections.abc import AsyncIterator

import pytest

from tests.support.browser import Visit, browsing
from tests.support.product import Product


@pytest.fixture
async def visit(product: Product) -> AsyncIterator[Visit]:
    async with browsing(product.base_url) as visit:
        yield visit


async def test_swagger_runs_a_request_and_shows_the_answer(visit: Visit, product: Product) -> None:
    task = await product.program("def run(input):\n    return 'said by the program'\n")
    page = visit.page
    await page.goto(f"{visit.base_url}/swagger")
    await page.get_by_label("API version").select_option("v2")
    operation = page.locator("#operations-executions-v2_execute")
    await operation.locator(".opblock-summary-control").click()
    await operation.get_by_role("button", name="Try it out").click()
    await operation.get_by_placeholder("task").fill(task["name"])
    await operation.get_by_role("button", name="Execute", exact=True).click()
    answer = operation.locator(".live-responses-table")
    await answer.get_by_text("said by the program").first.wait_for()
    assert await answer.locator(".response-col_status").nth(1).inner_text() == "200"
    assert await page.locator("#operations-executions-v1_execute").count() == 0
    assert visit.elsewhere == visit.errors == []


async def test_redoc_shows_every_group_of_operations(visit: Visit) -> None:
    page = visit.page
    await page.goto(f"{visit.base_url}/redoc?version=v1")
    await page.get_by_role("heading", name="Create a task").first.wait_for()
    for group in ("tasks", "executions", "artifacts", "health"):
        assert await page.locator(f"[data-item-id='tag/{group}']").count() >= 1, group
    assert visit.elsewhere == visit.errors == []


async def test_the_page_of_errors_opens_at_the_code_that_a_problem_names(visit: Visit, product: Product) -> None:
    problem = (await product.http.get("/api/v2/tasks/nobody")).json()
    await visit.page.goto(visit.base_url + problem["type"])
    assert await visit.page.locator(":target").inner_text() == "task_not_found"
    assert visit.elsewhere == visit.errors == []
