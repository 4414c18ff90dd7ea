"""What can be learned: the shape of a task that turns text into a label, and what a learner brings back."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import JsonValue

from loopai_common.contracts.artifacts import SynthesisStrategy
from loopai_common.contracts.generation import GenerationRequest
from loopai_common.errors import GeneratorFailed

MAX_LABELS = 100
"""One weight for each label and feature: with more labels the program outgrows its size."""

_MAX_LABEL_CHARACTERS = 200
_REMEDY = "; configure a language model as the generator, or change the schemas so that text is turned into a label"


class CannotLearn(GeneratorFailed):
    """The task is not of a kind that can be learned; the message says which kind is, and what to do instead."""


@dataclass(frozen=True, slots=True)
class CrossValidation:
    """How programs learned from a part of the examples did on the rest; ``accuracy`` is over all examples."""

    folds: int
    examples: int
    accuracy: float


@dataclass(frozen=True, slots=True)
class Learned:
    """A program and how far it can be trusted; ``confidence`` (0–1) is the cross-validated accuracy where there is one.

    ``notes`` are sentences for the author of the task; ``figures`` are further numbers worth knowing.
    """

    code: str
    learner: str
    strategy: SynthesisStrategy
    confidence: float
    cross_validation: CrossValidation | None
    notes: tuple[str, ...] = ()
    figures: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LabelledText:
    """An example: the text in its input, the position of its label among the task's, and the input itself."""

    text: str
    label: int
    input: JsonValue = None


@dataclass(frozen=True, slots=True)
class LabelTask:
    """A task that turns text into one of a few labels.

    ``input_properties`` hold the text (``None``: the input itself is it); the label is the output's
    ``output_property`` (``None``: the output itself is it).
    """

    name: str
    description: str
    input_properties: tuple[str, ...] | None
    output_property: str | None
    labels: tuple[JsonValue, ...]
    examples: tuple[LabelledText, ...]

    @property
    def counts(self) -> list[int]:
        """How many examples each label has."""
        counts = [0] * len(self.labels)
        for example in self.examples:
            counts[example.label] += 1
        return counts


def read_label_task(request: GenerationRequest) -> LabelTask:
    """The request as a task of text to label; raises :class:`CannotLearn` when it is something else."""
    inputs = [example.input for example in request.examples]
    outputs = [example.output for example in request.examples]
    properties = _text_properties(
        resolved_schema(request.input_schema, request.input_schema), request.input_schema, inputs
    )
    target, label_schema = label_place(request.output_schema, outputs)
    values = [label_of(output, target) for output in outputs]
    labels = labels_of(label_schema, values)
    texts = [text_of(value, properties) for value in inputs]
    if not is_closed(label_schema) and _copies_from_input(texts, values):
        raise CannotLearn("the outputs are pieces of the inputs, which no classifier can give" + _REMEDY)
    positions = {identity(label): position for position, label in enumerate(labels)}
    if any(identity(value) not in positions for value in values):
        raise CannotLearn("an example's output does not satisfy the output schema; correct the one or the other")
    return LabelTask(
        name=request.task_name,
        description=request.description,
        input_properties=properties,
        output_property=target,
        labels=labels,
        examples=tuple(
            LabelledText(text, positions[identity(value)], given)
            for text, value, given in zip(texts, values, inputs, strict=True)
        ),
    )


def text_of(value: Any, properties: Sequence[str] | None) -> str:
    """The text that a program reads from ``value``; the programs' own ``text_of`` does the same."""
    if properties is None:
        return str(value)
    return "\n".join(str(value.get(name) or "") for name in properties)


def identity(label: JsonValue) -> str:
    """What tells labels apart: their JSON (in Python ``1 == True``)."""
    return json.dumps(label, sort_keys=True)


def _text_properties(
    schema: Mapping[str, Any], root: Mapping[str, Any] | bool, inputs: Sequence[JsonValue]
) -> tuple[str, ...] | None:
    if inputs and all(isinstance(value, str) for value in inputs):
        return None
    if not inputs and schema.get("type") == "string":
        return None
    objects = [value for value in inputs if isinstance(value, dict)]
    if len(objects) != len(inputs):
        raise CannotLearn("the inputs are neither text nor objects that hold text" + _REMEDY)
    declared = schema.get("properties")
    declared = declared if isinstance(declared, Mapping) else {}
    names = sorted({name for value in objects for name, held in value.items() if isinstance(held, str)})
    if not objects:
        names = sorted(name for name, held in declared.items() if resolved_schema(held, root).get("type") == "string")
    varying = [name for name in names if len({str(value.get(name)) for value in objects}) > 1]
    free = [name for name in varying if 2 * len({str(value.get(name)) for value in objects}) > len(objects)]
    chosen = free or varying or names
    if "text" in chosen:
        chosen = ["text"]
    if not chosen:
        raise CannotLearn("the inputs hold no text" + _REMEDY)
    return tuple(chosen)


