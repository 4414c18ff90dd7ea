"""Runs hostile programs in a real sandbox, in a process of its own, possibly as another user.

Reads ``{"source", "input", "timeout_ms"}`` a line and answers a line that says what came of it. Started by the tests of
containment; each line is one program against one pool, beside a neighbour that must stay answered.
"""

import asyncio
import json
import os
import sys
from dataclasses import replace
from typing import Any

import structlog

from loopai_common.contracts.frames import AnswerKind
from loopai_executor.sandbox.pool import Pool
from tests.support.sandbox import LIMITS, eventually, program, run, started_pool, submit

_NEIGHBOUR = program("def run(x):\n    return x + 1\n", task="neighbour")


async def examine(pool: Pool, number: int, order: dict[str, Any]) -> dict[str, Any]:
    """Runs one hostile program twice, with a neighbour beside it, and says what everybody was answered."""
    value = {"ppid": os.getpid()} if order["input"] == "PPID" else order["input"]
    restarts = pool.counts.zygote_restarts
    hostile = program(order["source"], task=f"hostile-{number}")
    sink = submit(pool, hostile, [value, value], timeout_ms=order["timeout_ms"])
    beside = await run(pool, _NEIGHBOUR, [1, 2, 3])
    await eventually(sink.done.done)
    after = await run(pool, _NEIGHBOUR, [4])
    expected = [(AnswerKind.SUCCESS, n) for n in (2, 3, 4)], [(AnswerKind.SUCCESS, 5)]
    return {
        "answers": [[int(kind), payload] for kind, payload in sink.answers],
        "neighbour_answered": (beside, after) == expected,
        "zygote_alive": pool.available and pool.counts.zygote_restarts == restarts,
        "uid": os.geteuid(),
    }


async def main() -> None:
    """Serves orders until the input ends."""
    structlog.configure(
        logger_factory=structlog.PrintLoggerFactory(sys.stderr)
    )  # the answers have stdout to themselves
    limits = replace(LIMITS, load_timeout_ms=300)
    async with started_pool(limits) as pool:
        for number, line in enumerate(iter(sys.stdin.readline, "")):
            print(json.dumps(await examine(pool, number, json.loads(line))), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
