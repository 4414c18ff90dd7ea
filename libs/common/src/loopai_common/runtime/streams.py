"""The JetStream streams, declared in this one place (FastStream merges and swallows when it declares them itself)."""

from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import NotFoundError

from loopai_common.contracts import subjects

_DAY = 24 * 3600

STREAMS: tuple[StreamConfig, ...] = (
    StreamConfig(
        name=subjects.COMMANDS_STREAM,
        subjects=[subjects.COMMANDS_ALL],
        retention=RetentionPolicy.WORK_QUEUE,
        storage=StorageType.FILE,
        discard=DiscardPolicy.NEW,
        max_bytes=1 << 30,
        max_age=14 * _DAY,
        duplicate_window=3600,
        description="What shall be done: each command is handled once.",
    ),
    StreamConfig(
        name=subjects.EVENTS_STREAM,
        subjects=list(subjects.EVENTS_ALL),
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        discard=DiscardPolicy.OLD,
        max_bytes=1 << 30,
        max_age=30 * _DAY,
        duplicate_window=3600,
        description="What happened to tasks and artifacts.",
    ),
    # Apart from the other events: records of executions come by the thousand, and what makes room for new ones by
    # dropping old ones must not drop the event that a task was created.
    StreamConfig(
        name=subjects.EXECUTIONS_STREAM,
        subjects=[subjects.EXECUTIONS_ALL],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        discard=DiscardPolicy.OLD,
        max_bytes=1 << 30,
        max_age=7 * _DAY,
        duplicate_window=3600,
        description="Executions that were asynchronous or sampled.",
    ),
    StreamConfig(
        name=subjects.DEAD_LETTERS_STREAM,
        subjects=[subjects.DEAD_LETTERS_ALL, f"{subjects.MAX_DELIVERIES_ADVISORIES}.>"],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        discard=DiscardPolicy.OLD,
        max_bytes=1 << 30,
        max_age=90 * _DAY,
        duplicate_window=3600,
        description="What could not be handled, kept for an operator.",
    ),
)


async def declare_streams(jetstream: JetStreamContext) -> None:
    """Creates the streams that are missing and updates those that differ. Safe for any number of callers at once."""
    for config in STREAMS:
        try:
            await jetstream.stream_info(config.name or "")
        except NotFoundError:
            await jetstream.add_stream(config)
        else:
            await jetstream.update_stream(config)
