"""What a client's ``Accept`` allows, as RFC 9110 says in section 12.5.1."""

import pytest

from loopai_api.negotiation import accepts

JSON = ("application/json", "application/problem+json")


@pytest.mark.parametrize(
    "accept",
    [
        "*/*",
        "application/json",
        "Application/JSON; charset=utf-8",
        "application/*;q=0.1",
        "text/html, */*;q=0.1",
        "text/html,application/json;q=0.2",
        "application/json;q=0, */*",
        " , ",
        "application/json;q=high",
    ],
)
def test_what_allows_json(accept: str) -> None:
    assert accepts(accept, JSON)


@pytest.mark.parametrize(
    "accept", ["text/html", "application/xml, text/*", "*/*;q=0", "application/*;q=0, text/html", "json", "*/json"]
)
def test_what_does_not(accept: str) -> None:
    assert not accepts(accept, JSON)


def test_the_most_specific_range_decides() -> None:
    assert not accepts("text/x-python;q=0, text/*", ("text/x-python",))
    assert accepts("text/*;q=0, text/x-python", ("text/x-python",))
