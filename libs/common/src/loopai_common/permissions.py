"""Who may say and hear what on the bus: the permissions that the NATS servers of our deployments enforce.

A service may answer its own requests, ask what it needs, and read the streams that it consumes; nothing else. Each
has a prefix of its own for the replies that it waits for, so that none reads another's.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from loopai_common.contracts import subjects
from loopai_common.contracts.channels import CHANNELS, Kind

ANY_INBOX: Final = "_INBOX.>"
_STREAMS: Final = (
    subjects.COMMANDS_STREAM,
    subjects.EVENTS_STREAM,
    subjects.EXECUTIONS_STREAM,
    subjects.DEAD_LETTERS_STREAM,
)


@dataclass(frozen=True, slots=True)
class Permissions:
    """Subjects that a user of the bus may publish to, and subscribe to; ``deaf_to`` are taken from the latter."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    deaf_to: tuple[str, ...] = ()


def inbox_prefix(service: str) -> str:
    """What the reply subjects of ``service`` start with."""
    return f"_INBOX.{service}"


def _of_service(
    service: str, *, sends: Iterable[str], hears: Iterable[str] = (), consumes: Iterable[str] = ()
) -> Permissions:
    own = [channel for channel in CHANNELS if channel.service == service]
    answers = [_pattern(channel.address) for channel in own if channel.kind is Kind.REQUEST]
    handled = [channel.address for channel in own if channel.kind is Kind.COMMAND]
    told = [channel.address for channel in own if channel.kind is Kind.EVENT]
    streams = [subject for stream in _STREAMS for subject in _declaring(stream)]
    consumed = [subject for stream in consumes for subject in _consuming(stream)]
    buried = [subjects.dead_letter(subject) for subject in handled]
    return Permissions(
        publish=(ANY_INBOX, "$JS.API.INFO", "$JS.API.STREAM.NAMES", *streams, *consumed, *told, *buried, *sends),
        subscribe=(f"{inbox_prefix(service)}.>", subjects.ping(service), *answers, *hears),
    )


def _pattern(address: str) -> str:
    return ".".join("*" if token.startswith("{") else token for token in address.split("."))


def _declaring(stream: str) -> tuple[str, ...]:
    return tuple(f"$JS.API.STREAM.{verb}.{stream}" for verb in ("INFO", "CREATE", "UPDATE"))


def _consuming(stream: str) -> tuple[str, ...]:
    return (
        f"$JS.API.CONSUMER.*.{stream}.>",
        f"$JS.API.CONSUMER.DURABLE.CREATE.{stream}.*",
        f"$JS.API.CONSUMER.MSG.NEXT.{stream}.*",
        f"$JS.ACK.{stream}.>",
        f"$JS.API.STREAM.MSG.*.{stream}",
    )


_TASK_QUERIES: Final = (subjects.TASKS_GET, subjects.ARTIFACTS_GET)

SERVICES: Final = {
    "api": _of_service(
        "api",
        sends=(
            *_TASK_QUERIES,
            subjects.TASKS_CREATE,
            subjects.TASKS_LIST,
            subjects.TASKS_UPDATE,
            subjects.TASKS_ARCHIVE,
            subjects.TASKS_GENERATE,
            subjects.ARTIFACTS_LIST,
            subjects.ARTIFACTS_ACTIVATE,
            subjects.ARTIFACTS_ACTIVATIONS,
            subjects.EXECUTIONS_ACCEPT,
            subjects.EXECUTIONS_GET,
            subjects.EXECUTIONS_LIST,
            subjects.PROGRAMS_SUBMIT,
            subjects.FRAMES,
            subjects.EXECUTE_COMMAND,
            f"{subjects.PING}.*",
        ),
        hears=subjects.EVENTS_ALL,
        consumes=(subjects.EVENTS_STREAM,),
    ),
    "executor": _of_service(
        "executor",
        sends=(subjects.ARTIFACTS_RESOLVE, subjects.ARTIFACTS_RESOLVE_MANY, subjects.PROGRAMS_FETCH),
        hears=(subjects.ARTIFACT_ACTIVATED, subjects.TASK_UPDATED, subjects.TASK_ARCHIVED),
        consumes=(subjects.COMMANDS_STREAM, subjects.DEAD_LETTERS_STREAM),
    ),
    "generator-proxy": _of_service(
        "generator-proxy",
        sends=(
            *_TASK_QUERIES,
            subjects.TASKS_FAIL,
            subjects.GENERATIONS_GET,
            subjects.ARTIFACTS_LIST,
            subjects.ARTIFACTS_PUBLISH,
            subjects.PROGRAMS_CHECK,
            subjects.dead_letter(subjects.TASK_CREATED),
        ),
        consumes=(subjects.COMMANDS_STREAM, subjects.EVENTS_STREAM, subjects.DEAD_LETTERS_STREAM),
    ),
    "artifact-store": _of_service(
        "artifact-store",
        sends=(subjects.TASK_GENERATE_COMMAND, subjects.dead_letter(subjects.EXECUTION_COMPLETED)),
        hears=subjects.EVENTS_ALL,
        consumes=(subjects.COMMANDS_STREAM, subjects.EXECUTIONS_STREAM, subjects.DEAD_LETTERS_STREAM),
    ),
}
"""The services. The generator is asked over HTTP and is not on the bus."""

USERS: Final = {
    **SERVICES,
    "client": Permissions(
        publish=(
            f"{subjects.EXECUTE}.*.*",
            subjects.TASK_CREATE_COMMAND,
            subjects.EXECUTE_COMMAND,
            *_TASK_QUERIES,
            subjects.TASKS_LIST,
            subjects.EXECUTIONS_GET,
        ),
        subscribe=(ANY_INBOX, *subjects.EVENTS_ALL, subjects.EXECUTIONS_ALL),
        deaf_to=tuple(f"{inbox_prefix(service)}.>" for service in SERVICES),
    ),
    "operator": Permissions(publish=(">",), subscribe=(">",)),
}
"""Everybody on the bus: the services, outside systems (``client``), and whoever looks after it (``operator``)."""


def password_variable(user: str) -> str:
    """The environment variable of the NATS server that holds the password of ``user``."""
    return f"LOOPAI_NATS_{user.replace('-', '_').upper()}_PASSWORD"


def password_from_environment(user: str) -> str:
    """Configuration that takes the password of ``user`` from the environment of the NATS server."""
    return f"${password_variable(user)}"


def nats_authorization(password_of: Callable[[str], str] = password_from_environment) -> str:
    """The users and their permissions as configuration of a nats-server, to be included there."""
    users = "\n".join(
        f"    {{user: {json.dumps(name)}, password: {password_of(name)}, permissions: {{\n"
        f"      publish: {json.dumps(list(permissions.publish))}\n"
        f"      subscribe: {json.dumps({'allow': permissions.subscribe, 'deny': permissions.deaf_to})}\n"
        "    }}"
        for name, permissions in USERS.items()
    )
    return (
        "# Who may say and hear what on the bus. Made from loopai_common/permissions.py.\n"
        f"authorization {{\n  users = [\n{users}\n  ]\n}}\n"
    )
