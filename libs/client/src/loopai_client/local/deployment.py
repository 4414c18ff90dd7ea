"""The secrets of a deployment: a password for each user of the bus, and the file of API keys, empty at first."""

import json
import os
import secrets
from pathlib import Path
from urllib.parse import urlsplit

from loopai_client.local.key_file import changed_keys
from loopai_common.permissions import USERS, nats_authorization

NATS_URL = "nats-url"
"""The file in a user's folder that holds the URL which that user connects with."""

USERS_CONFIG = Path("nats", "users.conf")
API_KEYS = Path("api", "api-keys.json")


def make_secrets(directory: Path, nats_address: str) -> list[str]:
    """Makes what is missing below ``directory`` and returns the users that got a password; keeps what is there.

    ``nats_address`` is ``host:port`` of the NATS server. The permissions of the users are written anew each time.
    """
    made = []
    passwords: dict[str, str] = {}
    for user in USERS:
        path = directory / user / NATS_URL
        known = urlsplit(path.read_text()).password if path.exists() else None
        passwords[user] = known or secrets.token_urlsafe(32)
        if known is None:
            made.append(user)
        _write(path, f"nats://{user}:{passwords[user]}@{nats_address}\n")
    _write(directory / USERS_CONFIG, nats_authorization(lambda user: json.dumps(passwords[user])))
    with changed_keys(directory / API_KEYS):
        pass  # makes the file where it is missing
    return made


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    draft.replace(path)
