"""`loopai dlq` where there is little to talk to, and how it finds NATS."""

import asyncio
import json
from pathlib import Path

import pytest

from loopai_client.local.data_dir import held
from loopai_client.local.nats_server import NatsServer, free_port
from loopai_client.local.stack import Stack, StackSettings, nats_url_of
from tests.integration.client.test_command_tasks import loopai
from tests.support.bus import jetstream_of, new_bus, running


@pytest.fixture
def nowhere(tmp_path: Path) -> list[str]:
    """Options that lead to no running stack."""
    return ["--data-dir", str(tmp_path / "none")]


def test_without_a_stack_it_asks_where_nats_is(nowhere: list[str]) -> None:
    done = loopai("dlq", "list", *nowhere)
    assert done.returncode == 1
    assert "say with --nats or LOOPAI_NATS_URL where NATS is" in done.stderr


def test_nats_that_does_not_answer_is_exit_code_4() -> None:
    address = f"127.0.0.1:{free_port()}"
    done = loopai("dlq", "list", "--json", "--nats", f"nats://operator:hidden@{address}")
    assert done.returncode == 4
    error = json.loads(done.stderr)["error"]
    assert (error["code"], address in error["message"]) == ("unreachable", True)
    assert "hidden" not in done.stderr


@pytest.mark.parametrize("choice", [[], ["--all", "1"], ["--all", "--subject", "loopai.cmd.>"]])
def test_what_shall_be_put_back_is_said_in_one_way(choice: list[str], nowhere: list[str]) -> None:
    assert loopai("dlq", "replay", *choice, *nowhere).returncode == 2


def test_a_server_without_any_service_yet_has_none(tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    server.start()
    try:
        assert loopai("dlq", "list", "--nats", server.url).stdout == "There are none.\n"
        assert loopai("dlq", "replay", "--all", "--nats", server.url).stdout == "There are none.\n"
        missing = loopai("dlq", "show", "1", "--nats", server.url)
        assert (missing.returncode, missing.stderr) == (1, "loopai: there is no dead letter 1\n")
    finally:
        server.stop()


def test_letters_of_any_content_are_shown_and_the_notes_of_the_server_are_not(tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    server.start()

    async def fill() -> None:
        async with running(new_bus("filler", server.url)) as bus:
            note = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.S.C"
            await jetstream_of(bus.client).publish(note, b"{}")
            await jetstream_of(bus.client).publish("loopai.dlq.v1.evt.v1.x", b"\xff[not json]")
            for number in range(600):
                await jetstream_of(bus.client).publish("loopai.dlq.v1.cmd.v1.x", f"{number}".encode())

    try:
        asyncio.run(fill())
        letters = json.loads(loopai("dlq", "list", "--json", "--nats", server.url).stdout)
        assert [letter["sequence"] for letter in letters] == list(range(2, 603))
        assert letters[0]["size_bytes"] == 11
        shown = loopai("dlq", "show", "2", "--nats", server.url)
        assert shown.stdout.endswith("\\xff[not json]\n")
        assert "a note of the server" in loopai("dlq", "show", "1", "--nats", server.url).stderr
    finally:
        server.stop()


def test_the_server_of_a_stack_is_known_while_the_stack_runs(tmp_path: Path) -> None:
    stack = Stack(StackSettings(tmp_path, port=free_port()), lambda _: None)
    assert nats_url_of(tmp_path) is None
    with held(tmp_path, stack.url):
        assert nats_url_of(tmp_path) == stack.nats_url
        Stack(StackSettings(tmp_path, port=free_port(), nats_url="nats://elsewhere:4222"), lambda _: None)
        assert nats_url_of(tmp_path) is None
