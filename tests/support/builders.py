"""Valid objects with one thing changed."""

from typing import Any

from loopai_common.contracts.tasks import TaskDefinition

TEXT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"text": {"type": "string"}},
    "required": ["text"],
}
LABEL_SCHEMA: dict[str, Any] = {"enum": ["spam", "ham"]}


def definition_body(**changes: Any) -> dict[str, Any]:
    """The body of a valid ``POST /tasks``."""
    return {
        "name": "spam-detection",
        "description": "Decide whether a text message is spam or ham.",
        "input_schema": TEXT_SCHEMA,
        "output_schema": LABEL_SCHEMA,
        "examples": [{"input": {"text": "claim your prize"}, "output": "spam"}],
        **changes,
    }


def definition(**changes: Any) -> TaskDefinition:
    """A valid definition."""
    return TaskDefinition.model_validate(definition_body(**changes))
