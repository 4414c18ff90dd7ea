"""What MkDocs does not do by itself for the documentation site (its ``hooks``)."""

import posixpath
import re
from pathlib import Path, PurePosixPath
from typing import Any

_LINK = re.compile(r"\[([^\]]*)\]\(([^)#:]+)(?:#[^)]*)?\)")


def on_config(config: Any) -> Any:
    """Puts every page of a folder where the navigation names the folder, in the order of their names."""
    docs = Path(config.docs_dir)
    config.nav = _with_folders(config.nav, docs)
    return config


def _with_folders(nav: Any, docs: Path) -> Any:
    if isinstance(nav, list):
        return [_with_folders(item, docs) for item in nav]
    if isinstance(nav, dict):
        return {title: _with_folders(below, docs) for title, below in nav.items()}
    if (docs / nav).is_dir():
        return [str(page.relative_to(docs)) for page in sorted((docs / nav).glob("*.md"))]
    return nav


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Names files of the repository that are no part of the site by their path, in place of a link to nowhere."""
    folder = PurePosixPath(page.file.src_uri).parent

    def named(link: "re.Match[str]") -> str:
        text, target = link.groups()
        path = posixpath.normpath(str(folder / target))
        if not path.startswith("../"):
            return link[0]
        path = path.removeprefix("../")
        return f"`{path}`" if text.strip("`") in path else f"{text} (`{path}`)"

    return _LINK.sub(named, markdown)
