"""A control group (v2) for the zygote and all its workers, where one was delegated to this process.

Limits of single processes do not bound what all of them use together; a group's do, and the kernel then ends one
worker instead of whatever else runs on the machine. Only a delegated part of the tree is touched: the directory that
systemd marked so (``Delegate=yes``), or the root of a container that may write to it. See cgroups(7) and the kernel's
``admin-guide/cgroup-v2``: processes are only allowed in the leaves of a tree with controllers, so what runs in the
delegated directory itself moves into a leaf of it, and back at the end.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loopai_common.runtime.logging import get_logger

_CONTROLLERS: Final = ("memory", "pids")
_LEAF: Final = "loopai-executor"
_GROUPS: Final = "loopai-sandbox-"
_MOVES: Final = 10
_REMOVE_SECONDS: Final = 5.0
_REMOVE_POLL_SECONDS: Final = 0.01

log = get_logger()


class NotDelegated(Exception):
    """There is no group that this process may divide; the message says why."""


@dataclass(frozen=True, slots=True)
class GroupLimits:
    """``memory_bytes`` of all processes of the sandbox together (``None``: counted only), and how many there may be."""

    memory_bytes: int | None
    processes: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process is: the directory of its group, and that of the highest group it can see."""

    own: Path
    top: Path


class SandboxGroup:
    """The group of one sandbox. Its directory exists until :meth:`remove`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ooms_seen = 0

    @classmethod
    def create(cls, base: Path, limits: GroupLimits) -> "SandboxGroup":
        """Makes the group below ``base``; raises :class:`OSError` when the kernel refuses, and leaves nothing then."""
        try:
            _vacate(base)
            (base / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in _CONTROLLERS))
            _remove_abandoned(base)
            directory = base / f"{_GROUPS}{os.getpid()}"
            directory.mkdir()
            memory = "max" if limits.memory_bytes is None else str(limits.memory_bytes)
            for name, value in (("memory.max", memory), ("memory.oom.group", "0"), ("pids.max", str(limits.processes))):
                (directory / name).write_text(value)
            with suppress(FileNotFoundError):  # a kernel without swap
                (directory / "memory.swap.max").write_text("0")
        except OSError:
            _remove_abandoned(base)
            _return_to(base)
            raise
        return cls(directory)

    def add(self, pid: int) -> None:
        """Puts a process into the group; what it starts from now on is born there."""
        (self._directory / "cgroup.procs").write_text(str(pid))
        self._ooms_seen = self._ooms()

    def took_for_memory(self) -> bool:
        """Whether the kernel ended a process for lack of memory that was not asked about yet."""
        if self._ooms() <= self._ooms_seen:
            return False
        self._ooms_seen += 1
        return True

    def memory_bytes(self) -> int:
        """What all its processes use right now."""
        return int((self._directory / "memory.current").read_text())

    async def remove(self) -> None:
        """Removes the group when the last of its processes is gone, and what was made for it above."""
        with suppress(OSError):  # Linux 5.14
            (self._directory / "cgroup.kill").write_text("1")
        async with asyncio.timeout(_REMOVE_SECONDS):
            while not _removed(self._directory):  # noqa: ASYNC110  # the kernel offers nothing to wait for
                await asyncio.sleep(_REMOVE_POLL_SECONDS)
        _remove_abandoned(self._directory.parent)
        _return_to(self._directory.parent)

    def _ooms(self) -> int:
        for line in (self._directory / "memory.events").read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
        return 0


@asynccontextmanager
async def sandbox_group(limits: GroupLimits) -> AsyncIterator[SandboxGroup | None]:
    """The sandbox's group for the time of the context; ``None`` where none is delegated, which is logged once."""
    group = None
    try:
        group = SandboxGroup.create(delegated_base(current_place()), limits)
    except (NotDelegated, OSError) as error:
        tell = log.info if limits.memory_bytes is None else log.warning
        tell("sandbox_without_cgroup", reason=str(error))
    try:
        yield group
    finally:
        if group is not None:
            try:
                await group.remove()
            except TimeoutError:
                log.warning("cgroup_not_removed")


