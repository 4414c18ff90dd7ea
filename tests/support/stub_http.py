"""A real HTTP server on loopback that stands for a foreign service: scripted answers, and what it was asked."""

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, Self


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server says: ``body`` is sent as JSON, text as it is.

    ``cut_off`` closes the connection: ``"before"`` the answer, or ``"after"`` a body that was announced as longer.
    ``drip_seconds`` passes before each byte of the body, of which there is no end.
    """

    body: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_off: Literal["before", "after"] | None = None
    drip_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it arrived; ``body`` is decoded JSON, or text that is none, ``None`` when there was none."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any


def _decoded(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return raw.decode()


class StubHttpServer:
    """Answers ``"METHOD /path?query"`` as scripted, the last answer of a list again and again; else 404."""

    def __init__(self, script: Mapping[str, Answer | list[Answer]]) -> None:
        self.asked: list[Asked] = []
        self._script = {key: list(value) if isinstance(value, list) else [value] for key, value in script.items()}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer()

            def do_POST(self) -> None:
                self._answer()

            def do_PATCH(self) -> None:
                self._answer()

            def do_DELETE(self) -> None:
                self._answer()

            def log_message(self, format: str, *args: Any) -> None:
                """Says nothing."""

            def _answer(self) -> None:
                length = int(self.headers.get("Content-Length", "0"))
                raw = self.rfile.read(length)
                body = _decoded(raw) if raw else None
                answer = stub._take(Asked(self.command, self.path, dict(self.headers), body))
                text = answer.body if isinstance(answer.body, str) else json.dumps(answer.body)
                content = text.encode()
                if answer.cut_off == "before":
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                endless = answer.cut_off or answer.drip_seconds
                self.send_header("Content-Length", str(len(content) + (1_000_000 if endless else 0)))
                self.end_headers()
                if endless:
                    self.close_connection = True
                while answer.drip_seconds and not stub._closed.wait(answer.drip_seconds):
                    try:
                        self.wfile.write(b" ")
                    except OSError:
                        return
                self.wfile.write(content)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def _take(self, asked: Asked) -> Answer:
        with self._lock:
            self.asked.append(asked)
            answers = self._script.get(f"{asked.method} {asked.path}")
            if answers is None:
                return Answer({"code": "not_found", "message": "no such path"}, 404)
            return answers.pop(0) if len(answers) > 1 else answers[0]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
