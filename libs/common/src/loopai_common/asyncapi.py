"""The published contract of the bus: an AsyncAPI 3 document, and a JSON Schema for each message."""

from typing import Any

import msgspec
from pydantic import BaseModel

from loopai_common import __version__
from loopai_common.contracts import subjects
from loopai_common.contracts.channels import CHANNELS, PARAMETERS, Channel, Kind, Message
from loopai_common.contracts.execution import BatchResult, ExecutionResult, RejectedExecution
from loopai_common.contracts.failure import ERROR_CODE_HEADER, ERROR_HEADER, Failure

_SCHEMA_FORMAT = "application/schema+json;version=draft-2020-12"
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_DESCRIPTION = """\
Requests are answered on their reply subject, with the reply or, with the headers of NATS ADR-32, a failure. Commands
and events are kept in JetStream and handled at least once. The `v1` token of a subject is the version of the contract:
what is added within it is optional, and unknown fields are ignored.
"""
_TEXT = {"type": "string"}
_COMMON_HEADERS = {
    subjects.CORRELATION_HEADER: {**_TEXT, "description": "Ties together all messages and log lines of a request."},
    subjects.TRACEPARENT_HEADER: {**_TEXT, "description": "W3C Trace Context."},
}
_HEADERS: dict[Kind, dict[str, Any]] = {
    Kind.REQUEST: {
        **_COMMON_HEADERS,
        subjects.DEADLINE_HEADER: {**_TEXT, "description": "Unix milliseconds after which nobody waits any more."},
    },
    Kind.COMMAND: {
        **_COMMON_HEADERS,
        subjects.MESSAGE_ID_HEADER: {**_TEXT, "description": "Two commands with the same one are one command."},
    },
    Kind.EVENT: {
        **_COMMON_HEADERS,
        subjects.MESSAGE_ID_HEADER: {**_TEXT, "description": "As `ce-id`."},
        "ce-specversion": {"const": "1.0"},
        "ce-id": {**_TEXT, "description": "The same for every copy of an event."},
        "ce-type": {**_TEXT, "description": "`loopai.artifact.activated.v1`, say."},
        "ce-source": _TEXT,
        "ce-time": {**_TEXT, "format": "date-time"},
        "ce-subject": {**_TEXT, "description": "The id of the task."},
    },
}


def asyncapi_document() -> dict[str, Any]:
    """The document; payloads refer to the schemas beside it, ``schemas/<name>.json``."""
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    for channel in CHANNELS:
        name = _name(channel)
        headers = {"$ref": f"#/components/schemas/{channel.kind}-headers"}
        channels[name] = {
            "address": channel.address,
            "messages": {m.__name__: _message(m, headers) for m in channel.messages},
            **_parameters(channel),
        }
        operations[name] = {
            "action": "send" if channel.kind is Kind.EVENT else "receive",
            "channel": {"$ref": f"#/channels/{name}"},
            "summary": f"{channel.kind.capitalize()}, {_ROLE[channel.kind]} {channel.service}.",
            "messages": _references(name, channel.messages),
        }
        if channel.replies:
            reply = f"{name}.reply"
            failed = {"$ref": "#/components/schemas/failure-headers"}
            channels[reply] = {
                "address": None,
                "messages": {
                    **{m.__name__: _message(m, None) for m in channel.replies},
                    "Failure": _message(Failure, failed),
                },
            }
            operations[name]["reply"] = {
                "address": {"$ref": "#/components/replyAddresses/inbox"},
                "channel": {"$ref": f"#/channels/{reply}"},
                "messages": _references(reply, (*channel.replies, Failure)),
            }
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Loopai", "version": __version__, "description": _DESCRIPTION},
        "defaultContentType": "application/json",
        "servers": {"nats": {"host": "127.0.0.1:4222", "protocol": "nats"}},
        "channels": channels,
        "operations": operations,
        "components": {
            "schemas": {
                **{f"{kind}-headers": {"type": "object", "properties": headers} for kind, headers in _HEADERS.items()},
                "failure-headers": {
                    "type": "object",
                    "properties": {ERROR_CODE_HEADER: _TEXT, ERROR_HEADER: _TEXT},
                    "required": [ERROR_CODE_HEADER, ERROR_HEADER],
                },
            },
            "replyAddresses": {
                "inbox": {
                    "description": "The reply subject of the NATS message.",
                    "location": "$message.header#/reply",
                }
            },
        },
    }


def message_schemas() -> dict[str, dict[str, Any]]:
    """Name → JSON Schema of every message: requests and commands as they are taken, the others as they are sent."""
    taken = {m for c in CHANNELS if c.kind is not Kind.EVENT for m in c.messages}
    sent = {m for c in CHANNELS for m in (*c.replies, *(c.messages if c.kind is Kind.EVENT else ()))} | {Failure}
    return {m.__name__: _schema(m, taken=m in taken) for m in sorted(taken | sent, key=lambda m: m.__name__)}


_ROLE = {Kind.REQUEST: "answered by", Kind.COMMAND: "handled by", Kind.EVENT: "told by"}


def _name(channel: Channel) -> str:
    """The address without what all have in common, and without parameters."""
    tokens = channel.address.split(".")
    return ".".join(t for t in (tokens[1], *tokens[3:]) if not t.startswith("{"))


def _parameters(channel: Channel) -> dict[str, Any]:
    named = {k: {"description": text} for k, text in PARAMETERS.items() if f"{{{k}}}" in channel.address}
    return {"parameters": named} if named else {}


def _message(message: Message, headers: dict[str, Any] | None) -> dict[str, Any]:
    payload = {"schemaFormat": _SCHEMA_FORMAT, "schema": {"$ref": f"./schemas/{message.__name__}.json"}}
    summary = " ".join((message.__doc__ or "").split("\n\n")[0].split())
    return {"summary": summary, "payload": payload} | ({"headers": headers} if headers else {})


def _references(channel: str, messages: tuple[Message, ...]) -> list[dict[str, str]]:
    return [{"$ref": f"#/channels/{channel}/messages/{message.__name__}"} for message in messages]


def _schema(message: Message, *, taken: bool) -> dict[str, Any]:
    if issubclass(message, BaseModel):
        schema = message.model_json_schema(mode="validation" if taken else "serialization")
    elif message is BatchResult:
        schema = _batch_result()
    else:
        schema = msgspec.json.schema(message)
    return {"$schema": _DIALECT, **schema}


def _batch_result() -> dict[str, Any]:
    """By hand: msgspec describes no union of structs without tags, and this one is only ever written."""
    items, definitions = msgspec.json.schema_components(
        (ExecutionResult, RejectedExecution), ref_template="#/$defs/{name}"
    )
    results = {"type": "array", "items": {"anyOf": list(items)}}
    properties = {"results": results}
    return {"title": "BatchResult", "type": "object", "properties": properties, "$defs": definitions}