def current_place() -> Place:
    """Where this process is; raises :class:`NotDelegated` where there are no groups of version 2."""
    if sys.platform != "linux":
        raise NotDelegated("this is not Linux")
    return place_in(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())


def place_in(membership: str, mounts: str) -> Place:
    """As :func:`current_place`, from the text of ``/proc/self/cgroup`` and ``/proc/self/mountinfo``."""
    path = next((line[3:] for line in membership.splitlines() if line.startswith("0::/")), None)
    if path is None or path.startswith("/.."):
        raise NotDelegated("this process is in no control group of version 2 that it can see")
    for line in mounts.splitlines():
        fields, _, kind = line.partition(" - ")
        if kind.startswith("cgroup2 "):
            root, top = fields.split()[3:5]
            if Path(path).is_relative_to(root):
                return Place(Path(top) / Path(path).relative_to(root), Path(top))
    raise NotDelegated("no file system of control groups of version 2 is mounted")


def delegated_base(place: Place) -> Path:
    """The directory to make groups in: that of the process, or the one above; raises :class:`NotDelegated`.

    The one above is delegated when systemd started the process in a leaf (``DelegateSubgroup=``), or a sibling of this
    process has moved it into one.
    """
    reasons = []
    for directory in (place.own, place.own.parent):
        if directory.is_relative_to(place.top):
            reason = _why_not_delegated(directory, place.top)
            if reason is None:
                return directory
            reasons.append(reason)
    raise NotDelegated(reasons[0])


def _why_not_delegated(directory: Path, top: Path) -> str | None:
    try:
        missing = set(_CONTROLLERS) - set((directory / "cgroup.controllers").read_text().split())
    except OSError as error:
        return f"its control group cannot be read: {error.strerror}"
    if missing:
        return f"its control group lacks the controllers {', '.join(sorted(missing))}"
    # To root everything looks writable, so that alone says nothing; the root of a whole machine has no type.
    if not (directory == top and (directory / "cgroup.type").exists()) and not _is_marked(directory):
        return "its control group is somebody else's to divide"
    if not all(os.access(directory / name, os.W_OK) for name in (".", "cgroup.procs", "cgroup.subtree_control")):
        return "its control group is read-only"
    return None


def _is_marked(directory: Path) -> bool:
    """Whether systemd says that the directory is its unit's to divide (CGROUP_DELEGATION.md)."""
    for name in ("user.delegate", "trusted.delegate"):
        with suppress(OSError):
            if os.getxattr(directory, name) == b"1":
                return True
    return False


def _vacate(base: Path) -> None:
    """Moves what runs in ``base`` itself into a leaf of it; a process that is just being forked takes another turn."""
    for _ in range(_MOVES):
        pids = _processes(base)
        if not pids:
            return
        (base / _LEAF).mkdir(exist_ok=True)
        _move(pids, base / _LEAF)


def _return_to(base: Path) -> None:
    """Undoes :func:`_vacate`, unless another sandbox is still there."""
    leaf = base / _LEAF
    if any(base.glob(f"{_GROUPS}*")) or not leaf.is_dir():
        return
    with suppress(OSError):
        (base / "cgroup.subtree_control").write_text(" ".join(f"-{name}" for name in _CONTROLLERS))
        for _ in range(_MOVES):
            _move(_processes(leaf), base)
            if _removed(leaf):
                return


def _remove_abandoned(base: Path) -> None:
    """Removes the groups of executors that were killed; one with processes in it cannot be removed."""
    for directory in base.glob(f"{_GROUPS}*"):
        if (
            not Path("/proc", directory.name.removeprefix(_GROUPS)).exists()
            or directory.name == f"{_GROUPS}{os.getpid()}"
        ):
            _removed(directory)


def _processes(directory: Path) -> list[str]:
    """The processes of a group; those of other pid namespaces, which read as 0, cannot be moved."""
    return [pid for pid in (directory / "cgroup.procs").read_text().split() if pid != "0"]


def _move(pids: list[str], target: Path) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            (target / "cgroup.procs").write_text(pid)


def _removed(directory: Path) -> bool:
    try:
        directory.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
