"""The published contract of the bus, compared with what the services really listen to."""

import gzip
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_type_hints

import jsonschema_rs
import pytest

from loopai_artifact_store import handlers as artifact_store
from loopai_common.asyncapi import asyncapi_document, message_schemas
from loopai_common.contracts import subjects
from loopai_common.contracts.channels import CHANNELS, Kind
from loopai_executor import handlers as executor
from loopai_generator_proxy import handlers as generator_proxy

META_SCHEMA = Path(__file__).parents[2] / "data" / "asyncapi-3.0.0.schema.json.gz"
BY_ADDRESS = {channel.address: channel for channel in CHANNELS}


class ListeningBus:
    """Takes the place of the bus where handlers are declared, and keeps them by subject."""

    def __init__(self, service: str) -> None:
        self.service = service
        self.broker = SimpleNamespace(subscriber=self._keep)
        self.handlers: dict[str, Callable[..., Any]] = {}

    def _keep(self, subject: str, **_: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def keep(handler: Callable[..., Any]) -> Callable[..., Any]:
            self.handlers[subject] = handler
            return handler

        return keep

    on = on_durable = on_every_instance = _keep

    def on_raw(self, subject: str, handler: Callable[..., Any]) -> None:
        self.handlers[subject] = handler


def handlers_of(service: str) -> dict[str, Callable[..., Any]]:
    bus: Any = ListeningBus(service)
    nothing: Any = None
    if service == "artifact-store":
        artifact_store.register(bus, nothing, nothing)
    elif service == "executor":
        executor.register(bus, nothing, nothing)
    else:
        generator_proxy.register(bus, nothing, nothing, concurrency=1)
    found: dict[str, Callable[..., Any]] = bus.handlers
    return found


def test_every_subject_has_its_contract() -> None:
    patterns = {subjects.EXECUTE, subjects.PING, *(v for k, v in vars(subjects).items() if k.endswith("_ALL"))}
    known = {v for v in vars(subjects).values() if isinstance(v, str) and v.startswith("loopai.")} - patterns
    assert known == {address for address in BY_ADDRESS if "{" not in address}


@pytest.mark.parametrize("service", ["artifact-store", "executor", "generator-proxy"])
def test_services_listen_to_what_is_published(service: str) -> None:
    answered = set()
    for subject, handler in handlers_of(service).items():
        if not subject.startswith("loopai.") or subject.startswith("loopai.dlq."):  # what could not be delivered
            continue
        address = subject.replace("*.*", "{task}.{version}")
        channel = BY_ADDRESS[address]
        hints = get_type_hints(handler, localns=vars(inspect.getmodule(handler)))
        taken = next(hints[name] for name in inspect.signature(handler).parameters)
        if taken not in {Any} and taken.__module__.startswith("loopai_"):
            assert channel.messages == (taken,), subject
            assert channel.kind is not Kind.REQUEST or channel.replies == (hints["return"],), subject
        if channel.kind is not Kind.EVENT:
            assert channel.service == service, subject
            answered.add(address)
    assert answered == {c.address for c in CHANNELS if c.service == service and c.kind is not Kind.EVENT}


def test_the_document_is_asyncapi() -> None:
    validator = jsonschema_rs.validator_for(json.loads(gzip.decompress(META_SCHEMA.read_bytes())))
    document = asyncapi_document()
    assert [error.message for error in validator.iter_errors(document)] == []
    document["channels"]["rpc.frames"]["adress"] = "misspelt"
    assert not validator.is_valid(document), "the schema must be able to say no"


def test_every_reference_of_the_document_leads_somewhere() -> None:
    document, schemas = asyncapi_document(), message_schemas()

    def check(value: Any) -> None:
        if isinstance(value, dict):
            reference = value.get("$ref")
            if isinstance(reference, str):
                if reference.startswith("./schemas/"):
                    assert reference.removeprefix("./schemas/").removesuffix(".json") in schemas, reference
                else:
                    target: Any = document
                    for step in reference.removeprefix("#/").split("/"):
                        target = target[step]
            value = list(value.values())
        if isinstance(value, list):
            for item in value:
                check(item)

    check(document)


@pytest.mark.parametrize("name", sorted(message_schemas()))
def test_every_schema_is_one(name: str) -> None:
    jsonschema_rs.Draft202012Validator(message_schemas()[name])
