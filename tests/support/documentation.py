"""The commands in the documents: where they are, which are not run and why, and how the others are run."""

import doctest
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[2]
SHELL = frozenset({"bash", "sh", "console"})
LANGUAGES = SHELL | {"python"}

_FENCE = re.compile(r"^ *```(\w*)")
_NOT_RUN = re.compile(r"<!-- not run: (.+?) -->")
_ADDRESS = re.compile(r"(?:localhost|127\.0\.0\.1):8080")
_MARK = "\x1e"
_LONGEST_SECONDS = 300
_OUT_OF_SIGHT = frozenset({".git", ".venv", ".servers", ".loopai", "build", "node_modules"})


@dataclass(frozen=True)
class Block:
    """A fenced block of commands; ``reason`` says why it is not run."""

    page: str
    line: int
    language: str
    text: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> str:
        """What a person would type."""
        if self.language == "python":
            return f"python - <<'END OF BLOCK'\n{dedent(self.text)}\nEND OF BLOCK"
        if self.language != "console":
            return dedent(self.text)
        return "\n".join(line[2:] for line in self.text.splitlines() if line.startswith("$ "))

    @property
    def output(self) -> str | None:
        """What is shown as their output, ``...`` standing for anything; ``None`` where nothing is shown."""
        lines = [line for line in self.text.splitlines() if not line.startswith("$ ")]
        return "\n".join(lines) + "\n" if self.language == "console" and lines else None


def pages() -> list[str]:
    """Every Markdown file of the repository, by its path."""
    found = []
    for folder, below, files in os.walk(ROOT):
        below[:] = sorted(set(below) - _OUT_OF_SIGHT)
        found += [str(Path(folder, name).relative_to(ROOT)) for name in sorted(files) if name.endswith(".md")]
    return found


def blocks(page: str) -> list[Block]:
    """The blocks of a page in their order."""
    return list(blocks_in(page, (ROOT / page).read_text()))


def blocks_in(page: str, markdown: str) -> Iterator[Block]:
    """The blocks of a text in their order; a comment ``<!-- not run: reason -->`` belongs to the block below it."""
    reason, opened, language = None, 0, ""
    text: list[str] = []
    for number, line in enumerate(markdown.splitlines(), start=1):
        fence = _FENCE.match(line)
        if opened and fence:
            if language in LANGUAGES:
                yield Block(page, opened, language, "\n".join(text), reason)
            opened, reason, text = 0, None, []
        elif opened:
            text.append(line)
        elif fence:
            opened, language = number, fence[1]
        elif line.strip():
            found = _NOT_RUN.search(line)
            reason = found[1] if found else None


def run(page: str, url: str, directory: Path) -> None:
    """Runs the page's blocks in one shell, in ``directory``, against the API at ``url``; raises where one fails.

    The documents say ``localhost:8080``; here that is the address in ``url``. ``curl`` fails on an answer that is an
    error.
    """
    run_blocks([block for block in blocks(page) if block.reason is None], url, directory)


def run_blocks(todo: list[Block], url: str, directory: Path) -> None:
    """As :func:`run`, for some blocks."""
    script = "".join(f"printf '{_MARK}{block.line}\\n'\n{block.commands}\n" for block in todo)
    script = _ADDRESS.sub(url.removeprefix("http://"), script)
    (directory / ".curlrc").write_text("fail-with-body\n")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("LOOPAI_")},
        "CURL_HOME": str(directory),
        "LOOPAI_URL": url,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_LONGEST_SECONDS,
    )
    said = dict(part.split("\n", 1) for part in done.stdout.split(_MARK)[1:])
    last = next(block for block in reversed(todo) if str(block.line) in said)
    assert done.returncode == 0, f"{last} exits with {done.returncode}\n{said[str(last.line)]}{done.stderr}"
    for block in todo:
        wanted, got = block.output, said[str(block.line)]
        matches = wanted is None or doctest.OutputChecker().check_output(wanted, got, doctest.ELLIPSIS)
        assert matches, f"{block} shows\n{wanted}\nand prints\n{got}"
