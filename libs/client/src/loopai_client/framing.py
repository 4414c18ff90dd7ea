"""Lines in a stream of bytes, server-sent events in lines, and many items in requests of bounded size; no I/O."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from loopai_client.models import TaskEvent

MAX_WINDOW_BYTES: Final = 64 * 1024
MAX_WINDOW_SECONDS: Final = 0.05


def encode_json(value: Any) -> bytes:
    """Compact JSON in UTF-8; raises :class:`ValueError` and :class:`TypeError` for what JSON cannot carry.

    Lone surrogates go out as they are, for the API to refuse: it says what is wrong.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "surrogatepass")


class Lines:
    """Puts the lines of a stream together. Only a line feed ends a line: JSON text may hold all other separators."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The lines that ``chunk`` completes, without their ends."""
        self._rest += chunk
        if b"\n" in chunk:
            *complete, tail = bytes(self._rest).split(b"\n")
            self._rest = bytearray(tail)
            yield from complete


class EventLines:
    """Server-sent events out of lines (WHATWG HTML, 9.2.6). ``last_id`` and ``retry_seconds`` are for reconnecting."""

    def __init__(self, last_id: str | None = None) -> None:
        self.last_id = last_id
        self.retry_seconds = 1.0
        self._kind = ""
        self._data: list[str] = []

    def feed(self, line: bytes) -> TaskEvent | None:
        """The event that an empty line ends; raises :class:`ValueError` when its data is no JSON."""
        if not line.rstrip(b"\r"):
            return self._dispatch()
        name, _, value = line.decode().rstrip("\r").partition(":")
        value = value.removeprefix(" ")
        match name:
            case "event":
                self._kind = value
            case "data":
                self._data.append(value)
            case "id" if "\0" not in value:
                self.last_id = value
            case "retry" if value.isascii() and value.isdecimal():
                self.retry_seconds = int(value) / 1000
        return None

    def reconnected(self) -> None:
        """Forgets the event that the end of the connection cut off."""
        self._kind, self._data = "", []

    def _dispatch(self) -> TaskEvent | None:
        kind, data = self._kind or "message", self._data
        self.reconnected()
        return TaskEvent(kind, json.loads("\n".join(data)), self.last_id or None) if data else None


class Windows:
    """Gathers lines for requests that a server can take in whole before it is read from: ``MAX_WINDOW_BYTES``.

    A server that is read from only afterwards can then always finish reading. A window is also closed when a line comes
    ``MAX_WINDOW_SECONDS`` after the first could: a source that is slow gets its results while it goes on.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._opened = clock()
        self._lines: list[bytes] = []
        self._size_bytes = 0

    def add(self, line: bytes) -> Iterator[list[bytes]]:
        """Takes a line, and gives the windows that it closes, oldest first."""
        if self._lines and self._size_bytes + len(line) > MAX_WINDOW_BYTES:
            yield from self.rest()
        self._lines.append(line)
        self._size_bytes += len(line)
        if self._clock() - self._opened >= MAX_WINDOW_SECONDS:
            yield from self.rest()

    def rest(self) -> Iterator[list[bytes]]:
        """The window that is open, if it holds anything."""
        if self._lines:
            lines, self._lines, self._size_bytes = self._lines, [], 0
            yield lines
            self._opened = self._clock()  # not before: whoever took the window was busy with it until now
