"""The services' JSON log lines, for people."""

import json

_SHOWN_ELSEWHERE = {"event", "level", "timestamp", "service", "exception"}


def readable(line: str) -> str:
    """A JSON log line as ``level: event key=value …`` with the traceback below; any other line as it is."""
    try:
        record = json.loads(line)
    except ValueError:
        return line
    if not isinstance(record, dict) or "event" not in record:
        return line
    fields = "".join(f" {name}={value}" for name, value in record.items() if name not in _SHOWN_ELSEWHERE)
    trace = f"\n{record['exception']}" if "exception" in record else ""
    return f"{record.get('level', 'info')}: {record['event']}{fields}{trace}"
