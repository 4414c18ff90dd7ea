"""Pure parts of the local stack: log lines for people, and how the stack is planned."""

import pytest

from loopai_client.local.log_lines import readable
from loopai_client.local.stack import StackSettings


def test_json_log_line_is_shown_with_its_fields() -> None:
    line = '{"event": "start_refused", "level": "error", "timestamp": "t", "service": "api", "reason": "no keys"}'
    assert readable(line) == "error: start_refused reason=no keys"


def test_traceback_is_shown_as_lines() -> None:
    assert readable('{"event": "failed", "level": "error", "exception": "Traceback:\\n  here"}') == (
        "error: failed\nTraceback:\n  here"
    )


@pytest.mark.parametrize("line", ["plain text", "[1, 2]", '{"no": "event"}', ""])
def test_other_lines_stay_as_they_are(line: str) -> None:
    assert readable(line) == line


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("::1", "http://[::1]:80"),
        ("localhost", "http://localhost:80"),
    ],
)
def test_url_is_one_that_this_machine_can_call(host: str, url: str) -> None:
    assert StackSettings(host=host, port=80).url == url
