"""Background work is not lost to an error that nobody foresaw."""

import asyncio

import pytest
from structlog.testing import capture_logs

from loopai_common.runtime.background import cancelled, running


async def test_work_that_fails_begins_again_and_the_log_says_why() -> None:
    begun = 0
    third = asyncio.Event()

    async def work() -> None:
        nonlocal begun
        begun += 1
        if begun == 3:
            third.set()
            await asyncio.Event().wait()
        raise KeyError("unforeseen")

    with capture_logs() as logs:
        async with running(work, restart_seconds=0):
            await asyncio.wait_for(third.wait(), 20)
    assert begun == 3
    assert [entry["event"] for entry in logs] == ["background_work_failed"] * 2
    assert "work" in logs[0]["work"]
    assert isinstance(logs[0]["exc_info"], KeyError)


async def test_work_that_ends_by_itself_is_done() -> None:
    begun = 0

    async def work() -> None:
        nonlocal begun
        begun += 1

    async with running(work, restart_seconds=0):
        for _ in range(10):
            await asyncio.sleep(0)
    assert begun == 1


async def test_leaving_cancels_the_work_and_waits_for_its_end() -> None:
    steps = []

    async def work() -> None:
        try:
            steps.append("begun")
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            steps.append("ended")

    async with running(work):
        while not steps:
            await asyncio.sleep(0)
    assert steps == ["begun", "ended"]


async def test_work_that_loses_a_cancellation_is_cancelled_again() -> None:
    cancellations = 0

    async def work() -> None:
        nonlocal cancellations
        while cancellations < 2:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:  # as asyncio.wait_for of Python 3.11 does now and then
                cancellations += 1

    async with asyncio.timeout(20):
        async with running(work):
            await asyncio.sleep(0)
        task = asyncio.create_task(work())
        cancellations = 0
        await asyncio.sleep(0)
        await cancelled(task)
    assert cancellations == 2
    assert task.done()


async def test_an_error_of_the_block_is_the_one_that_is_seen() -> None:
    with pytest.raises(ValueError, match="of the block"):
        async with running(asyncio.Event().wait):  # type: ignore[arg-type]  # what it returns does not matter
            raise ValueError("of the block")
