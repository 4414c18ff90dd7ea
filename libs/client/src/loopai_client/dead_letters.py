"""Dead letters: messages that no handler could handle, kept on the bus until an operator puts them back."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Self

import nats
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, RawStreamMsg
from nats.js.errors import APIError, NotFoundError, ServerError

from loopai_client.errors import LoopaiError, Unreachable
from loopai_common.contracts import subjects
from loopai_common.contracts.failure import ERROR_CODE_HEADER, ERROR_HEADER

_CONNECT_SECONDS: Final = 5
_ANSWER_SECONDS: Final = 10.0
_FETCHED_AT_A_TIME: Final = 256
_CONSUMER_SECONDS: Final = 30.0
_SIZE_HEADER: Final = "Nats-Msg-Size"
_OWN_HEADERS: Final = {subjects.BURIED_SUBJECT_HEADER, subjects.BURIED_DELIVERIES_HEADER, subjects.DEADLINE_HEADER}


class NoSuchLetter(LoopaiError):
    """There is no dead letter with this sequence, or not any more."""

    code = "dead_letter_not_found"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that ended here: what it was sent on, when it was given up, after how many deliveries, and why."""

    sequence: int
    subject: str
    at: datetime
    deliveries: int | None
    code: str | None
    reason: str | None
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Content:
    """What a dead letter holds."""

    headers: Mapping[str, str]
    body: bytes


class DeadLetters:
    """The dead letters of a running product."""

    def __init__(self, client: Client) -> None:
        self._jetstream = client.jetstream(timeout=_ANSWER_SECONDS)

    @classmethod
    @asynccontextmanager
    async def at(cls, nats_url: str) -> AsyncIterator[Self]:
        """Those on the bus at ``nats_url``; raises :class:`Unreachable`, also when the connection is lost, and
        :class:`LoopaiError` for what NATS refuses.
        """
        servers = [url.strip() for url in nats_url.split(",")]
        try:
            client = await nats.connect(
                servers,
                name="loopai-dlq",
                connect_timeout=_CONNECT_SECONDS,
                allow_reconnect=False,
                max_reconnect_attempts=1,  # the first connection counts: by default it is tried for two minutes
                reconnect_time_wait=0,
                error_cb=_unheard,
            )
            try:
                yield cls(client)
            finally:
                await client.close()
        except APIError as error:
            raise LoopaiError(f"NATS refuses: {error.description}") from error
        except (NatsError, OSError) as error:
            hosts = ", ".join(server.rpartition("@")[2].rpartition("/")[2] for server in servers)  # without passwords
            raise Unreachable(f"NATS at {hosts} does not answer ({type(error).__name__})") from error

    async def list(self, subject: str | None = None) -> list[DeadLetter]:
        """All of them, or those of ``subject``, which may have wildcards; oldest first, without their bodies."""
        config = ConsumerConfig(
            filter_subject=subjects.DEAD_LETTERS_ALL if subject is None else subjects.dead_letter(subject),
            ack_policy=AckPolicy.NONE,
            headers_only=True,
            inactive_threshold=_CONSUMER_SECONDS,
            mem_storage=True,
        )
        try:
            consumer = await self._jetstream.add_consumer(subjects.DEAD_LETTERS_STREAM, config)
        except NotFoundError:
            return []  # no service has declared the stream yet
        subscription = await self._jetstream.pull_subscribe_bind(consumer.name, subjects.DEAD_LETTERS_STREAM)
        found: list[DeadLetter] = []
        left = consumer.num_pending or 0
        while left > 0:
            messages = await subscription.fetch(min(left, _FETCHED_AT_A_TIME), timeout=_ANSWER_SECONDS)
            left -= len(messages)
            for message in messages:
                headers, place = message.headers or {}, message.metadata
                size = int(headers.get(_SIZE_HEADER, 0))
                found.append(_letter(place.sequence.stream, message.subject, place.timestamp, headers, size))
        await self._jetstream.delete_consumer(subjects.DEAD_LETTERS_STREAM, consumer.name)
        return found

    async def get(self, sequence: int) -> tuple[DeadLetter, Content]:
        """One of them; raises :class:`NoSuchLetter`."""
        stored = await self._stored(sequence)
        headers, body = stored.headers or {}, stored.data or b""
        return _letter(sequence, stored.subject or "", _time(stored), headers, len(body)), Content(headers, body)

    async def replay(self, sequence: int) -> str:
        """Puts the message back on its subject and removes the dead letter; returns the subject.

        Doing it twice within the stream's duplicate window (an hour) has one effect. Raises :class:`NoSuchLetter`.
        """
        stored = await self._stored(sequence)
        subject = subjects.buried_subject(stored.subject or "")
        # The id of the first time is spent: within the window the stream would drop the message as a copy.
        headers = {
            **{k: v for k, v in (stored.headers or {}).items() if k not in _OWN_HEADERS and not k.startswith("Nats-")},
            subjects.REPLAY_HEADER: str(sequence),
            subjects.MESSAGE_ID_HEADER: f"replay-{sequence}@{_time(stored).isoformat()}",
        }
        await self._jetstream.publish(subject, stored.data or b"", headers=headers, timeout=_ANSWER_SECONDS)
        await self._remove(sequence)
        return subject

    async def _remove(self, sequence: int) -> None:
        try:
            await self._jetstream.delete_msg(subjects.DEAD_LETTERS_STREAM, sequence)
        except ServerError:
            # The server's word for a message that is gone, too; then somebody else was faster.
            with suppress(NotFoundError):
                await self._jetstream.get_msg(subjects.DEAD_LETTERS_STREAM, sequence)
                raise

    async def _stored(self, sequence: int) -> RawStreamMsg:
        try:
            stored = await self._jetstream.get_msg(subjects.DEAD_LETTERS_STREAM, sequence)
        except NotFoundError as error:
            raise NoSuchLetter(f"there is no dead letter {sequence}") from error
        if not (stored.subject or "").startswith(subjects.DEAD_LETTERS_ALL.removesuffix(">")):
            raise NoSuchLetter(f"message {sequence} of the stream is a note of the server, and no dead letter")
        return stored


def _letter(sequence: int, subject: str, at: datetime, headers: Mapping[str, str], size_bytes: int) -> DeadLetter:
    deliveries = headers.get(subjects.BURIED_DELIVERIES_HEADER)
    return DeadLetter(
        sequence,
        subjects.buried_subject(subject),
        at,
        int(deliveries) if deliveries is not None else None,
        headers.get(ERROR_CODE_HEADER),
        headers.get(ERROR_HEADER),
        size_bytes,
    )


def _time(stored: RawStreamMsg) -> datetime:
    assert stored.time is not None, "the server says when it stored a message"
    return stored.time


async def _unheard(_: Exception) -> None:
    """What goes wrong is raised where it is waited for."""
