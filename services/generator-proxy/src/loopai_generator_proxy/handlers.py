"""Messages in, use cases."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from loopai_common.contracts import subjects
from loopai_common.contracts.generation import GenerateProgram
from loopai_common.contracts.tasks import TaskCreated
from loopai_common.runtime import context
from loopai_common.runtime.broker import Bus
from loopai_generator_proxy.service import Generations

CREATED_CONSUMER: Final = "generator-proxy-created"
GENERATE_CONSUMER: Final = "generator-proxy-generate"


def register(bus: Bus, generations: Generations, *, concurrency: int) -> None:
    """Declares what the generator-proxy consumes, at most ``concurrency`` messages of each kind at a time."""

    @bus.on_durable(
        subjects.TASK_CREATED, stream=subjects.EVENTS_STREAM, name=CREATED_CONSUMER, concurrency=concurrency
    )
    async def task_created(event: TaskCreated) -> None:
        with _own_time():
            await generations.make_first(GenerateProgram(task_id=event.task_id, generation_id=event.generation_id))

    @bus.on_durable(
        subjects.TASK_GENERATE_COMMAND, stream=subjects.COMMANDS_STREAM, name=GENERATE_CONSUMER, concurrency=concurrency
    )
    async def generate(command: GenerateProgram) -> None:
        with _own_time():
            await generations.make(command)


@contextmanager
def _own_time() -> Iterator[None]:
    """Leaves the deadline of the request behind that caused the message: whoever sent it is not waiting."""
    with context.bound(replace(context.current(), deadline=None)):
        yield
