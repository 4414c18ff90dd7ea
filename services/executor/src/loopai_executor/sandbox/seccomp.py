"""The worker's system call filter: written as data, compiled to classic BPF, proved by interpretation in the tests.

A worker holds native code from an attacker, so this list is the boundary. Whatever is not named kills the process.
The numbers are the kernel's own: ``arch/x86/entry/syscalls/syscall_64.tbl`` and ``include/uapi/asm-generic/unistd.h``.
"""

import errno
import platform
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

RET_KILL_PROCESS: Final = 0x80000000
RET_ERRNO: Final = 0x00050000
RET_ALLOW: Final = 0x7FFF0000

_LOAD_WORD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_AND: Final = 0x54  # BPF_ALU | BPF_AND | BPF_K
_JUMP_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_JUMP_GREATER_OR_EQUAL: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K

# struct seccomp_data {int nr; u32 arch; u64 instruction_pointer; u64 args[6];}, little-endian on both architectures.
_NUMBER_OFFSET: Final = 0
_ARCHITECTURE_OFFSET: Final = 4
_ARGUMENTS_OFFSET: Final = 16
_X32_BIT: Final = 0x40000000
_LOW: Final = 0xFFFFFFFF
_ALL: Final = 0xFFFFFFFFFFFFFFFF


@dataclass(frozen=True, slots=True)
class ArgumentIs:
    """Holds when ``argument & mask == value``. Arguments that the kernel takes as ``int`` have a 32-bit mask."""

    index: int
    value: int
    mask: int = _ALL


@dataclass(frozen=True, slots=True)
class Allow:
    """A call that is allowed when every condition of one alternative holds; else it fails with ``otherwise``."""

    call: str
    alternatives: tuple[tuple[ArgumentIs, ...], ...] = ((),)
    otherwise: int = errno.EPERM


_READ_AND_WRITE = 0x3  # PROT_READ | PROT_WRITE
_MAP_ANONYMOUS = 0x20
_MREMAP_MAYMOVE = 0x1
_FUTEX_OPERATIONS = (0, 1, 128, 129, 137, 265, 393)  # WAIT, WAKE, private ones, WAIT_BITSET with either clock

ALLOWED: Final[tuple[Allow, ...]] = (
    Allow("read", ((ArgumentIs(0, 0),),), errno.EBADF),
    Allow("write", ((ArgumentIs(0, 1),),), errno.EBADF),
    Allow("rt_sigreturn"),
    Allow("futex", tuple((ArgumentIs(1, operation, _LOW),) for operation in _FUTEX_OPERATIONS)),
    Allow(
        "mmap", ((ArgumentIs(2, 0, _ALL & ~_READ_AND_WRITE), ArgumentIs(3, _MAP_ANONYMOUS, _MAP_ANONYMOUS)),)
    ),  # memory that is never executable and comes from no file
    Allow("munmap"),
    Allow("mremap", ((ArgumentIs(3, 0, _ALL & ~_MREMAP_MAYMOVE),),)),
    Allow("brk"),
    Allow("clock_gettime"),
    Allow("gettimeofday"),
    Allow("time"),
    Allow("getrandom"),
    Allow("restart_syscall"),
    Allow("exit"),
    Allow("exit_group"),
)
"""Everything a worker may do. The most frequent come first: the filter is a chain of comparisons."""

REFUSED: Final[Mapping[int, tuple[str, ...]]] = {
    errno.EACCES: (
        "open", "openat", "openat2", "stat", "lstat", "fstat", "newfstatat", "statx", "access", "faccessat",
        "faccessat2", "readlink", "readlinkat", "getcwd", "getdents", "getdents64", "chdir", "mkdir", "mkdirat",
        "unlink", "unlinkat", "rename", "renameat", "renameat2", "rmdir", "statfs",
    ),
    errno.EPERM: (
        "socket", "socketpair", "connect", "bind", "listen", "pipe", "pipe2", "fork", "vfork", "clone", "execve",
        "execveat", "kill", "tkill", "getpid", "getppid", "gettid", "getuid", "geteuid", "getgid", "getegid", "uname",
        "sysinfo", "sched_getaffinity", "sched_yield", "ioctl", "fcntl", "lseek", "close", "dup", "dup2", "dup3",
        "poll", "ppoll", "select", "pselect6", "clock_nanosleep", "nanosleep", "clock_getres", "rt_sigaction",
        "rt_sigprocmask", "sigaltstack", "mprotect", "madvise", "prlimit64", "getrlimit", "setrlimit", "getrusage",
        "memfd_create", "eventfd2", "epoll_create1", "times", "umask", "pread64", "pwrite64", "readv", "writev",
        "getitimer", "setitimer", "setpriority", "getpriority",
    ),
    errno.ENOSYS: ("clone3", "rseq", "membarrier"),  # glibc then falls back to what is refused above
}  # fmt: skip
"""Calls that innocent code reaches by accident: it sees an ``OSError``, not a dead worker."""

