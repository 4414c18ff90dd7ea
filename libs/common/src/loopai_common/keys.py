"""API keys: their form, and the file that holds what is known of them. Pure: nothing is read or written here.

A key is ``lk_<id>_<secret>``. The file has the SHA-256 of the secret alone: 256 random bits need no slow hash, and
whoever reads the file can call nothing with it.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Final
from uuid import UUID

import msgspec

FILE_FORMAT: Final = 1

_ID_BYTES = 6
_SECRET_BYTES = 32
_KEY = re.compile(r"lk_([0-9a-z]{1,32})_([0-9a-f]{64})")

KeyId = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-z]{1,32}$")]
SecretDigest = Annotated[str, msgspec.Meta(pattern=r"^sha256:[0-9a-f]{64}$")]
TaskReference = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.-]{1,200}$")]
"""A task's id or its name."""


class BadKeyFile(Exception):
    """The file is not one of API keys; the message says where and how, and never holds a digest."""


class Scope(StrEnum):
    """What a key may do; ``admin`` may do everything."""

    TASKS_READ = "tasks:read"
    TASKS_WRITE = "tasks:write"
    EXECUTE = "execute"
    ADMIN = "admin"


class Rate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Requests that one process lets through: ``burst`` at once, and on average so many a second."""

    requests_per_second: Annotated[float, msgspec.Meta(gt=0, le=1e9)]
    burst: Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000)]


class ApiKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known of one key. ``tasks`` ``None``: all; ``rate`` ``None``: no limit; no ``expires_at``: for ever."""

    id: KeyId
    digest: SecretDigest
    scopes: Annotated[list[Scope], msgspec.Meta(min_length=1)]
    tasks: Annotated[list[TaskReference], msgspec.Meta(min_length=1)] | None = None
    rate: Rate | None = None
    created_at: Annotated[datetime, msgspec.Meta(tz=True)]
    expires_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


class _KeyFile(msgspec.Struct, forbid_unknown_fields=True):
    format: int
    keys: list[ApiKey]


_decode = msgspec.json.Decoder(_KeyFile).decode
_NOBODYS_DIGEST = f"sha256:{'0' * 64}"


def new_key(
    *,
    scopes: list[Scope],
    tasks: list[str] | None = None,
    rate: Rate | None = None,
    expires_at: datetime | None = None,
) -> tuple[str, ApiKey]:
    """A new key as its holder needs it, to be shown once, and as the file keeps it."""
    key_id, secret = secrets.token_hex(_ID_BYTES), secrets.token_hex(_SECRET_BYTES)
    known = ApiKey(
        id=key_id,
        digest=_digest(secret),
        scopes=scopes,
        tasks=tasks,
        rate=rate,
        created_at=datetime.now(UTC).replace(microsecond=0),
        expires_at=expires_at,
    )
    return f"lk_{key_id}_{secret}", known


def verified(text: str, keys: Mapping[str, ApiKey]) -> ApiKey | None:
    """The key that ``text`` is, ``None`` when it is none of ``keys`` (by id); expiry is for the caller to look at.

    An id that nobody has takes as long as a secret that is wrong.
    """
    parts = _KEY.fullmatch(text)
    if parts is None:
        return None
    known = keys.get(parts[1])
    same = hmac.compare_digest(_digest(parts[2]), _NOBODYS_DIGEST if known is None else known.digest)
    return known if same else None


def canonical_reference(task: str) -> str:
    """A task's id in lower case; a name as it is."""
    try:
        return str(UUID(task))
    except ValueError:
        return task


def decode_keys(content: bytes) -> dict[str, ApiKey]:
    """The keys of a file by their ids; raises :class:`BadKeyFile`.

    Unknown fields are refused: a limit that is misspelt must not be no limit.
    """
    try:
        file = _decode(content)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise BadKeyFile(str(error)) from None
    if file.format != FILE_FORMAT:
        raise BadKeyFile(f"format {file.format} is unknown; this version reads {FILE_FORMAT}")
    keys = {key.id: key for key in file.keys}
    if len(keys) < len(file.keys):
        raise BadKeyFile("two keys have the same id")
    return keys


def encode_keys(keys: Mapping[str, ApiKey]) -> bytes:
    """The content of a file with these keys."""
    return msgspec.json.format(msgspec.json.encode(_KeyFile(FILE_FORMAT, list(keys.values()))), indent=2) + b"\n"


def _digest(secret: str) -> str:
    return f"sha256:{hashlib.sha256(secret.encode('ascii')).hexdigest()}"
