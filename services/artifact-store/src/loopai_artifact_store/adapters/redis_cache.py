"""A cache in Redis or Valkey, which the instances of the store share.

A value is one byte of format, eight of revision, and MessagePack; a value that was removed is its revision alone.
Both scripts look at the revision only, so that a slow reader never puts an old value in the place of a newer one.
"""

import asyncio
import struct
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar, assert_never

import msgspec
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.maint_notifications import MaintNotificationsConfig

from loopai_artifact_store.domain import Artifact, Task, digest_of
from loopai_artifact_store.ports import Absent, Cached, CacheKey, CacheKind, CacheUnavailable, Entry, Timer
from loopai_common.contracts.artifacts import ProgramArtifact
from loopai_common.contracts.base import Digest, TaskId
from loopai_common.contracts.tasks import Rollout
from loopai_common.runtime.logging import get_logger

T = TypeVar("T")

TIMEOUT_SECONDS: Final = 0.05
FAILURES: Final = 5
"""So many in a row, and Redis is left alone until it answers again. One removal that failed is enough."""
PROBE_SECONDS: Final = 1.0
_CONNECTIONS: Final = 32
_REMEMBERED_MS: Final = 10_000
_SCANNED_AT_ONCE: Final = 500

_FORMAT: Final = 1
_HEAD: Final = struct.Struct(">BQ")

# KEYS: the key. ARGV: the value, its revision, the moment of its end. Gives 0 when a newer one is known.
_SET: Final = """
local known = redis.call('GETRANGE', KEYS[1], 0, 8)
if #known == 9 and struct.unpack('>I8', known, 2) > tonumber(ARGV[2]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PXAT', ARGV[3])
return 1
"""
# KEYS: any number. ARGV: the format byte, the revision below which nothing is taken, for how many milliseconds.
_REMOVE: Final = """
for _, key in ipairs(KEYS) do
  local revision = tonumber(ARGV[2])
  local known = redis.call('GETRANGE', key, 0, 8)
  if #known == 9 then revision = math.max(revision, (struct.unpack('>I8', known, 2))) end
  redis.call('SET', key, struct.pack('>BI8', tonumber(ARGV[1]), revision), 'PX', ARGV[3])
end
"""

_Shared = bytes | TaskId | Task | tuple[Artifact, ...]
_Contracts = ProgramArtifact | Rollout
"""What tasks and versions hold that MessagePack does not know."""

log = get_logger()


