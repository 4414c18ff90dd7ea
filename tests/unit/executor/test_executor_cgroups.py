"""Which control group may be divided, decided from files that look as the kernel's do."""

import os
from pathlib import Path

import pytest

from loopai_executor.sandbox.cgroups import NotDelegated, Place, delegated_base, place_in

MOUNTS = """\
23 1 8:1 / / rw - ext4 /dev/sda1 rw
31 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw
"""
HYBRID = """\
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw
35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
"""
CONTAINER = "31 23 0:28 /docker/abc /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"


@pytest.mark.parametrize(
    ("membership", "mounts", "own", "top"),
    [
        ("0::/\n", MOUNTS, "/sys/fs/cgroup", "/sys/fs/cgroup"),
        ("0::/system.slice/a.service\n", MOUNTS, "/sys/fs/cgroup/system.slice/a.service", "/sys/fs/cgroup"),
        ("4:memory:/x\n0::/a\n", HYBRID, "/sys/fs/cgroup/unified/a", "/sys/fs/cgroup/unified"),
        ("0::/docker/abc\n", CONTAINER, "/sys/fs/cgroup", "/sys/fs/cgroup"),
        ("0::/docker/abc/leaf\n", CONTAINER, "/sys/fs/cgroup/leaf", "/sys/fs/cgroup"),
    ],
)
def test_place_is_read_from_what_the_kernel_says(membership: str, mounts: str, own: str, top: str) -> None:
    assert place_in(membership, mounts) == Place(Path(own), Path(top))


@pytest.mark.parametrize(
    ("membership", "mounts", "reason"),
    [
        ("4:memory:/x\n", HYBRID, "no control group of version 2"),
        ("0::/../other\n", MOUNTS, "no control group of version 2"),
        ("0::/a\n", "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n", "no file system"),
        ("0::/elsewhere\n", CONTAINER, "no file system"),
        ("", "", "no control group of version 2"),
    ],
)
def test_process_without_a_visible_group_of_version_2_has_no_place(membership: str, mounts: str, reason: str) -> None:
    with pytest.raises(NotDelegated, match=reason):
        place_in(membership, mounts)


def _group(directory: Path, *, controllers: str = "cpu memory pids", marked: bool = False, root: bool = False) -> Path:
    """A directory as the kernel makes it for a group; the root of a machine has fewer files."""
    directory.mkdir(exist_ok=True)
    (directory / "cgroup.controllers").write_text(f"{controllers}\n")
    (directory / "cgroup.procs").write_text("")
    (directory / "cgroup.subtree_control").write_text("")
    if not root:
        (directory / "cgroup.type").write_text("domain\n")
    if marked:
        try:
            os.setxattr(directory, "user.delegate", b"1")
        except OSError:
            pytest.skip("not on this platform: the temporary directory has no extended attributes")
    return directory


def test_unit_that_systemd_delegated_is_divided(tmp_path: Path) -> None:
    top = _group(tmp_path, root=True)
    unit = _group(top / "a.service", marked=True)
    assert delegated_base(Place(unit, top)) == unit


def test_unit_above_the_leaf_of_the_process_is_divided(tmp_path: Path) -> None:
    top = _group(tmp_path, root=True)
    unit = _group(top / "a.service", marked=True)
    leaf = _group(unit / "leaf", controllers="")
    assert delegated_base(Place(leaf, top)) == unit


def test_root_of_a_container_is_divided(tmp_path: Path) -> None:
    top = _group(tmp_path)
    assert delegated_base(Place(top, top)) == top
    assert delegated_base(Place(_group(top / "leaf", controllers=""), top)) == top


@pytest.mark.parametrize("levels", [0, 1, 2])
def test_group_of_a_machine_is_left_alone_even_where_root_may_write(tmp_path: Path, levels: int) -> None:
    directory = top = _group(tmp_path, root=True)
    for _ in range(levels):
        directory = _group(directory / "slice")
    with pytest.raises(NotDelegated, match="somebody else's"):
        delegated_base(Place(directory, top))


def test_nothing_above_the_highest_visible_group_is_looked_at(tmp_path: Path) -> None:
    above = _group(tmp_path, marked=True)
    top = _group(above / "top", controllers="cpu")
    with pytest.raises(NotDelegated, match="lacks the controllers memory, pids"):
        delegated_base(Place(top, top))


@pytest.mark.parametrize(
    ("controllers", "missing"), [("", "memory, pids"), ("memory", "pids"), ("cpu pids hugetlb", "memory")]
)
def test_controllers_that_are_missing_are_named(tmp_path: Path, controllers: str, missing: str) -> None:
    top = _group(tmp_path, controllers=controllers)
    with pytest.raises(NotDelegated, match=f"lacks the controllers {missing}$"):
        delegated_base(Place(top, top))


def test_group_that_is_gone_is_not_divided(tmp_path: Path) -> None:
    with pytest.raises(NotDelegated, match="cannot be read"):
        delegated_base(Place(tmp_path / "gone", tmp_path / "gone"))


@pytest.mark.skipif(os.geteuid() == 0, reason="not on this platform: root may write to everything")
def test_group_that_may_not_be_written_is_not_divided(tmp_path: Path) -> None:
    top = _group(tmp_path)
    (top / "cgroup.procs").chmod(0o400)
    with pytest.raises(NotDelegated, match="read-only"):
        delegated_base(Place(top, top))
