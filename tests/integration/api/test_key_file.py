"""The file of API keys while it changes under a running api: what is in force, and what readiness says."""

import os
import threading
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from loopai_api.keyring import KeyRing
from loopai_api.problems import InvalidApiKey, RateLimitExceeded
from loopai_client.local.key_file import changed_keys, read_keys
from loopai_common.keys import BadKeyFile, Rate, Scope, new_key
from tests.support.product import eventually


def add(file: Path, *scopes: Scope, rate: Rate | None = None) -> tuple[str, bytes]:
    """Adds a key as the command does; returns its id and the header's value."""
    text, known = new_key(scopes=list(scopes) or [Scope.EXECUTE], rate=rate)
    with changed_keys(file) as keys:
        keys[known.id] = known
    return known.id, f"Bearer {text}".encode()


def accepts(ring: KeyRing, credential: bytes) -> bool:
    try:
        ring.recognise(credential)
    except InvalidApiKey:
        return False
    return True


async def test_a_change_is_followed(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    first_id, first = add(file)
    ring = KeyRing(file)
    async with ring.followed():
        _, second = add(file)
        await eventually(lambda: accepts(ring, second))
        assert accepts(ring, first)
        with changed_keys(file) as keys:
            del keys[first_id]
        await eventually(lambda: not accepts(ring, first))
        assert accepts(ring, second)
    assert await ring.check() is None


@pytest.mark.parametrize(
    "broken", [b"", b"{", b'{"format": 1, "keys": [{"id": "x"}]}', b" " * (17 << 20)], ids=range(4)
)
async def test_a_broken_file_changes_nothing_and_is_told(tmp_path: Path, broken: bytes) -> None:
    file = tmp_path / "keys.json"
    _, credential = add(file)
    ring = KeyRing(file)
    content = file.read_bytes()
    file.write_bytes(broken)
    with capture_logs() as logs:
        await ring.refresh()
        await ring.refresh()
    assert [entry["event"] for entry in logs] == ["api_keys_unusable"], "told once"
    assert accepts(ring, credential)
    assert "stay in force" in str(await ring.check())
    file.write_bytes(content)
    await ring.refresh()
    assert await ring.check() is None


async def test_a_file_that_vanishes_and_comes_back_is_in_force_again(tmp_path: Path) -> None:
    file, away = tmp_path / "keys.json", tmp_path / "away"
    _, credential = add(file)
    ring = KeyRing(file)
    file.rename(away)
    await ring.refresh()
    assert accepts(ring, credential)
    assert "No such file" in str(await ring.check())
    away.rename(file)
    await ring.refresh()
    assert await ring.check() is None


async def test_a_mounted_secret_changes_by_its_links(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"..{number}").mkdir()
    _, first = add(tmp_path / "..1" / "keys.json")
    _, second = add(tmp_path / "..2" / "keys.json")
    stamp = (1_700_000_000, 1_700_000_000)
    for number in (1, 2):
        os.utime(tmp_path / f"..{number}" / "keys.json", stamp)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "keys.json").symlink_to("..data/keys.json")
    ring = KeyRing(tmp_path / "keys.json")
    assert (accepts(ring, first), accepts(ring, second)) == (True, False)
    (tmp_path / "..new").symlink_to("..2")
    (tmp_path / "..new").rename(tmp_path / "..data")
    await ring.refresh()
    assert (accepts(ring, first), accepts(ring, second)) == (False, True)


async def test_a_bucket_is_as_empty_after_a_change_of_the_file_as_before(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    _, credential = add(file, rate=Rate(0.001, 1))
    ring = KeyRing(file)
    ring.recognise(credential).spend()
    add(file)
    await ring.refresh()
    with pytest.raises(RateLimitExceeded):
        ring.recognise(credential).spend()


def test_a_first_file_must_be_good(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        KeyRing(tmp_path / "none")
    (tmp_path / "bad").write_text("[]")
    with pytest.raises(BadKeyFile):
        KeyRing(tmp_path / "bad")


def test_writers_wait_for_each_other(tmp_path: Path) -> None:
    file = tmp_path / "new" / "keys.json"
    threads = [threading.Thread(target=add, args=(file,)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_keys(file)) == 20
    assert file.stat().st_mode & 0o777 == 0o600


def _clear_and_fail(file: Path) -> None:
    with changed_keys(file) as keys:
        keys.clear()
        raise KeyError


def test_a_change_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    add(file)
    before = file.read_bytes()
    with pytest.raises(KeyError):
        _clear_and_fail(file)
    assert file.read_bytes() == before
