"""A service as its own process, as in production: the module's ``main``, a free port, and the environment given."""

import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from loopai_client.local.nats_server import free_port

START_SECONDS = 60.0
STOP_SECONDS = 60.0


class ServiceProcess:
    """Runs ``python -m <module>`` with ``<prefix>PORT`` set; the ``with`` block begins when it is alive.

    With ``certificate`` it is expected to serve HTTPS with that one; ``options`` go to its command line.
    """

    def __init__(
        self,
        module: str,
        prefix: str,
        log: Path,
        environment: Mapping[str, str],
        *,
        options: Sequence[str] = (),
        certificate: Path | None = None,
    ) -> None:
        self._module = module
        self._options = options
        self._verify = True if certificate is None else ssl.create_default_context(cafile=certificate)
        self._scheme = "http" if certificate is None else "https"
        self._log = log
        self._port = free_port()
        self._environment = {**os.environ, **environment, f"{prefix}PORT": str(self._port)}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where its HTTP side is."""
        return f"{self._scheme}://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        """The process."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """What it said so far."""
        return self._log.read_text()

    def stop(self) -> int:
        """Asks it to stop; returns its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(STOP_SECONDS)

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._module, *self._options], env=self._environment, stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                if httpx.get(f"{self.url}/health/ready", timeout=5, trust_env=False, verify=self._verify).is_success:
                    return self
            except httpx.TransportError:
                time.sleep(0.05)
        self._process.kill()
        raise AssertionError(f"{self._module} did not start:\n{self.log}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
