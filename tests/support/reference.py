"""The reference pages under ``docs/reference`` and ``.env.example``, made from what the code itself declares."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import typer
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python
from typer.core import TyperCommand, TyperGroup

from loopai_api.security import required_access
from loopai_api.settings import ApiSettings
from loopai_artifact_store.settings import ArtifactStoreSettings
from loopai_client.cli.main import app
from loopai_common import permissions
from loopai_common.contracts import subjects
from loopai_common.contracts.channels import CHANNELS, PARAMETERS, Kind, Message
from loopai_common.runtime.settings import PREFIXES, ServiceSettings, variables_of
from loopai_executor.settings import ExecutorSettings
from loopai_generator.settings import GeneratorSettings
from loopai_generator_proxy.settings import GeneratorProxySettings

Document = dict[str, Any]

SETTINGS: Final[Mapping[str, type[ServiceSettings]]] = {
    "api": ApiSettings,
    "executor": ExecutorSettings,
    "generator-proxy": GeneratorProxySettings,
    "artifact-store": ArtifactStoreSettings,
    "generator": GeneratorSettings,
}
TRACE_VARIABLES: Final = {
    "OTEL_EXPORTER_OTLP_ENDPOINT": "Where traces go (OTLP/HTTP); without it there are none. See docs/observability.md.",
}
CLIENT_VARIABLES: Final = {
    "LOOPAI_URL": "Where the `loopai` command and the Python client find the API.",
    "LOOPAI_API_KEY": "The key that they send.",
}
_COMPOSE: Final = Path(__file__).parents[2] / "compose"
_NOTE: Final = "Written by `make contracts` from the code; do not edit."
_SUBSTITUTED: Final = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")
_LINE: Final = 80
_EVERYWHERE: Final = frozenset({"401", "403", "406", "408", "429", "431", "500", "503", "504"})


def reference_pages(v1: Document, v2: Document) -> dict[str, str]:
    """Path → text of every page; ``v1`` and ``v2`` are the OpenAPI documents of the API's versions."""
    return {
        "docs/reference/http.md": http_markdown(v1, v2),
        "docs/reference/bus.md": bus_markdown(),
        "docs/reference/command.md": command_markdown(),
        "docs/reference/settings.md": settings_markdown(),
        ".env.example": env_example(),
    }


def http_markdown(v1: Document, v2: Document) -> str:
    """Every operation with its parameters, bodies and answers, then every model."""
    parts = [
        f"""\
# HTTP API

{_NOTE} A running service shows the same, to be tried out, at `/swagger` and `/redoc`, and as OpenAPI 3.1 at
`/openapi.json`.

`{{v}}` in a path is `v1` or `v2`. Both have the same operations and differ in three things only:

| | `v1` | `v2` |
| --- | --- | --- |
| body of an error | `ErrorResponse`, `application/json` | `Problem` (RFC 9457), `application/problem+json` |
| a program that failed | 200 with `status: "error"` or `"timeout"` | 422 `program_error`, 504 `program_timeout` |
| body of execute | may have `task_id`, which must be that of the path | has none |

`{{task}}` is a task's id or its name. Every request may carry `X-Correlation-ID` and `traceparent`; every answer has
`X-Correlation-ID`. Answers that every operation can give are left out below: 401, 403 and 429 (where there are
[keys](../security.md#keys)), 406, 408, 431, 500, 503 and 504. [Errors](../errors.md) explains each code.
"""
    ]
    for tag in v2["tags"]:
        parts.append(f"## {tag['name'].capitalize()}\n\n{tag['description']}\n")
        parts += [_operation(*found, v1) for found in _operations(v2) if tag["name"] in found[2]["tags"]]
    parts.append("## Models\n\nA field that is not required may be left out of a request; answers have all of them.\n")
    parts += [_model(name, schema) for name, schema in sorted(v2["components"]["schemas"].items())]
    return "\n".join(parts)


