"""What a query asks for: the metrics it names, and the labels it selects or groups by."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_SELECTOR = re.compile(r"\b(loopai_[a-z0-9_]+)\b(?:\s*\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"')
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)")


@dataclass(frozen=True, slots=True)
class Asked:
    """A metric that a query names; the values are those of matchers without a pattern."""

    series: str
    labels: frozenset[str]
    values: tuple[tuple[str, str], ...]


def asked(query: str) -> Iterator[Asked]:
    """The metrics of ours in a query."""
    for name, matchers in _SELECTOR.findall(query):
        found = _MATCHER.findall(matchers)
        exact = tuple((label, value) for label, operator, value in found if operator in {"=", "!="})
        yield Asked(name, frozenset(label for label, _, _ in found), exact)


def grouped_by(query: str) -> set[str]:
    """The labels that a query groups by."""
    return {label.strip() for group in _GROUPING.findall(query) for label in group.split(",")}