class RedisCache:
    """Asks Redis with one pool of connections and a time-out of 50 ms; never tries anything twice.

    When Redis is slow or gone every call raises :class:`CacheUnavailable` at once, until :meth:`run` finds it again
    and has dropped what can change: while it was away, removals were lost.
    """

    def __init__(
        self,
        url: str,
        environment: str,
        timer: Timer,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        probe_seconds: float = PROBE_SECONDS,
    ) -> None:
        self._client = Redis.from_url(
            url,
            protocol=3,
            max_connections=_CONNECTIONS,
            socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
            retry=Retry(NoBackoff(), 0),
            # With them on, redis-py no longer looks whether a pooled connection holds an answer that nobody read.
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
        )
        self._prefix = f"loopai:{environment}:"
        self._timer = timer
        self._probe_seconds = probe_seconds
        self._slots = asyncio.Semaphore(_CONNECTIONS)
        self._failures = 0
        self._lost = asyncio.Event()
        self._ahead_seconds: float | None = None

    @property
    def lost(self) -> bool:
        """Whether Redis is left alone."""
        return self._lost.is_set()

    async def run(self) -> None:
        """Looks for a Redis that was lost, until cancelled."""
        while True:
            await self._lost.wait()
            await asyncio.sleep(self._probe_seconds)
            try:
                await self._asked("probe", self._drop_moving)
            except CacheUnavailable:
                continue
            self._failures = 0
            self._lost.clear()
            log.info("cache_found_again")

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    async def get(self, key: CacheKey) -> Entry | None:
        name = self._name(key)

        async def work() -> tuple[bytes | None, float]:
            sent_at = time.monotonic()
            async with self._client.pipeline(transaction=False) as pipeline:
                pipeline.get(name)
                pipeline.pttl(name)
                pipeline.time()
                value, left_ms, now = await pipeline.execute()
            self._set_clock(now)
            return value, left_ms / 1000 - (time.monotonic() - sent_at)

        raw, seconds_left = await self._ask("get", work)
        return None if raw is None or seconds_left <= 0 else _entry(key, raw, seconds_left)

    async def set(self, key: CacheKey, value: Cached, *, revision: int, ttl_seconds: float) -> bool:
        if isinstance(value, Absent):
            return False  # what is not there is known to each instance alone
        content = _HEAD.pack(_FORMAT, revision) + _encode(value)
        ends_at = time.monotonic() + ttl_seconds

        async def work() -> bool:
            ahead_seconds = self._ahead_seconds
            if ahead_seconds is None:
                ahead_seconds = self._set_clock(await self._client.time())
            # An absolute moment, on the clock of Redis: a command that a frozen server runs a minute later is too late.
            ends_at_ms = int((ends_at + ahead_seconds) * 1000)
            script: Any = self._client.eval(_SET, 1, self._name(key), content, str(revision), str(ends_at_ms))
            return bool(await script)

        return await self._ask("set", work)

    async def remove(self, key: CacheKey) -> None:
        await self._ask("remove", lambda: self._client.unlink(self._name(key)), vital=True)

    async def remove_task(self, task_id: TaskId, *, revision: int = 0) -> None:
        names = [self._name(CacheKey(kind, str(task_id))) for kind in CacheKind if kind.moves]

        async def work() -> None:
            script: Any = self._client.eval(
                _REMOVE, len(names), *names, str(_FORMAT), str(revision), str(_REMEMBERED_MS)
            )
            await script

        await self._ask("remove_task", work, vital=True)

    async def remove_moving(self) -> None:
        await self._ask("remove_moving", self._drop_moving, vital=True)

    async def check(self) -> None:
        await self._ask("check", self._client.ping)

    async def _drop_moving(self) -> None:
        for kind in CacheKind:
            if kind.moves:
                pattern = self._name(CacheKey(kind, "*"))
                found = [name async for name in self._client.scan_iter(pattern, count=_SCANNED_AT_ONCE)]
                for start in range(0, len(found), _SCANNED_AT_ONCE):
                    await self._client.unlink(*found[start : start + _SCANNED_AT_ONCE])

    async def _ask(self, operation: str, work: Callable[[], Awaitable[T]], *, vital: bool = False) -> T:
        async with self._slots:
            if self.lost:
                raise CacheUnavailable("Redis is left alone until it answers again")
            try:
                result = await self._asked(operation, work)
            except CacheUnavailable as error:
                self._failures += 1
                if (vital or self._failures >= FAILURES) and not self.lost:
                    self._lost.set()
                    log.warning("cache_lost", operation=operation, reason=error.message)
                raise
            self._failures = 0
            return result

    async def _asked(self, operation: str, work: Callable[[], Awaitable[T]]) -> T:
        with self._timer(operation):
            try:
                return await work()
            except (RedisError, OSError) as error:
                raise CacheUnavailable(f"Redis does not answer ({type(error).__name__})") from error

    def _set_clock(self, now: tuple[int, int]) -> float:
        """Notes how far the clock of Redis is ahead of ours; rather less, so that what is kept ends early, not late."""
        seconds, microseconds = now
        self._ahead_seconds = seconds + microseconds / 1e6 - time.monotonic()
        return self._ahead_seconds

    def _name(self, key: CacheKey) -> str:
        return f"{self._prefix}{key.kind}:{key.id}"


def _plain(value: _Contracts) -> str:
    # JSON in a string: MessagePack has no integers of more than 64 bits, and a program's outputs may hold them.
    return value.model_dump_json()


def _contract(kind: type[_Contracts], value: str) -> _Contracts:
    return kind.model_validate_json(value)


_encoder: Final = msgspec.msgpack.Encoder(enc_hook=_plain)


def _encode(value: _Shared) -> bytes:
    return _encoder.encode(value)


def _type_of(kind: CacheKind) -> Any:
    match kind:
        case CacheKind.ARTIFACT:
            return bytes
        case CacheKind.NAME:
            return TaskId
        case CacheKind.TASK:
            return Task
        case CacheKind.ACTIVE:
            return tuple[Artifact, ...]
        case _:
            assert_never(kind)


_DECODERS: Final[dict[CacheKind, msgspec.msgpack.Decoder[Any]]] = {
    kind: msgspec.msgpack.Decoder(_type_of(kind), dec_hook=_contract) for kind in CacheKind
}


def _entry(key: CacheKey, raw: bytes, seconds_left: float) -> Entry | None:
    """What ``raw`` holds; ``None`` for a removed value, and for what another release or somebody else wrote."""
    if len(raw) <= _HEAD.size or raw[0] != _FORMAT:
        return None
    (_, revision), body = _HEAD.unpack_from(raw), memoryview(raw)[_HEAD.size :]
    try:
        value = _DECODERS[key.kind].decode(body)
    except ValueError:  # DecodeError, and pydantic's ValidationError, are ones
        log.warning("cached_value_unreadable", kind=key.kind)
        return None
    if key.kind is CacheKind.ARTIFACT and digest_of(value) != Digest(key.id):
        log.warning("cached_program_corrupt", digest=key.id)
        return None
    return Entry(value, revision, seconds_left)
