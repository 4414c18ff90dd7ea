"""The rules of a task's definition that pydantic cannot state: good schemas, and examples that satisfy them."""

from collections.abc import Iterable

from loopai_common.contracts.tasks import Example, JsonSchema, TaskDefinition
from loopai_common.errors import Violation
from loopai_common.schemas import compile_schema, instance_violations, schema_violations

_MAX_VIOLATIONS = 100


def definition_violations(definition: TaskDefinition) -> list[Violation]:
    """Every rule the definition breaks, at most 100; an empty list means that it may be stored."""
    found = schema_violations(definition.input_schema, "input_schema")
    found += schema_violations(definition.output_schema, "output_schema")
    if found or not definition.examples:
        return found[:_MAX_VIOLATIONS]
    return example_violations(definition.examples, definition.input_schema, definition.output_schema)


def example_violations(
    examples: Iterable[Example], input_schema: JsonSchema, output_schema: JsonSchema
) -> list[Violation]:
    """Where examples break the schemas, which are good ones; at most 100 places."""
    found: list[Violation] = []
    validators = (("input", compile_schema(input_schema)), ("output", compile_schema(output_schema)))
    for index, example in enumerate(examples):
        for part, validator in validators:
            value = getattr(example, part)
            if not validator.is_valid(value):
                found += instance_violations(validator, value, f"examples/{index}/{part}")
                if len(found) >= _MAX_VIOLATIONS:
                    return found[:_MAX_VIOLATIONS]
    return found
