"""Runs a command on a kernel without Landlock: its system call fails as one that the kernel does not know.

Usage: ``python -m tests.support.masked COMMAND …``. The filter stays over ``exec``, so nothing of the product is told
to pretend.
"""

import ctypes
import errno
import os
import sys

from loopai_executor.sandbox.lockdown import forbid_new_privileges
from loopai_executor.sandbox.seccomp import RET_ALLOW, RET_ERRNO, Instruction, assemble

_LANDLOCK_CREATE_RULESET = 444
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2


def mask_landlock() -> None:
    """From now on this process and what it starts are without Landlock."""
    code = assemble(
        [
            Instruction(0x20, 0, 0, 0),
            Instruction(0x15, 0, 1, _LANDLOCK_CREATE_RULESET),
            Instruction(0x06, 0, 0, RET_ERRNO | errno.ENOSYS),
            Instruction(0x06, 0, 0, RET_ALLOW),
        ]
    )

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))

    forbid_new_privileges()
    program = Program(len(code) // 8, code)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    mask_landlock()
    os.execv(sys.argv[1], sys.argv[1:])
