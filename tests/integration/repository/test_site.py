"""The documentation site: whole, without a warning, and without anything from another host."""

import re
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from markdown.extensions.toc import slugify

from tests.support.browser import browsing
from tests.support.documentation import pages
from tests.support.site import on_page_markdown

ROOT = Path(__file__).parents[3]
ELSEWHERE = re.compile(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=\"?https?://[^\" >]+")


class Quiet(SimpleHTTPRequestHandler):
    """Says nothing of what it serves."""

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; every warning is an error (with ``--quiet`` MkDocs would not count them)."""
    directory = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(directory)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return directory


def test_every_page_is_there_and_asks_no_other_host(site: Path) -> None:
    pages = {str(page.relative_to(site)) for page in site.rglob("*.html")}
    sources = {str(page.relative_to(ROOT / "docs").with_suffix(".html")) for page in (ROOT / "docs").rglob("*.md")}
    assert sources <= pages
    for page in sorted(pages):
        assert ELSEWHERE.findall((site / page).read_text()) == [], page


async def test_diagrams_are_drawn_and_the_search_finds(site: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            async with browsing(f"http://127.0.0.1:{server.server_port}") as visit:
                page = visit.page
                for name in (page.stem for page in (ROOT / "docs").glob("*.md") if "```mermaid" in page.read_text()):
                    await page.goto(f"{visit.base_url}/{name}.html")
                    await page.locator("div.mermaid").first.wait_for()
                    # The theme draws into closed shadow roots: what is drawn is seen by its size.
                    box = await page.locator("div.mermaid").first.bounding_box()
                    assert box is not None
                    assert box["height"] > 50
                    assert await page.locator("pre.mermaid").count() == 0
                # In the address, since what is typed before the index is read is not searched for.
                await page.goto(f"{visit.base_url}/index.html?q=quarantined")
                await page.locator(".md-search-result__link").first.wait_for(state="attached")
                assert visit.elsewhere == visit.errors == []
        finally:
            server.shutdown()


@pytest.mark.parametrize("page", pages())
def test_links_lead_to_files_and_headings_that_exist(page: str) -> None:
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        name, _, heading = target.partition("#")
        if "://" in name:
            continue
        file = (ROOT / page).parent / name if name else ROOT / page
        assert file.exists(), target
        headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE) if heading else ()
        assert not heading or heading in {slugify(found, "-") for found in headings}, target


@pytest.mark.parametrize(
    ("page", "markdown", "shown"),
    [
        ("a.md", "[text](b.md#there)", "[text](b.md#there)"),
        ("a.md", "[values](../helm/values.yaml)", "`helm/values.yaml`"),
        ("a.md", "[the chart](../helm/values.yaml#x)", "the chart (`helm/values.yaml`)"),
        ("reference/a.md", "[errors](../errors.md)", "[errors](../errors.md)"),
        ("reference/a.md", "[`.env.example`](../../.env.example)", "`.env.example`"),
        ("a.md", "[elsewhere](https://example.com/../x)", "[elsewhere](https://example.com/../x)"),
    ],
)
def test_files_outside_of_the_site_are_named_by_their_path(page: str, markdown: str, shown: str) -> None:
    class Page:
        class file:  # noqa: N801 - as MkDocs calls it
            src_uri = page

    assert on_page_markdown(markdown, Page()) == shown
