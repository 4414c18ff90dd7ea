"""A server of the tests in a container, where `make servers` has installed none and a container engine answers."""

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import docker
from docker.errors import DockerException, NotFound
from docker.models.containers import Container
from testcontainers.core.container import DockerContainer


@cache
def engine_answers() -> bool:
    """Whether containers can be had here."""
    try:
        client = docker.from_env(timeout=2)
        try:
            return bool(client.ping())
        finally:
            client.close()
    except DockerException:
        return False


class ContainerRun:
    """A command in a container of ``image``, with the network of this machine, and ``directory`` where it is here.

    The network of the machine, so that the server has one address for itself and for its clients: the members of a
    replica set of MongoDB tell clients where they are.
    """

    def __init__(self, image: str, command: Sequence[str], directory: Path) -> None:
        self._planned = (
            DockerContainer(image)
            .with_command(list(command))
            .with_volume_mapping(str(directory), str(directory), "rw")
            .with_kwargs(network_mode="host", user=f"{os.getuid()}:{os.getgid()}", entrypoint=[])
        )
        self._container: Container | None = None

    @property
    def alive(self) -> bool:
        """Whether the server runs, frozen or not."""
        if self._container is None:
            return False
        try:
            self._container.reload()
        except NotFound:
            return False
        return self._container.status in {"running", "paused"}

    @property
    def pid(self) -> int:
        """The process, as this machine numbers it; the server must run."""
        assert self._container is not None, "the server does not run"
        self._container.reload()
        return int(self._container.attrs["State"]["Pid"])

    @property
    def last_words(self) -> str:
        """What the server said last."""
        return "" if self._container is None else self._container.logs(tail=5).decode(errors="replace")

    def start(self) -> None:
        """Starts the container, the same one again after :meth:`stop` or :meth:`kill`."""
        if self._container is None:
            self._container = self._planned.start().get_wrapped_container()
        else:
            self._container.start()

    def stop(self) -> None:
        """Stops the server gracefully."""
        if self._container is not None and self.alive:
            self.resume()
            self._container.stop(timeout=20)

    def remove(self) -> None:
        """Removes the container and what it holds."""
        if self._container is not None:
            self._planned.stop()
            self._container = None

    def kill(self) -> None:
        """Ends the server as a crash would."""
        assert self._container is not None, "the server does not run"
        self._container.kill()
        self._container.wait()

    def pause(self) -> None:
        """Freezes the server."""
        assert self._container is not None, "the server does not run"
        self._container.pause()

    def resume(self) -> None:
        """Lets a frozen server go on."""
        assert self._container is not None, "the server does not run"
        self._container.reload()
        if self._container.status == "paused":
            self._container.unpause()
