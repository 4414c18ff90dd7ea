"""Gathers the root file system of an image: a Python, what it links, one virtual environment, and nothing else.

Runs inside the build stage of each Dockerfile, with the Python of that stage: ``minimal_root.py VENV TARGET``. There is
no shell, no package manager and no set-user-id program in what it makes. The records of the Debian packages that files
were taken from go along (in ``var/lib/dpkg/status.d``, as distroless images have them), so that scanners see them.
"""

import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

_USER = 65532
_LEFT_OUT = shutil.ignore_patterns(
    "test", "tests", "idlelib", "ensurepip", "tkinter", "turtledemo", "lib2to3", "pydoc_data", "site-packages",
    "dist-packages", "config-*", "_tkinter*.so", "_test*.so", "_ctypes_test*.so", "xxlimited*.so", "*.a",
)  # fmt: skip
_LEFT_OUT_OF_ENVIRONMENT = shutil.ignore_patterns("tests", "*.pyi")
_BY_NAME = ("libgcc_s.so.1",)
"""Opened by the C library when a thread ends, and linked by nobody."""


def main(venv: Path, root: Path) -> None:
    """Makes ``root``; the environment keeps its path, and its scripts and links stay valid."""
    stdlib = Path(sysconfig.get_path("stdlib"))
    _copy_tree(stdlib, root)
    _copy_tree(venv, root)
    executables = list(_chain(venv / "bin" / "python3"))
    for path in executables:
        _copy(path, root)
    objects = [executables[-1], *_shared_objects(stdlib), *_shared_objects(venv)]
    libraries = {path for path in _linked(objects) if not path.is_relative_to(venv)}
    for path in libraries:
        _copy_content(path, root)
    for name in ("etc/ssl/certs/ca-certificates.crt", "etc/os-release"):
        _copy_content(Path("/", name), root)
    _write(root, "etc/passwd", f"root:x:0:0::/:\nloopai:x:{_USER}:{_USER}::/tmp:\n")
    _write(root, "etc/group", f"root:x:0:\nloopai:x:{_USER}:\n")
    _write(root, "etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")
    root.joinpath("tmp").mkdir(mode=0o1777)
    root.joinpath("tmp").chmod(0o1777)
    _record_packages({*libraries, *executables, stdlib / "os.py", Path("/etc/ssl/certs/ca-certificates.crt")}, root)


def _chain(path: Path) -> Iterator[Path]:
    """The path, and what each symbolic link on the way points to."""
    yield path
    while path.is_symlink():
        path = path.parent / path.readlink()
        yield path


def _shared_objects(directory: Path) -> Iterator[Path]:
    return (path for path in directory.rglob("*.so*") if path.is_file() and not path.is_symlink())


def _linked(objects: Iterable[Path]) -> Iterator[Path]:
    """What the dynamic linker loads for any of these: the loader itself, and every library."""
    listed = subprocess.run(["/usr/bin/ldd", *map(str, objects)], capture_output=True, text=True, check=False).stdout
    found = {Path(path) for path in re.findall(r"(?:=> |^\s+)(/\S+) \(0x", listed, re.MULTILINE)}
    yield from found
    for directory in {path.parent for path in found}:
        yield from (directory / name for name in _BY_NAME if (directory / name).exists())


def _copy_tree(directory: Path, root: Path) -> None:
    ignore = _LEFT_OUT_OF_ENVIRONMENT if (directory / "pyvenv.cfg").exists() else _LEFT_OUT
    shutil.copytree(directory, _inside(directory, root), symlinks=True, dirs_exist_ok=True, ignore=ignore)


def _copy(path: Path, root: Path) -> None:
    target = _inside(path, root)
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists() and not target.is_symlink():
        shutil.copy2(path, target, follow_symlinks=False)


def _copy_content(path: Path, root: Path) -> None:
    target = _inside(path, root)
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not target.exists():
        shutil.copy2(path.resolve(), target)


def _inside(path: Path, root: Path) -> Path:
    return root / path.relative_to("/")


def _write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _record_packages(paths: Iterable[Path], root: Path) -> None:
    if shutil.which("dpkg") is None:
        return
    names = {str(each) for path in paths for each in (path, path.resolve())}
    names |= {name.removeprefix("/usr") for name in names}  # packages from before /usr was merged own the short path
    found = subprocess.run(["/usr/bin/dpkg", "-S", *names], capture_output=True, text=True, check=False).stdout
    packages = {name.strip() for line in found.splitlines() for name in line.split(": ")[0].split(",")}
    for package in sorted(packages):
        shown = subprocess.run(["/usr/bin/dpkg", "-s", package], capture_output=True, text=True, check=False)
        if shown.returncode == 0:
            _write(root, f"var/lib/dpkg/status.d/{package.partition(':')[0]}", shown.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
