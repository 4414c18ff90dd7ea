"""`loopai dlq` on the whole product: a poisonous message ends there, is looked at, and has its effect when put back."""

import asyncio
import json
import sqlite3
import subprocess
from contextlib import closing
from uuid import uuid4

from loopai_client.dead_letters import DeadLetters
from loopai_common.contracts import subjects
from tests.integration.client.test_command_tasks import loopai
from tests.support.builders import definition_body
from tests.support.bus import jetstream_of
from tests.support.product import ECHO, V1, Product, eventually

REASON = "task_already_exists"


def dlq(product: Product, *arguments: str, stdin: str | None = None) -> "subprocess.CompletedProcess[str]":
    return loopai("dlq", *arguments, "--nats", product.stack.nats_url, stdin=stdin)


async def listed(product: Product, *options: str) -> list[dict[str, object]]:
    done = await asyncio.to_thread(dlq, product, "list", "--json", *options)
    assert done.returncode == 0, done.stderr
    letters: list[dict[str, object]] = json.loads(done.stdout)
    return letters


async def bury(product: Product, name: str) -> int:
    """A command to create a task whose name is taken; returns the sequence of the dead letter that it becomes."""
    body = json.dumps(definition_body(name=name)).encode()
    headers = {"Nats-Msg-Id": uuid4().hex, "X-Correlation-ID": f"of-{name}", "Loopai-Deadline": "1"}
    await jetstream_of(product.nats).publish(subjects.TASK_CREATE_COMMAND, body, headers=headers)
    found: list[dict[str, object]] = []

    async def arrived() -> bool:
        letters = await listed(product, "--subject", subjects.TASK_CREATE_COMMAND)
        found[:] = [letter for letter in letters if letter["code"] == REASON]
        return bool(found)

    await eventually(arrived, 60)
    return int(str(found[-1]["sequence"]))


def free_the_name(product: Product, name: str) -> None:
    (file,) = product.stack.logs.parent.rglob("catalog.sqlite3")
    with closing(sqlite3.connect(file, timeout=30)) as connection, connection:
        assert connection.execute("UPDATE tasks SET name = ? WHERE name = ?", (f"{name}-old", name)).rowcount == 1


async def test_poisonous_message_is_kept_shown_put_back_and_has_its_effect_once(own_product: Product) -> None:
    product, name = own_product, "taken"
    await product.program(ECHO, name=name)
    sequence = await bury(product, name)

    shown = await asyncio.to_thread(dlq, product, "show", str(sequence))
    assert shown.returncode == 0, shown.stderr
    for part in (subjects.TASK_CREATE_COMMAND, REASON, f"of-{name}", '"name": "taken"', "deliveries"):
        assert part in shown.stdout
    table = await asyncio.to_thread(dlq, product, "list")
    assert f"{REASON}: there is a task named 'taken' already" in table.stdout

    refused = await asyncio.to_thread(dlq, product, "replay", "--all", stdin="n\n")
    assert refused.returncode == 1
    assert len(await listed(product)) == 1

    free_the_name(product, name)
    async with DeadLetters.at(product.stack.nats_url) as kept:
        # As when an operator is cut off between the two steps, and does it again: both put the message back.
        sent_on = set(await asyncio.gather(kept.replay(sequence), kept.replay(sequence)))
    assert sent_on == {subjects.TASK_CREATE_COMMAND}

    async def created() -> bool:
        return (await product.http.get(f"{V1}/tasks/{name}")).status_code == 200

    await eventually(created)
    assert await listed(product) == []
    again = await asyncio.to_thread(dlq, product, "replay", str(sequence), "--yes")
    assert (again.returncode, again.stderr) == (1, f"loopai: there is no dead letter {sequence}\n")
    commands = await jetstream_of(product.nats).stream_info(subjects.COMMANDS_STREAM)
    assert commands.state.messages == 0
    names = [task["name"] for task in (await product.http.get(f"{V1}/tasks")).json()["items"]]
    assert sorted(names) == [name, f"{name}-old"]


async def test_what_fails_again_is_a_new_dead_letter(own_product: Product) -> None:
    product, name = own_product, "taken"
    await product.program(ECHO, name=name)
    first = await bury(product, name)
    done = await asyncio.to_thread(dlq, product, "replay", "--subject", "loopai.cmd.>", "--yes", "--json")
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"sequence": first, "subject": subjects.TASK_CREATE_COMMAND}
    ]

    async def back() -> bool:
        return [letter["sequence"] for letter in await listed(product)] > [first]

    await eventually(back, 60)
