"""A real browser that must reach nothing but what it is shown."""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Page, Request, async_playwright

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
    """A page, and what it asked others than ``base_url`` for."""

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


@asynccontextmanager
async def browsing(base_url: str) -> AsyncIterator[Visit]:
    """An empty page of a browser; skips the test where there is none."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no chromium on this machine; install the package of that name")
    async with async_playwright() as playwright:
        # A proxy of the machine's would take the browser away from loopback.
        environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        browser = await playwright.chromium.launch(executable_path=found, args=list(QUIET), env=dict(environment))
        page = await browser.new_page()
        page.set_default_timeout(PATIENCE_MS)
        yield Visit(page, base_url)
        await browser.close()
