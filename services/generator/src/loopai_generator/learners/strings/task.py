"""What a string program is asked for: the variables it reads, and the outputs it shall give."""

import keyword
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from loopai_common.contracts.artifacts import SynthesisStrategy
from loopai_common.contracts.generation import GenerationRequest
from loopai_common.contracts.tasks import Example
from loopai_generator.domain import CannotLearn, is_closed, label_of, label_place, labels_of, resolved_schema
from loopai_generator.learners.strings import operations
from loopai_generator.learners.strings.pool import Inputs

MIN_EXAMPLES = 3
MAX_VARIABLES = 20
_REMEDY = "; give more examples, or configure a language model as the generator"
_NOT_IN_NAME = re.compile(r"\W+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Variable:
    """A parameter of the program; ``name`` is the input's property (``None``: the input itself)."""

    name: str | None
    is_number: bool

    def read(self, value: JsonValue) -> str | float:
        """What the program reads from an input; the programs do the same."""
        if self.name is not None:
            value = value.get(self.name) if isinstance(value, dict) else None
        return operations.as_number(value) if self.is_number else operations.as_text(value)


@dataclass(frozen=True, slots=True)
class StringTask:
    """A task that turns text, or a flat object, into text, numbers or objects of these."""

    name: str
    variables: Mapping[str, Variable]
    """By the names of the parameters."""

    output_schema: Mapping[str, Any] | bool
    examples: tuple[Example, ...]

    def inputs(self, positions: Sequence[int]) -> Inputs:
        """The columns that the search works on."""
        columns = {
            parameter: tuple([variable.read(self.examples[position].input) for position in positions])
            for parameter, variable in self.variables.items()
        }
        numbers = {name for name, variable in self.variables.items() if variable.is_number}
        return Inputs(
            {name: column for name, column in columns.items() if name not in numbers},
            {name: column for name, column in columns.items() if name in numbers},
            len(positions),
        )


def read_string_task(request: GenerationRequest) -> StringTask:
    """The request as a task for string programs; raises :class:`CannotLearn` when it is something else."""
    if len(request.examples) < MIN_EXAMPLES:
        raise CannotLearn(f"a string program needs at least {MIN_EXAMPLES} examples{_REMEDY}")
    if request.strategy is SynthesisStrategy.AUTO and _is_classification(request):
        raise CannotLearn("the outputs are labels, which classifiers learn; the strategy 'dsl' tries nevertheless")
    inputs = [example.input for example in request.examples]
    variables = _variables(inputs)
    return StringTask(request.task_name, variables, request.output_schema, request.examples)


def default_of(schema: Any, root: Any) -> JsonValue:
    """What a program answers where it does not apply: ``None`` if the schema lets it, else the plainest value."""
    own = resolved_schema(schema, root)
    choices = [own, *(resolved_schema(other, root) for key in ("anyOf", "oneOf") for other in own.get(key) or ())]
    types = {kind for choice in choices for kind in _types(choice)}
    values = own.get("enum") if isinstance(own.get("enum"), list) else [own["const"]] if "const" in own else []
    if values:
        return None if None in values else values[0]
    plainest: dict[str, JsonValue] = {
        "string": "",
        "integer": 0,
        "number": 0,
        "boolean": False,
        "array": [],
        "object": {},
    }
    if not types or "null" in types:
        return None
    return next(value for kind, value in plainest.items() if kind in types)


def schema_of_property(schema: Any, root: Any, name: str) -> Any:
    """The schema of an object's property."""
    properties = resolved_schema(schema, root).get("properties")
    return properties.get(name, {}) if isinstance(properties, Mapping) else {}


def schema_of_items(schema: Any, root: Any) -> Any:
    """The schema of an array's items."""
    return resolved_schema(schema, root).get("items", {})


def _types(schema: Mapping[str, Any]) -> list[str]:
    kinds = schema.get("type", [])
    return [kinds] if isinstance(kinds, str) else list(kinds)


def _is_classification(request: GenerationRequest) -> bool:
    outputs = [example.output for example in request.examples]
    try:
        target, schema = label_place(request.output_schema, outputs)
        labels = labels_of(schema, [label_of(output, target) for output in outputs])
    except CannotLearn:
        return False
    return is_closed(schema) or len(labels) * 2 <= len(outputs)


def _variables(inputs: Sequence[JsonValue]) -> dict[str, Variable]:
    if all(isinstance(value, str) for value in inputs):
        return {"text": Variable(None, False)}
    objects = [value for value in inputs if isinstance(value, dict)]
    if len(objects) != len(inputs):
        raise CannotLearn("the inputs are neither text nor flat objects" + _REMEDY)
    names = sorted({name for value in objects for name in value})
    usable = [name for name in names if not any(isinstance(value.get(name), (dict, list)) for value in objects)]
    varying = [name for name in usable if len({repr(value.get(name)) for value in objects}) > 1]
    found: dict[str, Variable] = {}
    for name in (varying or usable)[:MAX_VARIABLES]:
        number = all(isinstance(value.get(name), (int, float)) for value in objects)
        number = number and not any(isinstance(value.get(name), bool) for value in objects)
        found[_parameter(name, found)] = Variable(name, number)
    if not found:
        raise CannotLearn("the inputs hold neither text nor numbers" + _REMEDY)
    return found


def _parameter(name: str, taken: Mapping[str, Variable]) -> str:
    """A Python name for a property."""
    base = _NOT_IN_NAME.sub("_", name)[:40].strip("_").lower() or "value"
    if not base.isidentifier() or keyword.iskeyword(base) or base in vars(operations) or base in _RESERVED:
        base = f"the_{base}"
    parameter, count = base, 1
    while parameter in taken:
        count += 1
        parameter = f"{base}_{count}"
    return parameter


_RESERVED = frozenset(
    """abs answer dict fields float format input int isinstance len list part piece reversed round run str value
    word""".split()  # noqa: SIM905  # a list of words reads better as prose
)
