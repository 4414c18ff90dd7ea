"""Whether a port can be had, and who has it."""

import os
import socket
from pathlib import Path


class PortTaken(Exception):
    """Somebody else listens on the port."""

    def __init__(self, host: str, port: int) -> None:
        who = listener(port)
        super().__init__(
            f"port {port} on {host} is taken{f' by {who}' if who else ''}. "
            f"Stop that, or choose another port: --port {port + 1 if port < 65535 else 8080}."
        )


def require_free(host: str, port: int) -> None:
    """Raises :class:`PortTaken` when nobody can listen on the port now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen()
        except OSError as error:
            raise PortTaken(host, port) from error


def listener(port: int) -> str | None:
    """The process that listens on a TCP port, as ``process 12 (name)``; ``None`` when that cannot be seen.

    Reads ``/proc``, so it sees processes of the same user on Linux, and nothing elsewhere.
    """
    inodes = {f"socket:[{inode}]" for table in ("tcp", "tcp6") for inode in _listening(table, port)}
    for process in Path("/proc").glob("[0-9]*") if inodes else ():
        try:
            if any(os.readlink(descriptor) in inodes for descriptor in (process / "fd").iterdir()):
                return f"process {process.name} ({(process / 'comm').read_text().strip()})"
        except OSError:
            continue  # gone, or not ours to look into
    return None


def _listening(table: str, port: int) -> list[str]:
    try:
        lines = Path("/proc/net", table).read_text().splitlines()[1:]
    except OSError:
        return []
    rows = [line.split() for line in lines]
    return [row[9] for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port]
