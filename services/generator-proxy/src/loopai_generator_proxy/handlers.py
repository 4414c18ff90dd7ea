"""Messages in, use cases."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, Any, Final

from faststream import Context

from loopai_common.contracts import subjects
from loopai_common.contracts.artifacts import ProgramArtifact
from loopai_common.contracts.failure import ERROR_HEADER
from loopai_common.contracts.generation import GenerateProgram, SubmitProgram
from loopai_common.contracts.tasks import TaskCreated
from loopai_common.runtime import context
from loopai_common.runtime.broker import Bus
from loopai_common.runtime.exhausted import bury_exhausted
from loopai_generator_proxy.service import Generations, Submissions

CREATED_CONSUMER: Final = "generator-proxy-created"
GENERATE_CONSUMER: Final = "generator-proxy-generate"
WORK: Final = ((subjects.EVENTS_STREAM, CREATED_CONSUMER), (subjects.COMMANDS_STREAM, GENERATE_CONSUMER))
"""The consumers of what is to be done, and their streams."""

ABANDONED_CONSUMERS: Final = {
    subjects.dead_letter(subjects.TASK_CREATED): f"{CREATED_CONSUMER}-abandoned",
    subjects.dead_letter(subjects.TASK_GENERATE_COMMAND): f"{GENERATE_CONSUMER}-abandoned",
}
"""Dead letters of both kinds, and who takes them."""


def register(bus: Bus, generations: Generations, submissions: Submissions, *, concurrency: int) -> None:
    """Declares what the generator-proxy consumes, at most ``concurrency`` messages of each kind at a time."""

    @bus.on(subjects.PROGRAMS_SUBMIT, concurrency=concurrency)
    async def submit(command: SubmitProgram) -> ProgramArtifact:
        return await submissions.submit(command)

    @bus.on_durable(
        subjects.TASK_CREATED, stream=subjects.EVENTS_STREAM, name=CREATED_CONSUMER, concurrency=concurrency
    )
    async def task_created(event: TaskCreated, message: Annotated[Any, Context()]) -> None:
        # One that an operator put back is about a task that has ended as failed.
        make = generations.make if subjects.REPLAY_HEADER in message.headers else generations.make_first
        with _own_time():
            await make(GenerateProgram(task_id=event.task_id, generation_id=event.generation_id))

    @bus.on_durable(
        subjects.TASK_GENERATE_COMMAND, stream=subjects.COMMANDS_STREAM, name=GENERATE_CONSUMER, concurrency=concurrency
    )
    async def generate(command: GenerateProgram) -> None:
        with _own_time():
            await generations.make(command)

    async def abandoned(command: GenerateProgram, message: Annotated[Any, Context()]) -> None:
        with _own_time():
            await generations.abandon(command, message.headers.get(ERROR_HEADER, "the cause is not known"))

    for letter, name in ABANDONED_CONSUMERS.items():
        bus.on_durable(letter, stream=subjects.DEAD_LETTERS_STREAM, name=name, concurrency=concurrency)(abandoned)

    for stream, consumer in WORK:
        bury_exhausted(bus, stream, consumer)


@contextmanager
def _own_time() -> Iterator[None]:
    """Leaves the deadline of the request behind that caused the message: whoever sent it is not waiting."""
    with context.bound(replace(context.current(), deadline=None)):
        yield
