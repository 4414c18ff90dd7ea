"""The API keys in force: read from their file, read again when it changes, and quick to recognise."""

import asyncio
import math
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from loopai_api.problems import InvalidApiKey, RateLimitExceeded
from loopai_common.keys import ApiKey, BadKeyFile, Rate, Scope, canonical_reference, decode_keys, verified
from loopai_common.runtime.background import running
from loopai_common.runtime.logging import get_logger

_POLL_SECONDS: Final = 1.0
_MAX_RECOGNISED: Final = 10_000
_MAX_FILE_BYTES: Final = 16 * 1024 * 1024
_SCHEME: Final = "bearer "

_Signature = tuple[int, int, int, int]

log = get_logger()


class TokenBucket:
    """Lets ``burst`` requests through at once, and on average so many a second. One for each key and process."""

    __slots__ = ("_tokens", "_updated", "rate")

    def __init__(self, rate: Rate, now: float) -> None:
        self.rate = rate
        self._tokens = float(rate.burst)
        self._updated = now

    def take(self, now: float) -> float:
        """Takes a token at ``now`` (monotonic seconds): returns 0, or in how many seconds there will be one."""
        rate = self.rate
        tokens = min(rate.burst, self._tokens + (now - self._updated) * rate.requests_per_second)
        self._updated = now
        if tokens >= 1:
            self._tokens = tokens - 1
            return 0.0
        self._tokens = tokens
        return (1 - tokens) / rate.requests_per_second


class Principal:
    """Whoever a request comes from, and what it may do. ``tasks`` ``None``: all."""

    __slots__ = ("_bucket", "expires_at", "scopes", "tasks")

    def __init__(
        self,
        scopes: Sequence[Scope],
        tasks: Sequence[str] | None = None,
        expires_at: float = math.inf,
        bucket: TokenBucket | None = None,
    ) -> None:
        self.scopes = frozenset(Scope if Scope.ADMIN in scopes else scopes)
        self.tasks = None if tasks is None else frozenset(map(canonical_reference, tasks))
        self.expires_at = expires_at
        self._bucket = bucket

    def spend(self) -> None:
        """Counts a request against the key's rate; raises :class:`RateLimitExceeded`."""
        bucket = self._bucket
        if bucket is not None and (wait := bucket.take(time.monotonic())):
            raise RateLimitExceeded(bucket.rate.burst, bucket.rate.requests_per_second, wait)


class KeyRing:
    """The keys of one file. :meth:`followed` keeps them as the file is; a file that is broken changes nothing.

    Recognising a key once costs a hash; after that it is one look-up by the whole header. Only keys that were found
    valid are remembered, in one form of few, so that nobody can fill the memory, and a stranger's key always takes the
    long way. A new file forgets them all.
    """

    def __init__(self, path: Path) -> None:
        """Reads the file; raises :class:`BadKeyFile` and :class:`OSError`."""
        self._path = path
        self._buckets: dict[str, TokenBucket] = {}
        self._recognised: dict[bytes, Principal] = {}
        self._obstacle: str | None = None
        self._seen: _Signature | None = _signature(path)
        self._keys: Mapping[str, ApiKey] = _read(path)

    def recognise(self, credential: bytes) -> Principal:
        """Who sent this value of ``Authorization``; raises :class:`InvalidApiKey`."""
        principal = self._recognised.get(credential)
        if principal is None:
            principal = self._verified(credential)
            if len(self._recognised) >= _MAX_RECOGNISED:
                self._recognised.clear()
            self._recognised[credential] = principal
        if principal.expires_at <= time.time():
            raise _invalid()
        return principal

    @asynccontextmanager
    async def followed(self) -> AsyncIterator[None]:
        """While this is open, the file is read again within a second or two of its change.

        A secret that Kubernetes mounts changes by a symbolic link: what is looked at is the file behind it.
        """

        async def follow() -> None:
            while True:
                await asyncio.sleep(_POLL_SECONDS)
                await self.refresh()

        async with running(follow):
            yield

    async def refresh(self) -> None:
        """Reads the file again if it changed since it was read last."""
        signature: _Signature | None = None
        try:
            signature = _signature(self._path)
            if signature == self._seen:
                return
            keys = await asyncio.to_thread(_read, self._path)
        except BadKeyFile as error:
            self._keep(str(error))
        except OSError as error:
            signature = None  # what cannot be read may become readable without a change
            self._keep(error.strerror or type(error).__name__)
        else:
            self._use(keys)
        self._seen = signature

    async def check(self) -> str | None:
        """For readiness: ``None`` when the keys in force are those of the file, else why they are not."""
        return self._obstacle

    def _use(self, keys: Mapping[str, ApiKey]) -> None:
        self._keys = keys
        self._recognised = {}
        self._buckets = {key_id: bucket for key_id, bucket in self._buckets.items() if key_id in keys}
        self._obstacle = None
        log.info("api_keys_loaded", keys=len(keys))

    def _keep(self, reason: str) -> None:
        obstacle = f"the file of API keys cannot be used, those read before stay in force: {reason}"
        if obstacle != self._obstacle:
            log.error("api_keys_unusable", reason=reason)
        self._obstacle = obstacle

    def _verified(self, credential: bytes) -> Principal:
        text = credential.decode("latin-1")
        if text[: len(_SCHEME)].lower() != _SCHEME:
            raise _invalid()
        key = verified(text[len(_SCHEME) :], self._keys)
        if key is None:
            raise _invalid()
        expires_at = math.inf if key.expires_at is None else key.expires_at.timestamp()
        return Principal(key.scopes, key.tasks, expires_at, self._bucket(key))

    def _bucket(self, key: ApiKey) -> TokenBucket | None:
        """The key's bucket; one that is used already stays as full as it is, whatever the file's other changes."""
        if key.rate is None:
            return None
        bucket = self._buckets.get(key.id)
        if bucket is None or bucket.rate != key.rate:
            bucket = self._buckets[key.id] = TokenBucket(key.rate, time.monotonic())
        return bucket


def _read(path: Path) -> dict[str, ApiKey]:
    with path.open("rb") as file:
        content = file.read(_MAX_FILE_BYTES + 1)
    if len(content) > _MAX_FILE_BYTES:
        raise BadKeyFile(f"it is larger than {_MAX_FILE_BYTES} bytes")
    return decode_keys(content)


def _signature(path: Path) -> _Signature:
    """What differs when the file does, links followed."""
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def _invalid() -> InvalidApiKey:
    """The same for an id that nobody has, a wrong secret, and a key that expired."""
    return InvalidApiKey("this API key is not valid here; it may be misspelt, revoked or expired")
