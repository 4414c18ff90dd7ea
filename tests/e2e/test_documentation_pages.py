"""The documentation pages in a real browser, which reaches nothing but the service."""

import os
import shutil
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Page, Request, async_playwright

from tests.support.product import Product

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_MS = 30_000
QUIET = (
    "--no-sandbox",  # as root there is none
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--no-first-run",
)


class Visit:
    """A page of the product, and what it asked other hosts for."""

    def __init__(self, page: Page, base_url: str) -> None:
        self.page = page
        self.base_url = base_url
        self.elsewhere: list[str] = []
        self.errors: list[str] = []
        page.on("request", self._note)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def _note(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme in {"http", "https", "ws", "wss"} and parts.netloc != urlsplit(self.base_url).netloc:
            self.elsewhere.append(request.url)


@pytest.fixture
async def visit(product: Product) -> AsyncIterator[Visit]:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no chromium on this machine; install the package of that name")
    async with async_playwright() as playwright:
        # A proxy of the machine's would take the browser away from loopback.
        environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        browser = await playwright.chromium.launch(executable_path=found, args=list(QUIET), env=dict(environment))
        page = await browser.new_page()
        page.set_default_timeout(PATIENCE_MS)
        yield Visit(page, product.base_url)
        await browser.close()


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
