"""What a client knows of a resource, and what it expects of it."""

import pytest
from starlette.requests import Request

from loopai_api.etags import etag, expected_revisions, not_modified


def request(**headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": raw})


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('"7"', (7,)),
        ('"7", "8"', (7, 8)),
        ('"7",W/"8" , "9"', (7, 9)),
        ("*", None),
        (" * ", None),
        ('W/"7"', ()),
        ("7", ()),
        ('""', ()),
        ('"07", "-1", "1.5", "x"', ()),
        (f'"{10**30}"', ()),
        ("", ()),
    ],
)
def test_if_match_names_revisions_by_strong_tags(header: str, expected: tuple[int, ...] | None) -> None:
    assert expected_revisions(request(if_match=header)) == expected


def test_without_if_match_any_revision_will_do() -> None:
    assert expected_revisions(request()) is None


@pytest.mark.parametrize(
    ("header", "known"),
    [
        ('"7"', True),
        ('W/"7"', True),
        ('"6", "7"', True),
        ("*", True),
        ('"6"', False),
        ("7", False),
        ("", False),
    ],
)
def test_if_none_match_is_compared_weakly(header: str, known: bool) -> None:
    assert not_modified(request(if_none_match=header), 7) is known


def test_a_tag_is_found_again() -> None:
    assert not_modified(request(if_none_match=etag("sha256:00")), "sha256:00")
