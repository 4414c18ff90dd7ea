"""Confines a forked worker, one way, before it reads a byte from outside. The boundary is the kernel.

Prepared once in the zygote, so that a worker pays for system calls only. Each step is an ordinary kernel interface,
called through ``ctypes``: prctl(2), landlock(7), close_range(2), seccomp(2), unshare(2), pivot_root(2).
"""

import ctypes
import os
import resource
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from loopai_executor.sandbox import seccomp

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38

_SECCOMP: Final = {"x86_64": 317, "aarch64": 277}
_PIVOT_ROOT: Final = {"x86_64": 155, "aarch64": 41}
_CAPSET: Final = {"x86_64": 126, "aarch64": 91}
_PTRACE_HERE: Final = {"x86_64": 101, "aarch64": 117}.get(os.uname().machine, -1)
_CLOSE_RANGE: Final = 436
_LANDLOCK_CREATE_RULESET: Final = 444
_LANDLOCK_RESTRICT_SELF: Final = 446
_LANDLOCK_VERSION: Final = 1
_SECCOMP_SET_MODE_FILTER: Final = 1
_CAPABILITY_VERSION_3: Final = 0x20080522

_STACK_BYTES: Final = 8 << 20
_FIRST_UID: Final = 200_000
_UIDS: Final = 50_000

_NAMESPACES: Final = {
    "mount": 0x00020000,
    "cgroup": 0x02000000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "network": 0x40000000,
    "pid": 0x20000000,
}
_USER_NAMESPACE: Final = 0x10000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_REC, _MS_PRIVATE = 1, 2, 4, 8, 32, 16384, 1 << 18
_HARDENED: Final = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
_MNT_DETACH: Final = 2

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class LayerFailed(Exception):
    """A layer of the sandbox could not be applied; the message says which and why."""