def label_place(schema: Mapping[str, Any] | bool, outputs: Sequence[JsonValue]) -> tuple[str | None, Mapping[str, Any]]:
    """The output's property that holds the label (``None``: the output itself is it), and the label's schema.

    Raises :class:`CannotLearn` when the output has several properties.
    """
    resolved = resolved_schema(schema, schema)
    if outputs and not any(isinstance(output, dict) for output in outputs):
        return None, resolved
    if not outputs and resolved.get("type") != "object":
        return None, resolved
    properties = resolved.get("properties")
    properties = properties if isinstance(properties, Mapping) else {}
    names = {name for output in outputs if isinstance(output, dict) for name in output}
    names = names or set(resolved.get("required") or properties)
    if len(names) != 1 or not all(isinstance(output, dict) and output for output in outputs):
        raise CannotLearn("the output has several properties, and only one label can be learned" + _REMEDY)
    name = names.pop()
    return name, resolved_schema(properties.get(name, {}), schema)


def label_of(output: JsonValue, target: str | None) -> JsonValue:
    """The label in an output."""
    return output[target] if target is not None and isinstance(output, dict) else output


def labels_of(schema: Mapping[str, Any], values: Sequence[JsonValue]) -> tuple[JsonValue, ...]:
    """The labels in the order of the schema's ``enum``, else in the order of their JSON.

    Raises :class:`CannotLearn` when the values are not labels, or too many.
    """
    if any(isinstance(value, (dict, list)) for value in values):
        raise CannotLearn("the outputs are lists or nested objects, not labels" + _REMEDY)
    seen = {identity(value): value for value in values}
    enum = schema.get("enum")
    if isinstance(enum, list):
        labels = {identity(label): label for label in enum}
    elif "const" in schema:
        labels = {identity(schema["const"]): schema["const"]}
    elif schema.get("type") == "boolean" or (seen and all(isinstance(value, bool) for value in seen.values())):
        labels = {"false": False, "true": True}
    else:
        labels = dict(sorted(seen.items()))
        _refuse_open_values(labels, len(values))
    if len(labels) > MAX_LABELS:
        raise CannotLearn(
            f"there are {len(labels)} different labels, and at most {MAX_LABELS} can be learned" + _REMEDY
        )
    if any(len(text) > _MAX_LABEL_CHARACTERS for text in labels):
        raise CannotLearn(f"a label is longer than {_MAX_LABEL_CHARACTERS} characters" + _REMEDY)
    if any(isinstance(label, (dict, list)) for label in labels.values()):
        raise CannotLearn("the enum of the output schema holds lists or objects, not labels" + _REMEDY)
    return tuple(labels.values())


def _refuse_open_values(labels: Mapping[str, JsonValue], examples: int) -> None:
    """Without an ``enum`` only the examples can show that the outputs are labels."""
    if not labels:
        raise CannotLearn(
            "neither an enum in the output schema nor an example says which labels there are; give at least one of them"
        )
    if any(isinstance(value, float) for value in labels.values()):
        raise CannotLearn("the outputs are numbers, and only labels can be learned" + _REMEDY)
    repeated = len(labels) * 2 <= examples
    numbers = any(isinstance(value, int) and not isinstance(value, bool) for value in labels.values())
    if (numbers and not repeated) or (examples >= 10 and not repeated):
        raise CannotLearn("nearly every example has an output of its own, so the outputs are not labels" + _REMEDY)


def is_closed(schema: Mapping[str, Any]) -> bool:
    """Whether the schema itself says which labels there are."""
    return "enum" in schema or "const" in schema or schema.get("type") == "boolean"


def _copies_from_input(texts: Sequence[str], values: Sequence[JsonValue]) -> bool:
    different = {identity(value) for value in values}
    return len(different) > 1 and all(
        isinstance(value, str) and value and value in text for text, value in zip(texts, values, strict=True)
    )


def resolved_schema(schema: Any, root: Any) -> Mapping[str, Any]:
    """``schema`` with a local ``$ref`` followed; anything that is no object schema counts as an empty one."""
    for _ in range(10):
        if not isinstance(schema, Mapping):
            return {}
        reference = schema.get("$ref")
        if not isinstance(reference, str) or not reference.startswith("#/"):
            return schema
        schema = root
        for step in reference[2:].split("/"):
            schema = schema.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(schema, Mapping) else None
    return {}