_X86_64: Final[Mapping[str, int]] = {
    "read": 0, "write": 1, "open": 2, "close": 3, "stat": 4, "fstat": 5, "lstat": 6, "poll": 7, "lseek": 8, "mmap": 9,
    "mprotect": 10, "munmap": 11, "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "ioctl": 16,
    "pread64": 17, "pwrite64": 18, "readv": 19, "writev": 20, "access": 21, "pipe": 22, "select": 23,
    "sched_yield": 24, "mremap": 25, "madvise": 28, "dup": 32, "dup2": 33, "nanosleep": 35, "getitimer": 36,
    "setitimer": 38, "getpid": 39, "socket": 41, "connect": 42, "bind": 49, "listen": 50, "socketpair": 53,
    "clone": 56, "fork": 57, "vfork": 58, "execve": 59, "exit": 60, "kill": 62, "uname": 63, "fcntl": 72,
    "getdents": 78, "getcwd": 79, "chdir": 80, "rename": 82, "mkdir": 83, "rmdir": 84, "unlink": 87, "readlink": 89,
    "umask": 95, "gettimeofday": 96, "getrlimit": 97, "getrusage": 98, "sysinfo": 99, "times": 100, "getuid": 102,
    "getgid": 104, "geteuid": 107, "getegid": 108, "getppid": 110, "sigaltstack": 131, "statfs": 137,
    "getpriority": 140, "setpriority": 141, "setrlimit": 160, "gettid": 186, "tkill": 200, "time": 201, "futex": 202,
    "sched_getaffinity": 204, "getdents64": 217, "restart_syscall": 219, "clock_gettime": 228, "clock_getres": 229,
    "clock_nanosleep": 230, "exit_group": 231, "openat": 257, "mkdirat": 258, "newfstatat": 262, "unlinkat": 263,
    "renameat": 264, "readlinkat": 267, "faccessat": 269, "pselect6": 270, "ppoll": 271, "eventfd2": 290,
    "epoll_create1": 291, "dup3": 292, "pipe2": 293, "prlimit64": 302, "renameat2": 316, "getrandom": 318,
    "memfd_create": 319, "execveat": 322, "membarrier": 324, "statx": 332, "rseq": 334, "clone3": 435, "openat2": 437,
    "faccessat2": 439,
}  # fmt: skip