class _LandlockRuleset(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _FilterProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


@dataclass(frozen=True, slots=True)
class Limits:
    """``address_space_bytes`` is the whole of it, what the zygote already holds included; ``cpu_seconds`` in all."""

    address_space_bytes: int
    cpu_seconds: int


class Lockdown:
    """The layers that this kernel has. ``missing`` names those that it has not."""

    def __init__(self) -> None:
        self.missing: list[str] = []
        self._architecture = os.uname().machine
        self._filter = self._compile()
        self._ruleset = self._create_ruleset()
        if sys.platform != "linux":
            self.missing.append("everything but resource limits: this is not Linux")
        elif not hasattr(os, "pidfd_open"):
            self.missing.append("pidfd (Linux 5.3)")

    def apply(self, limits: Limits, *, uid: int | None) -> None:
        """Applies every layer that there is; raises :class:`LayerFailed` when one of them cannot be applied.

        Afterwards the process has two descriptors, 0 to read and 1 to write, and about 15 system calls.
        """
        self._apply_limits(limits)
        if sys.platform != "linux":
            return
        parent = os.getppid()
        if uid is not None:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        die_with_parent()  # after the change of the uid, which clears it
        if os.getppid() != parent:
            raise LayerFailed("the zygote is gone")
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        self._drop_capabilities()
        _prctl(_PR_SET_DUMPABLE, 0)
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        self.restrict_landlock()
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
        if _libc.syscall(_CLOSE_RANGE, ctypes.c_uint(2), ctypes.c_uint(0xFFFFFFFF), 0) != 0:
            os.closerange(2, 65536)
        if self._filter is not None:
            program = _FilterProgram(len(self._filter) // 8, ctypes.cast(self._filter, ctypes.c_void_p))
            _check(
                "seccomp",
                _libc.syscall(_SECCOMP[self._architecture], _SECCOMP_SET_MODE_FILTER, 0, ctypes.byref(program)),
            )

    def restrict_landlock(self) -> None:
        """Takes away every right to files, ports and other processes that Landlock knows; needs no_new_privs."""
        if self._ruleset is not None:
            _check("landlock", _libc.syscall(_LANDLOCK_RESTRICT_SELF, self._ruleset, 0))

    def _apply_limits(self, limits: Limits) -> None:
        for name, soft, hard in (
            ("CORE", 0, 0),
            ("FSIZE", 0, 0),
            ("MEMLOCK", 0, 0),
            ("MSGQUEUE", 0, 0),
            ("SIGPENDING", 8, 8),
            ("STACK", _STACK_BYTES, _STACK_BYTES),
            ("AS", limits.address_space_bytes, limits.address_space_bytes),
            ("CPU", limits.cpu_seconds, limits.cpu_seconds + 1),
        ):
            kind = getattr(resource, f"RLIMIT_{name}", None)
            if kind is not None:
                resource.setrlimit(kind, (soft, hard))

    def _drop_capabilities(self) -> None:
        """Within a user namespace of its own a process holds all of them."""
        header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
        nothing = (ctypes.c_uint32 * 6)()
        if self._architecture in _CAPSET:
            _check("capset", _libc.syscall(_CAPSET[self._architecture], header, nothing))

    def _compile(self) -> "ctypes.Array[ctypes.c_char] | None":
        architecture = seccomp.current_architecture()
        if architecture is None:
            self.missing.append(f"seccomp (no filter for {self._architecture})")
            return None
        action = ctypes.c_uint32(seccomp.RET_KILL_PROCESS)
        available = _libc.syscall(_SECCOMP[self._architecture], 2, 0, ctypes.byref(action))  # GET_ACTION_AVAIL
        if sys.platform != "linux" or available != 0:
            self.missing.append("seccomp (Linux 4.14 with CONFIG_SECCOMP_FILTER)")
            return None
        code = seccomp.assemble(seccomp.compile_filter(architecture))
        return ctypes.create_string_buffer(code, len(code))

    def _create_ruleset(self) -> int | None:
        abi = landlock_abi()
        if abi < 1:
            self.missing.append("Landlock (Linux 5.13 with landlock among the enabled LSMs)")
            return None
        ruleset = _LandlockRuleset(*_landlock_rights(abi))
        size = 8 if abi < 4 else 16 if abi < 6 else 24
        return _check("landlock", _libc.syscall(_LANDLOCK_CREATE_RULESET, ctypes.byref(ruleset), size, 0))


def worker_uid(worker: int) -> int:
    """A uid that no account has, different for each of 50,000 workers in a row."""
    return _FIRST_UID + worker % _UIDS


def landlock_abi() -> int:
    """The version of Landlock that the kernel offers; 0 or less is none."""
    if sys.platform != "linux":
        return 0
    return int(_libc.syscall(_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_VERSION))


def _landlock_rights(abi: int) -> tuple[int, int, int]:
    """All rights that the ABI knows: to files, to ports, to processes outside (include/uapi/linux/landlock.h)."""
    files = 13 + (abi >= 2) + (abi >= 3) + (abi >= 5)
    return (1 << files) - 1, 0b11 if abi >= 4 else 0, 0b11 if abi >= 6 else 0


def die_with_parent() -> None:
    """The kernel kills this process when the thread that forked it ends."""
    if sys.platform == "linux":
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def forbid_new_privileges() -> None:
    """No exec gives more than this process has; a precondition of Landlock and seccomp."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def hide_from_debuggers() -> None:
    """Makes this process not dumpable: its ``/proc`` entries are root's and nobody else may trace it."""
    if sys.platform == "linux":
        _prctl(_PR_SET_DUMPABLE, 0)


def make_forbidden_call() -> None:
    """Makes a call that no worker may survive: ptrace(PTRACE_TRACEME), harmless where nothing forbids it."""
    _libc.syscall(_PTRACE_HERE, 0, 0, 0, 0)


def enter_namespaces() -> list[str]:
    """Leaves the host's namespaces as far as the kernel lets it, and returns the names of those it left.

    With a pid namespace the caller goes on in a forked child, process 1 of it; the parent waits and passes the
    exit code on. With a mount namespace the root is empty and read-only.
    """
    if sys.platform != "linux":
        return []
    entered = []
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        for capability in range(64):
            _libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0)
    elif _libc.unshare(_USER_NAMESPACE) == 0:
        _map_ids(uid, gid)
        entered.append("user")
    entered += [name for name, flag in _NAMESPACES.items() if _libc.unshare(flag) == 0]
    if "pid" in entered:
        _become_process_one()
    if "mount" in entered and _empty_root():
        entered.append("empty root")
    return entered


def _map_ids(uid: int, gid: int) -> None:
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        # Where the mapping is refused the ids stay unmapped, and the namespace gives no less protection.
        with suppress(OSError), open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def _become_process_one() -> None:
    child = os.fork()
    if child:
        os.closerange(0, 1024)
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    die_with_parent()


def _empty_root() -> bool:
    if _mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE) != 0:
        return False
    for place in ("/mnt", "/tmp", "/run"):  # noqa: S108  # only a mount point, in a namespace of our own
        if _mount(b"tmpfs", place.encode(), b"tmpfs", _HARDENED, b"size=4k,nr_inodes=4,mode=0555") == 0:
            os.chdir(place)
            break
    else:
        return False
    if _libc.syscall(_PIVOT_ROOT.get(os.uname().machine, -1), b".", b".") != 0:
        return False
    detached = _libc.umount2(b".", _MNT_DETACH) == 0
    os.chdir("/")
    return detached and _mount(None, b"/", None, _MS_REMOUNT | _MS_RDONLY | _HARDENED) == 0


def _mount(source: bytes | None, target: bytes, kind: bytes | None, flags: int, data: bytes | None = None) -> int:
    return int(_libc.mount(source, target, kind, ctypes.c_ulong(flags), data))


def _prctl(option: int, value: int) -> None:
    _check("prctl", _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0))


def _check(layer: str, result: int) -> int:
    if result < 0:
        raise LayerFailed(f"{layer}: {os.strerror(ctypes.get_errno())}")
    return int(result)
