"""The compiled filter, run by an interpreter of classic BPF, allows what the list says: on both architectures."""

import errno
import itertools
import platform
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from loopai_executor.sandbox.seccomp import (
    ALLOWED,
    ARCHITECTURES,
    REFUSED,
    RET_ALLOW,
    RET_ERRNO,
    RET_KILL_PROCESS,
    Architecture,
    Instruction,
    assemble,
    compile_filter,
)

_WORD = 0xFFFFFFFF
Arguments = tuple[int, int, int, int, int, int]


def interpret(program: list[Instruction], data: bytes) -> int:
    """Runs a filter on a ``struct seccomp_data`` and returns its verdict, as seccomp(2) and bpf(4) define it."""
    accumulator = 0
    counter = 0
    while True:
        instruction = program[counter]
        counter += 1
        match instruction.code:
            case 0x20:
                assert instruction.operand % 4 == 0
                assert instruction.operand + 4 <= len(data)
                accumulator = int.from_bytes(data[instruction.operand : instruction.operand + 4], "little")
            case 0x54:
                accumulator &= instruction.operand
            case 0x15:
                counter += instruction.jump_true if accumulator == instruction.operand else instruction.jump_false
            case 0x35:
                counter += instruction.jump_true if accumulator >= instruction.operand else instruction.jump_false
            case 0x06:
                return instruction.operand
            case unknown:
                raise AssertionError(f"the compiler never makes instruction {unknown:#x}")


def call(number: int, audit: int, arguments: Arguments = (0, 0, 0, 0, 0, 0)) -> bytes:
    """``struct seccomp_data`` of a system call."""
    words = (number & _WORD).to_bytes(4, "little") + audit.to_bytes(4, "little") + (0).to_bytes(8, "little")
    return words + b"".join(a.to_bytes(8, "little") for a in arguments)


# The written policy, once more and by other means: what a worker may do, as a predicate over each call's arguments.
_ANY = {
    "rt_sigreturn", "munmap", "brk", "clock_gettime", "gettimeofday", "time", "getrandom", "restart_syscall", "exit",
    "exit_group",
}  # fmt: skip
_FUTEX = {0, 1, 128, 129, 137, 265, 393}


def may(name: str, a: Arguments) -> bool:
    match name:
        case "read":
            return a[0] == 0
        case "write":
            return a[0] == 1
        case "futex":
            return a[1] & _WORD in _FUTEX
        case "mmap":
            return a[2] in (0, 1, 2, 3) and a[3] & 0x20 != 0
        case "mremap":
            return a[3] in (0, 1)
    return name in _ANY


_FAILS_WITH = {"read": errno.EBADF, "write": errno.EBADF}
_VALUES = (0, 1, 2, 3, 4, 7, 0x20, 0x21, 0x22, 129, 137, 1 << 31, 1 << 32, (1 << 32) | 0x20, (1 << 64) - 1)


def variations() -> Iterator[Arguments]:
    """All pairs of interesting values at two neighbouring places, the others being zero."""
    for place in range(4):
        for first, second in itertools.product(_VALUES, repeat=2):
            arguments = [0] * 6
            arguments[place], arguments[place + 1] = first, second
            yield tuple(arguments)  # type: ignore[misc]  # six of them


_VARIATIONS = sorted(set(variations()))


@pytest.fixture(params=sorted(ARCHITECTURES))
def architecture(request: pytest.FixtureRequest) -> Architecture:
    return ARCHITECTURES[request.param]


def test_verdict_on_every_call_is_what_the_list_says(architecture: Architecture) -> None:
    program = compile_filter(architecture)
    names = {number: name for name, number in architecture.numbers.items()}
    soft = {call: error for error, calls in REFUSED.items() for call in calls}
    conditional = {rule.call for rule in ALLOWED if rule.alternatives != ((),)}
    for number in range(601):
        name = names.get(number, "")
        for arguments in _VARIATIONS if name in conditional else _VARIATIONS[::37]:
            if may(name, arguments):
                expected = RET_ALLOW
            elif name in conditional:
                expected = RET_ERRNO | _FAILS_WITH.get(name, errno.EPERM)
            elif name in soft:
                expected = RET_ERRNO | soft[name]
            else:
                expected = RET_KILL_PROCESS
            verdict = interpret(program, call(number, architecture.audit, arguments))
            assert verdict == expected, f"{name or number}{arguments}: {verdict:#x}"


def test_every_futex_operation_but_waiting_and_waking_is_refused(architecture: Architecture) -> None:
    program = compile_filter(architecture)
    number = architecture.numbers["futex"]
    for operation in range(1024):
        verdict = interpret(program, call(number, architecture.audit, (0, operation, 0, 0, 0, 0)))
        assert (verdict == RET_ALLOW) == (operation in _FUTEX)


def test_every_other_architecture_is_killed(architecture: Architecture) -> None:
    program = compile_filter(architecture)
    others = {0x40000003, 0x40000028, 0xC000003E, 0xC00000B7, 0xC00000F3, 0} - {architecture.audit}
    for audit, number in itertools.product(others, range(601)):
        assert interpret(program, call(number, audit)) == RET_KILL_PROCESS


def test_x32_calls_are_killed() -> None:
    architecture = ARCHITECTURES["x86_64"]
    program = compile_filter(architecture)
    for number in (0x40000000 + n for n in range(601)):
        assert interpret(program, call(number, architecture.audit)) == RET_KILL_PROCESS
    assert interpret(program, call(-1, architecture.audit)) == RET_KILL_PROCESS


def test_every_path_ends_and_every_jump_stays_inside(architecture: Architecture) -> None:
    program = compile_filter(architecture)
    assert len(program) <= 4096
    for index, instruction in enumerate(program):
        if instruction.code in (0x15, 0x35):
            assert max(instruction.jump_true, instruction.jump_false) <= 255
            assert index + 1 + max(instruction.jump_true, instruction.jump_false) < len(program)
    assert program[-1].code == 0x06
    assert len(assemble(program)) == 8 * len(program)


def test_every_named_call_has_a_number_where_the_architecture_has_the_call() -> None:
    named = {rule.call for rule in ALLOWED} | {name for names in REFUSED.values() for name in names}
    assert named == set(ARCHITECTURES["x86_64"].numbers)
    only_old = {
        "open", "stat", "lstat", "access", "readlink", "getdents", "mkdir", "unlink", "rename", "rmdir", "pipe",
        "fork", "vfork", "dup2", "poll", "select", "time",
    }  # fmt: skip
    assert named - set(ARCHITECTURES["aarch64"].numbers) == only_old
    for architecture in ARCHITECTURES.values():
        assert len(set(architecture.numbers.values())) == len(architecture.numbers)


@pytest.mark.parametrize(
    ("machine", "header"),
    [("x86_64", "x86_64-linux-gnu/asm/unistd_64.h"), ("aarch64", "asm-generic/unistd.h")],
)
def test_numbers_are_the_kernels(machine: str, header: str) -> None:
    path = Path("/usr/include", header)
    if not path.exists():
        pytest.skip(f"not on this platform: {header} is not installed ({platform.machine()})")
    kernel = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", path.read_text()))
    kernel |= {"newfstatat": kernel["fstatat"]} if "fstatat" in kernel else {}
    assert {n: int(kernel[n]) for n in ARCHITECTURES[machine].numbers} == ARCHITECTURES[machine].numbers
