"""Entity tags (RFC 9110, 8.8.3 and 13.1): strong ones, made of what names a state of the resource."""

import re

from starlette.requests import Request

_TAG = re.compile(r'(W/)?"([\x21\x23-\x7e]*)"')
_REVISION = re.compile(r"[1-9][0-9]{0,17}")


def etag(state: str | int) -> str:
    """The tag of a state."""
    return f'"{state}"'


def not_modified(request: Request, state: str | int) -> bool:
    """Whether the client has this state already: ``If-None-Match`` names it, weakly or strongly, or is ``*``."""
    header = request.headers.get("if-none-match", "").strip()
    return header == "*" or any(tag == str(state) for _, tag in _TAG.findall(header))


def expected_revisions(request: Request) -> tuple[int, ...] | None:
    """The revisions of which ``If-Match`` asks for one; ``None`` without it and for ``*``.

    Weak tags never match, as the comparison is a strong one, nor does what is no tag.
    """
    header = request.headers.get("if-match")
    if header is None or header.strip() == "*":
        return None
    return tuple(int(tag) for weak, tag in _TAG.findall(header) if not weak and _REVISION.fullmatch(tag))
