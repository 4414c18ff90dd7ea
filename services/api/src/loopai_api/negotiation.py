"""Whether a client takes what an operation gives (``Accept``, RFC 9110 section 12.5.1)."""

from collections.abc import Iterable

from fastapi import Request
from fastapi.routing import APIRoute

from loopai_api.problems import NotAcceptable

_JSON = "application/json"
_PROBLEM = "application/problem+json"


async def check_acceptable(request: Request) -> None:
    """Raises :class:`NotAcceptable` for a request whose ``Accept`` names nothing that its route gives.

    A dependency of every route. Errors are written as the version writes them, whatever is accepted.
    """
    accept = ",".join(request.headers.getlist("accept"))
    route: APIRoute = request.scope["route"]
    if accept and not accepts(accept, given := produced(route)):
        raise NotAcceptable(f"this operation gives {', '.join(sorted(given - {_PROBLEM}))}")


def accepts(accept: str, media_types: Iterable[str]) -> bool:
    """Whether one of ``media_types`` is in a range of the header that is not excluded by ``q=0``."""
    ranges = [_media_range(text) for text in accept.lower().split(",") if text.strip()]
    return not ranges or any(_weight(ranges, media_type) > 0 for media_type in media_types)


def produced(route: APIRoute) -> frozenset[str]:
    """The media types of the answers that a route documents; JSON for a model, and where it documents none."""
    found = {
        media_type
        for status, response in route.responses.items()
        if str(status).startswith("2")
        for media_type in response.get("content", {})
    }
    if route.response_model is not None or not found:
        found.add(_JSON)
    return frozenset(found | {_PROBLEM})


def _media_range(text: str) -> tuple[str, float]:
    name, *parameters = (part.strip() for part in text.split(";"))
    weight = next((part[2:] for part in parameters if part.startswith("q=")), "1")
    try:
        return name, float(weight)
    except ValueError:
        return name, 1.0


def _weight(ranges: Iterable[tuple[str, float]], media_type: str) -> float:
    """The weight that the most specific range of a media type gives it, 0 without one."""
    weights = dict(ranges)
    for name in (media_type, f"{media_type.partition('/')[0]}/*", "*/*"):
        if name in weights:
            return weights[name]
    return 0.0