def _operations(document: Document) -> Iterator[tuple[str, str, Document]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def _operation(method: str, path: str, operation: Document, v1: Document) -> str:
    access = required_access(method, path) or required_access(method, path.removeprefix("/api/v2"))
    first = v1["paths"][path.replace("/v2/", "/v1/")][method.lower()]["responses"]
    text = f"### {operation['summary']}\n\n`{method} {path.replace('/v2/', '/{v}/')}`"
    text += f" · {'no key' if access == 'public' else f'scope `{access}`'}\n\n{operation['description']}\n"
    parameters = [p for p in operation["parameters"] if "$ref" not in p]
    if parameters:
        rows = [(f"`{p['name']}`", p["in"], _type(p["schema"]), p.get("description", "")) for p in parameters]
        text += "\n" + _table(("parameter", "in", "type", "meaning"), rows)
    for media_type, body in operation.get("requestBody", {}).get("content", {}).items():
        text += f"\nBody, `{media_type}`: {_type(body['schema'])}\n\n{_example(body)}"
    answers = [
        (
            f"{status}{'' if status in first else ' (`v2`)'}",
            " or ".join({_type(b["schema"]): None for b in answer.get("content", {}).values()}),
            ", ".join(f"[`{c}`](../errors.md)" for c in _codes(answer)) if status >= "400" else answer["description"],
        )
        for status, answer in sorted(operation["responses"].items())
        if status not in _EVERYWHERE
    ]
    text += "\n" + _table(("answer", "body", "meaning"), answers)
    success = next(a for status, a in sorted(operation["responses"].items()) if status < "300")
    for body in list(success.get("content", {}).values())[:1]:
        text += "\n" + _example(body)
    return text


def _codes(answer: Document) -> list[str]:
    return [code for body in answer.get("content", {}).values() for code in body.get("examples", {})]


def _example(body: Document) -> str:
    shown = [example["value"] for example in body.get("examples", {}).values()]
    shown += [body["example"]] if "example" in body else body["schema"].get("examples", [])
    if not shown:
        return ""
    if isinstance(shown[0], str):
        return f"```text\n{shown[0].rstrip()}\n```\n"
    return f"```json\n{_pretty(shown[0])}\n```\n"


def _pretty(value: Any, indent: str = "") -> str:
    """JSON in which what is short stands on one line."""
    flat = json.dumps(value, ensure_ascii=False)
    if len(indent) + len(flat) <= _LINE or not isinstance(value, dict | list):
        return flat
    deeper = indent + "  "
    if isinstance(value, list):
        lines = [_pretty(item, deeper) for item in value]
    else:
        lines = [f"{json.dumps(key)}: {_pretty(item, deeper)}" for key, item in value.items()]
    opening, closing = "[]" if isinstance(value, list) else "{}"
    return f"{opening}\n{deeper}" + f",\n{deeper}".join(lines) + f"\n{indent}{closing}"


def _model(name: str, schema: Document) -> str:
    text = f"### {name}\n\n{_prose(schema.get('description', ''))}\n"
    if "enum" in schema:
        return text + "\n" + _type(schema) + "\n"
    required = schema.get("required", ())
    rows = [
        (
            f"`{field}`",
            _type(described),
            "yes" if field in required else "",
            f"`{json.dumps(described['default'])}`" if "default" in described else "",
            _prose(described.get("description", "")),
        )
        for field, described in schema.get("properties", {}).items()
    ]
    return text + ("\n" + _table(("field", "type", "required", "default", "meaning"), rows) if rows else "")


def _type(schema: Document) -> str:
    """A schema in a few words, with a link to the model that it refers to."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return "any JSON" if name == "JsonValue" else f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_type(choice) for choice in schema["anyOf"])
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}{_limits(schema)}"
    return f"{schema.get('format') or schema.get('type') or 'any JSON'}{_limits(schema)}"


def _limits(schema: Document) -> str:
    low = next((schema[k] for k in ("minimum", "minLength", "minItems") if k in schema), None)
    high = next((schema[k] for k in ("maximum", "maxLength", "maxItems") if k in schema), None)
    if low is None and high is None:
        return ""
    of = " characters" if "maxLength" in schema else ""
    between = f"at most {high}" if low is None else f"at least {low}" if high is None else f"{low} to {high}"
    return f" ({between}{of})"


def bus_markdown() -> str:
    """Every subject: what goes over it, who sends it, who takes it; then every user's permissions."""
    parts = [
        f"""\
# The bus

{_NOTE} For machines: the [AsyncAPI 3 document](../contracts/asyncapi.json), and a JSON Schema for each message in
`docs/contracts/schemas`. [Architecture](../architecture.md#the-bus) says what is promised.

Messages are JSON. A request is answered on its reply subject: with the reply, or with a
[Failure](../contracts/schemas/Failure.json) and the headers `Nats-Service-Error-Code` and `Nats-Service-Error`
(NATS ADR-32). Where the NATS server has users, each service is one and may do what stands here and no more; `client` is
for outside systems, `operator` for whoever looks after the bus ([security](../security.md#the-bus)). Commands and
events are kept in JetStream and handled at least once. The token `v1` is the version of the contract: what is added
within it is optional, and unknown fields are ignored.

| header | on | meaning |
| --- | --- | --- |
| `{subjects.CORRELATION_HEADER}` | every message | ties together all messages and log lines of a request |
| `{subjects.TRACEPARENT_HEADER}` | every message | W3C Trace Context |
| `{subjects.DEADLINE_HEADER}` | requests | Unix milliseconds after which nobody waits any more |
| `{subjects.MESSAGE_ID_HEADER}` | commands, events | two messages with the same one within an hour are one |
| `ce-id`, `ce-type`, `ce-source`, `ce-time`, `ce-subject` | events | CloudEvents 1.0, binary mode |

Parameters of subjects:

"""
        + _table(("parameter", "stands for"), [(f"`{{{name}}}`", text) for name, text in PARAMETERS.items()])
    ]
    for kind, title in ((Kind.REQUEST, "Requests"), (Kind.COMMAND, "Commands"), (Kind.EVENT, "Events")):
        parts.append(f"## {title}\n\n{_channels(kind)}")
    kept = {
        subjects.COMMANDS_STREAM: (subjects.COMMANDS_ALL,),
        subjects.EVENTS_STREAM: subjects.EVENTS_ALL,
        subjects.EXECUTIONS_STREAM: (subjects.EXECUTIONS_ALL,),
        subjects.DEAD_LETTERS_STREAM: (subjects.DEAD_LETTERS_ALL,),
    }
    streams = [
        (f"`{stream}`", ", ".join(f"`{pattern}`" for pattern in patterns), _users(f"$JS.ACK.{stream}.>"))
        for stream, patterns in kept.items()
    ]
    parts.append(f"## Streams\n\n{_table(('stream', 'keeps', 'read by'), streams)}")
    return "\n".join(parts)


def _channels(kind: Kind) -> str:
    taken = {Kind.REQUEST: "answered by", Kind.COMMAND: "handled by", Kind.EVENT: "told by"}[kind]
    heard = kind is Kind.EVENT
    rows = [
        (
            f"`{channel.address}`",
            f"`{channel.service}`",
            _users(re.sub(r"\{\w+\}", "*", channel.address), heard=heard, beside=channel.service),
            _schemas(channel.messages) + (f" → {_schemas(channel.replies)}" if channel.replies else ""),
            _prose((channel.messages[0].__doc__ or "").split("\n\n")[0]),
        )
        for channel in CHANNELS
        if channel.kind is kind
    ]
    message = "message → reply" if kind is Kind.REQUEST else "message"
    return _table(("subject", taken, "heard by" if heard else "sent by", message, "meaning"), rows)


def _users(subject: str, *, heard: bool = False, beside: str = "") -> str:
    """The users, other than ``operator`` and ``beside``, who may publish to ``subject``, or hear it."""
    return ", ".join(
        f"`{user}`"
        for user, allowed in permissions.USERS.items()
        if user not in ("operator", beside)
        and any(_covers(pattern, subject) for pattern in (allowed.subscribe if heard else allowed.publish))
    )


def _covers(pattern: str, subject: str) -> bool:
    """Whether ``pattern`` takes in ``subject``, by the rules of NATS for ``*`` and ``>``."""
    wanted, found = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted = [*wanted[:-1], *found[len(wanted) - 1 :]]
    return len(wanted) == len(found) and all(w in ("*", f) for w, f in zip(wanted, found, strict=True))


def _schemas(messages: Iterable[Message]) -> str:
    return " or ".join(f"[{m.__name__}](../contracts/schemas/{m.__name__}.json)" for m in messages)


def command_markdown() -> str:
    """Every command of ``loopai`` with its arguments and options."""
    root = typer.main.get_command(app)
    assert isinstance(root, TyperGroup)
    text = f"# The `loopai` command\n\n{_NOTE} `--help` of each command says the same.\n\n{app.info.epilog}\n"
    text += "An option with a variable takes its value where it is not given.\n"
    return text + "".join(_command(path, command) for path, command in _commands(root, "loopai"))


def _commands(command: TyperCommand | TyperGroup, path: str) -> Iterator[tuple[str, TyperCommand]]:
    if isinstance(command, TyperCommand):
        yield path, command
        return
    for name, below in command.commands.items():
        if not below.hidden:
            assert isinstance(below, TyperCommand | TyperGroup)
            yield from _commands(below, f"{path} {name}")


def _command(path: str, command: TyperCommand) -> str:
    context = typer.Context(command, info_name=path)
    usage = command.get_usage(context).removeprefix("Usage: ")
    text = f"\n## {path}\n\n{_prose(command.help or '')}\n\n`{' '.join(usage.split())}`\n\n"
    rows = []
    for parameter in command.params:
        shown = parameter.get_help_record(context)
        if shown is not None:
            name, described = shown
            described, _, more = described.partition("  [")
            rows.append((f"`{name}`", _prose(described), _prose(more.removesuffix("]"))))
    return text + _table(("argument or option", "meaning", "value"), rows)


def settings_markdown() -> str:
    """Every variable of every service."""
    shared = ServiceSettings.model_fields
    text = f"""\
# Settings

{_NOTE} [`.env.example`](../../.env.example) lists all of them.

Each service reads its settings from environment variables, once, when it starts. An unknown name under a service's
prefix and a bad value are refused with a sentence that says what is allowed (exit code 2). `make up` and `loopai up`
hand their environment to every service. What the Compose files alone read is in [Compose](../compose.md#settings).

A variable whose name ends with `_FILE` names a file that holds the value. That is how secrets are handed over:
`LOOPAI_API_NATS_URL_FILE=/run/secrets/nats-url`.

## Every service

`<SERVICE>` is {_alternatives()}.
Where there is a second name, it sets the value for all services, and a service's own comes before it.

"""
    text += _settings_table(shared, "LOOPAI_<SERVICE>_")
    for service, kind in SETTINGS.items():
        own = {n: f for n, f in kind.model_fields.items() if n not in shared or _default(f) != _default(shared[n])}
        text += f"\n## {service}\n\n{_settings_table(own, PREFIXES[service])}"
    text += "\n## Traces\n\nOpenTelemetry's own variables: [observability](../observability.md#traces).\n"
    text += f"\n## Clients\n\n{_table(('variable', 'meaning'), [(f'`{n}`', m) for n, m in CLIENT_VARIABLES.items()])}"
    return text


def compose_variables() -> dict[str, str]:
    """Variable → default of what the Compose files alone read."""
    found = [pair for file in sorted(_COMPOSE.glob("*.yaml")) for pair in _SUBSTITUTED.findall(file.read_text())]
    taken = {
        variable
        for service, kind in SETTINGS.items()
        for name, field in kind.model_fields.items()
        for variable in variables_of(name, field, PREFIXES[service])
    }
    return {name: default for name, default in found if name not in taken}


def _settings_table(fields: Mapping[str, FieldInfo], prefix: str) -> str:
    rows = [
        (
            ", ".join(f"`{variable}`" for variable in variables_of(name, field, prefix)),
            f"`{_default(field)}`" if _default(field) else "",
            _prose(field.description or ""),
        )
        for name, field in fields.items()
    ]
    return _table(("variable", "default", "meaning"), rows)


def _alternatives() -> str:
    return ", ".join(f"`{prefix.removeprefix('LOOPAI_').rstrip('_')}`" for prefix in PREFIXES.values())


def _default(field: FieldInfo) -> str:
    """The default as one writes it in the environment; empty where there is none, or the machine decides."""
    if field.default is PydanticUndefined or field.default is None:
        return ""
    return _shown(field.default)


def _shown(value: Any) -> str:
    plain = to_jsonable_python(value)
    return plain if isinstance(plain, str) else json.dumps(plain) if plain not in ([], {}) else ""


def env_example() -> str:
    """Every variable that anything here reads, commented out, with its default."""
    shared = ServiceSettings.model_fields
    text = (
        "# Every variable that Loopai reads, with its default. See docs/reference/settings.md\n"
        "# Copy to .env, take away the `#` of what shall differ, and: set -a; . ./.env; set +a; make up\n"
    )
    for service, kind in SETTINGS.items():
        text += f"\n# --- {service}\n"
        for name, field in kind.model_fields.items():
            own, *also = variables_of(name, field, PREFIXES[service])
            if not also or name not in shared:
                text += _variable(also[0] if also else own, _default(field), field.description or "")
    common = {n: f for n, f in shared.items() if len(variables_of(n, f, "")) > 1}
    text += "\n# --- every service\n"
    for name, field in common.items():
        text += _variable(variables_of(name, field, "")[1], _default(field), field.description or "")
    text += "".join(_variable(name, "", meaning) for name, meaning in TRACE_VARIABLES.items())
    text += "\n# --- clients\n" + "".join(_variable(name, "", meaning) for name, meaning in CLIENT_VARIABLES.items())
    text += "\n# --- Compose, see docs/compose.md\n"
    return text + "".join(f"#{name}={default}\n" for name, default in compose_variables().items())


def _variable(name: str, default: str, meaning: str) -> str:
    return f"# {_prose(meaning)}\n#{name}={default}\n"


def _prose(text: str) -> str:
    """A docstring as one line of Markdown."""
    return re.sub(r":\w+:`~?[\w.]*?(\w+)`", r"`\1`", " ".join(text.split()).replace("``", "`"))


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *(tuple(cell.replace("|", "\\|") for cell in row) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