_AARCH64: Final[Mapping[str, int]] = {
    "getcwd": 17, "eventfd2": 19, "epoll_create1": 20, "dup": 23, "dup3": 24, "fcntl": 25, "ioctl": 29, "mkdirat": 34,
    "unlinkat": 35, "renameat": 38, "statfs": 43, "faccessat": 48, "chdir": 49, "openat": 56, "close": 57, "pipe2": 59,
    "getdents64": 61, "lseek": 62, "read": 63, "write": 64, "readv": 65, "writev": 66, "pread64": 67, "pwrite64": 68,
    "pselect6": 72, "ppoll": 73, "readlinkat": 78, "newfstatat": 79, "fstat": 80, "exit": 93, "exit_group": 94,
    "futex": 98, "nanosleep": 101, "getitimer": 102, "setitimer": 103, "clock_gettime": 113, "clock_getres": 114,
    "clock_nanosleep": 115, "sched_getaffinity": 123, "sched_yield": 124, "restart_syscall": 128, "kill": 129,
    "tkill": 130, "sigaltstack": 132, "rt_sigaction": 134, "rt_sigprocmask": 135, "rt_sigreturn": 139,
    "setpriority": 140, "getpriority": 141, "times": 153, "uname": 160, "getrlimit": 163, "setrlimit": 164,
    "getrusage": 165, "umask": 166, "gettimeofday": 169, "getpid": 172, "getppid": 173, "getuid": 174, "geteuid": 175,
    "getgid": 176, "getegid": 177, "gettid": 178, "sysinfo": 179, "socket": 198, "socketpair": 199, "bind": 200,
    "listen": 201, "connect": 203, "brk": 214, "munmap": 215, "mremap": 216, "clone": 220, "execve": 221, "mmap": 222,
    "mprotect": 226, "madvise": 233, "prlimit64": 261, "renameat2": 276, "getrandom": 278, "memfd_create": 279,
    "execveat": 281, "membarrier": 283, "statx": 291, "rseq": 293, "clone3": 435, "openat2": 437, "faccessat2": 439,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Architecture:
    """An ``AUDIT_ARCH_…`` value, and the numbers of the named calls; a call it does not have is not in ``numbers``."""

    audit: int
    numbers: Mapping[str, int]
    has_x32: bool = False


ARCHITECTURES: Final[Mapping[str, Architecture]] = {
    "x86_64": Architecture(0xC000003E, _X86_64, has_x32=True),
    "aarch64": Architecture(0xC00000B7, _AARCH64),
}


def current_architecture() -> Architecture | None:
    """The architecture of this machine, or ``None`` when there is no filter for it."""
    return ARCHITECTURES.get(platform.machine())


@dataclass(frozen=True, slots=True)
class Instruction:
    """``struct sock_filter``; jumps are relative to the next instruction."""

    code: int
    jump_true: int
    jump_false: int
    operand: int

    def pack(self) -> bytes:
        """As the kernel reads it."""
        return struct.pack("<HBBI", self.code, self.jump_true, self.jump_false, self.operand)


def compile_filter(
    architecture: Architecture, allowed: Iterable[Allow] = ALLOWED, refused: Mapping[int, Iterable[str]] = REFUSED
) -> list[Instruction]:
    """The filter for one architecture. A call of any other one, or of the x32 ABI, kills the process."""
    program = [
        _load(_ARCHITECTURE_OFFSET),
        Instruction(_JUMP_EQUAL, 1, 0, architecture.audit),
        _return(RET_KILL_PROCESS),
        _load(_NUMBER_OFFSET),
    ]
    if architecture.has_x32:
        program += [Instruction(_JUMP_GREATER_OR_EQUAL, 0, 1, _X32_BIT), _return(RET_KILL_PROCESS)]
    for rule in allowed:
        number = architecture.numbers.get(rule.call)
        if number is not None:
            program += _only_for(number, _body(rule))
    for error, calls in refused.items():
        for call in calls:
            if call in architecture.numbers:
                program += _only_for(architecture.numbers[call], [_return(RET_ERRNO | error)])
    return [*program, _return(RET_KILL_PROCESS)]


def assemble(program: Iterable[Instruction]) -> bytes:
    """The bytes of an array of ``struct sock_filter``."""
    return b"".join(instruction.pack() for instruction in program)


def _load(offset: int) -> Instruction:
    return Instruction(_LOAD_WORD, 0, 0, offset)


def _return(action: int) -> Instruction:
    return Instruction(_RETURN, 0, 0, action)


def _only_for(number: int, body: list[Instruction]) -> list[Instruction]:
    """``body`` always returns, so the accumulator still holds the number wherever the chain goes on."""
    return [Instruction(_JUMP_EQUAL, 0, len(body), number), *body]


def _body(rule: Allow) -> list[Instruction]:
    body: list[Instruction] = []
    for conditions in rule.alternatives:
        body += _alternative(conditions)
    return [*body, _return(RET_ERRNO | rule.otherwise)]


def _alternative(conditions: tuple[ArgumentIs, ...]) -> list[Instruction]:
    """Returns "allow" when all conditions hold, else falls off its end. Built backwards, since jumps go forward."""
    code = [_return(RET_ALLOW)]
    for condition in reversed(conditions):
        for shift, offset in ((32, 4), (0, 0)):
            mask = condition.mask >> shift & _LOW
            if not mask:
                continue
            test = [_load(_ARGUMENTS_OFFSET + 8 * condition.index + offset)]
            if mask != _LOW:
                test.append(Instruction(_AND, 0, 0, mask))
            test.append(Instruction(_JUMP_EQUAL, 0, len(code), condition.value >> shift & _LOW))
            code = test + code
    return code
