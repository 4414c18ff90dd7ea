"""Ties a process to the one that starts it: when that one dies, even by ``kill -9``, the kernel ends this one too.

Run as a script, ``python -I -S launch.py PARENT_PID COMMAND…``, which becomes COMMAND. The tie (``PR_SET_PDEATHSIG``)
outlives the ``exec``. Doing this in a program of its own, not in ``preexec_fn``, keeps Python code out of the moment
between fork and exec. Linux only; elsewhere the command runs without the tie.
"""

import os
import sys

_PR_SET_PDEATHSIG = 1
_SIGKILL = 9


def launch(parent: int, command: list[str]) -> None:
    """Becomes ``command``, tied to ``parent``. Exits at once when ``parent`` is already gone."""
    if sys.platform == "linux":
        import ctypes

        if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, _SIGKILL) != 0:
            sys.exit(f"cannot tie the process to its parent: {os.strerror(ctypes.get_errno())}")
        if os.getppid() != parent:  # it died before the tie was made
            sys.exit("the process that started this one is gone")
    try:
        os.execv(command[0], command)  # noqa: S606 - no shell is wanted
    except OSError as error:
        sys.exit(f"cannot run {command[0]}: {error.strerror}")


if __name__ == "__main__":
    launch(int(sys.argv[1]), sys.argv[2:])
