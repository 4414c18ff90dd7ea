"""The file of API keys on disk: one writer at a time, and whoever reads sees the old keys or the new ones."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loopai_common.keys import ApiKey, decode_keys, encode_keys

_PRIVATE = 0o600


def read_keys(path: Path) -> dict[str, ApiKey]:
    """The keys of the file by their ids, none when it is not there; raises :class:`BadKeyFile`."""
    try:
        return decode_keys(path.read_bytes())
    except FileNotFoundError:
        return {}


@contextmanager
def changed_keys(path: Path) -> Iterator[dict[str, ApiKey]]:
    """The keys of the file, to be changed in place; they are written when the block ends without an exception.

    The file is made when it is not there, and only its owner may read it.
    """
    target = path.resolve()  # of a link, what it points to is replaced
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target):
        keys = read_keys(target)
        yield keys
        _replace(target, encode_keys(keys))


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    # A file of its own: the other one is replaced, and a lock on it would be one on the file of before.
    descriptor = os.open(_beside(target, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _PRIVATE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace(target: Path, content: bytes) -> None:
    draft = _beside(target, "draft")
    draft.unlink(missing_ok=True)  # of a writer that was killed
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _PRIVATE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(target)
    directory = os.open(target.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _beside(target: Path, suffix: str) -> Path:
    return target.with_name(f".{target.name}.{suffix}")
