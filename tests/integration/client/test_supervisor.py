"""The supervisor with real processes: what it starts gets ready, comes back when it dies, and never outlives it."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from loopai_client.local.supervisor import Event, ProcessSpec, StartFailed, Supervisor
from tests.integration.client import supervised
from tests.integration.client.supervised import stand_in
from tests.support.processes import WAIT_SECONDS, alive, wait_until_gone


async def count_of(events: list[Event], kind: str, times: int) -> None:
    """Waits until the supervisor has reported so many events of the kind."""
    async with asyncio.timeout(WAIT_SECONDS):
        while sum(event.kind == kind for event in events) < times:
            await asyncio.sleep(0.02)


@asynccontextmanager
async def supervisor_of(
    logs: Path, *stages: list[ProcessSpec], ready_seconds: float = 30.0, grace_seconds: float = 20.0
) -> AsyncIterator[tuple[Supervisor, list[Event]]]:
    """A supervisor whose events are kept; nothing of it is left afterwards."""
    events: list[Event] = []
    supervisor = Supervisor(stages, logs, events.append, ready_seconds=ready_seconds, grace_seconds=grace_seconds)
    try:
        yield supervisor, events
    finally:
        await supervisor.kill()


@contextmanager
def program(logs: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """The supervisor as a program, up, with the ids of its two processes."""
    command = [sys.executable, "-m", supervised.__name__, "--logs", str(logs), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("up "):
                    yield process, [int(pid) for pid in line.split()[1:]]
                    break
            else:
                pytest.fail("the supervisor did not come up")
        finally:
            process.kill()


def rest_of(process: subprocess.Popen[str]) -> list[str]:
    """What the program still says until it ends."""
    assert process.stdout is not None
    return process.stdout.read().splitlines()


async def test_starts_stage_after_stage_and_stops_in_reverse(tmp_path: Path) -> None:
    async with supervisor_of(tmp_path, [stand_in("a")], [stand_in("b")], [stand_in("c")]) as (supervisor, events):
        await supervisor.start()
        pids = [process.pid for process in supervisor.processes.values()]
        assert all(alive(pid) for pid in pids)

        await supervisor.stop()

        assert [(e.kind, e.process) for e in events] == [
            ("ready", "a"),
            ("ready", "b"),
            ("ready", "c"),
            ("stopped", "c"),
            ("stopped", "b"),
            ("stopped", "a"),
        ]
        assert not any(alive(pid) for pid in pids)


async def test_death_at_start_names_the_process_and_its_last_words(tmp_path: Path) -> None:
    failing = stand_in("failing", "--fail", "cannot open the door")
    async with supervisor_of(tmp_path, [stand_in("fine")], [failing]) as (supervisor, _):
        with pytest.raises(StartFailed) as failure:
            await supervisor.start()
        assert "failing ended with exit code 3" in str(failure.value)
        assert "cannot open the door" in str(failure.value)
        assert str(tmp_path / "failing.log") in str(failure.value)

        await supervisor.stop()
        assert not any(process.running for process in supervisor.processes.values())


async def test_program_that_does_not_exist_is_a_failed_start(tmp_path: Path) -> None:
    missing = ProcessSpec("missing", (str(tmp_path / "no-such-program"),), stand_in("unused").ready)
    async with supervisor_of(tmp_path, [missing]) as (supervisor, _):
        with pytest.raises(StartFailed, match="no-such-program"):
            await supervisor.start()


async def test_process_that_never_gets_ready_is_a_failed_start(tmp_path: Path) -> None:
    async with supervisor_of(tmp_path, [stand_in("slow", "--hang")], ready_seconds=0.5) as (supervisor, _):
        with pytest.raises(StartFailed, match=r"slow was not ready after 0\.5 s: does not answer yet"):
            await supervisor.start()


async def test_process_that_dies_later_is_started_again(tmp_path: Path) -> None:
    async with supervisor_of(tmp_path, [stand_in("steady"), stand_in("mortal")]) as (supervisor, events):
        await supervisor.start()
        watching = asyncio.create_task(supervisor.watch())
        steady, mortal = (supervisor.processes[name].pid for name in ("steady", "mortal"))

        os.kill(mortal, signal.SIGKILL)
        await count_of(events, "ready", 3)

        [ended] = [e for e in events if e.kind == "ended"]
        assert (ended.process, ended.detail) == ("mortal", "was ended by SIGKILL")
        assert ended.seconds > 0
        assert supervisor.processes["mortal"].pid != mortal
        assert supervisor.processes["steady"].pid == steady
        watching.cancel()
        await asyncio.wait({watching})


async def test_wait_before_a_new_start_grows_while_it_keeps_dying(tmp_path: Path) -> None:
    async with supervisor_of(tmp_path, [stand_in("mortal")]) as (supervisor, events):
        await supervisor.start()
        watching = asyncio.create_task(supervisor.watch())
        for times in (1, 2):
            await count_of(events, "ready", times)
            os.kill(supervisor.processes["mortal"].pid, signal.SIGKILL)
            await count_of(events, "ended", times)
        first, second = (e.seconds for e in events if e.kind == "ended")
        assert second == 2 * first
        watching.cancel()
        await asyncio.wait({watching})


async def test_process_that_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    async with supervisor_of(tmp_path, [stand_in("deaf", "--deaf")], grace_seconds=0.3) as (supervisor, events):
        await supervisor.start()
        pid = supervisor.processes["deaf"].pid
        await supervisor.stop()
        assert [e.kind for e in events] == ["ready", "killed"]
        assert not alive(pid)


async def test_log_of_the_run_before_is_kept_and_the_new_one_starts_empty(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("from the run before")
    async with supervisor_of(tmp_path, [stand_in("a")]) as (supervisor, _):
        await supervisor.start()
        assert (tmp_path / "a.log.1").read_text() == "from the run before"
        assert "from the run before" not in (tmp_path / "a.log").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_stops_everything_gracefully(tmp_path: Path, number: signal.Signals) -> None:
    with program(tmp_path) as (process, pids):
        process.send_signal(number)
        assert rest_of(process) == ["stopped second", "stopped first"]
        assert process.wait(WAIT_SECONDS) == 0
        assert not any(alive(pid) for pid in pids)


def test_second_signal_does_not_wait_for_the_grace(tmp_path: Path) -> None:
    with program(tmp_path, "--deaf") as (process, pids):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)  # two signals at once are one; the grace is ten minutes
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_SECONDS) == 0
        assert not any(alive(pid) for pid in pids)


@pytest.mark.skipif(sys.platform != "linux", reason="not on this platform: needs PR_SET_PDEATHSIG")
def test_kill_of_the_supervisor_leaves_nothing_running(tmp_path: Path) -> None:
    with program(tmp_path, "--deaf") as (process, pids):
        process.kill()
        process.wait(WAIT_SECONDS)
        wait_until_gone(pids)
