"""JSON Schema 2020-12: which schemas a task may have, and the compiled validators.

Patterns run on an engine that is linear in the text (Rust ``regex``). A schema may not point outside itself, and a
pattern with a repeated repetition is refused although it is harmless here: the same schema is handed to generators and
clients whose engines backtrack, where ``(a+)+$`` is an outage.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

import jsonschema_rs

from loopai_common.errors import Violation

# The standard library's parser has no public name, and no types.
_constants: Any = import_module("re._constants")
_parser: Any = import_module("re._parser")

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_MAX_DEPTH = 100
_PATTERN_OPTIONS = jsonschema_rs.RegexOptions(size_limit=1 << 20, dfa_size_limit=1 << 20)


def compile_schema(schema: Mapping[str, Any] | bool) -> jsonschema_rs.Draft202012Validator:
    """Compiles a schema that :func:`schema_violations` found good; raises ``ValueError`` for any other."""
    return jsonschema_rs.Draft202012Validator(
        schema if isinstance(schema, bool) else dict(schema),
        pattern_options=_PATTERN_OPTIONS,
        offline=True,
        validate_formats=False,
    )


def schema_violations(schema: Mapping[str, Any] | bool, field: str) -> list[Violation]:
    """Everything that keeps ``schema`` from being a task's schema, with paths below ``field``."""
    try:
        found = list(_structural_violations(schema, field, 0))
    except RecursionError:
        return [Violation(field, "is nested too deeply", "schema_too_deep")]
    if found:
        return found
    try:
        compile_schema(schema)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError) as error:
        path = _pointer(getattr(error, "instance_path", ()))
        return [Violation(field + path, "is not a valid JSON Schema (draft 2020-12)", "invalid_schema")]
    except ValueError:
        return [Violation(field, "is not a valid JSON Schema (draft 2020-12)", "invalid_schema")]
    return []


def instance_violations(
    validator: jsonschema_rs.Draft202012Validator, instance: Any, field: str, *, limit: int = 20
) -> list[Violation]:
    """Where ``instance`` breaks the schema, at most ``limit`` places. Messages name rules, never values."""
    found: list[Violation] = []
    try:
        for error in validator.iter_errors(instance):
            keyword = str(error.schema_path[-1]) if error.schema_path else "schema"
            found.append(Violation(field + _pointer(error.instance_path), _remedy(error), keyword))
            if len(found) == limit:
                break
    except ValueError:  # how the validator says that it looks no deeper; is_valid() is false then
        found.append(Violation(field, "is nested too deeply to be checked", "nesting"))
    return found


def _remedy(error: jsonschema_rs.ValidationError) -> str:
    """What to do, out of the schema alone (jsonschema_rs's own message repeats the instance)."""
    kind = error.kind
    keyword = kind.name
    value = kind.value
    match keyword:
        case "required":
            return f"must have the property {value!r}"
        case "type":
            names = value if isinstance(value, str) else " or ".join(map(str, value))
            return f"must be of type {names}"
        case "additionalProperties" | "unevaluatedProperties":
            return "has a property that the schema does not allow"
        case _:
            return f"does not satisfy {keyword!r} of the schema"


def _pointer(path: Sequence[str | int]) -> str:
    return "".join(f"/{str(step).replace('~', '~0').replace('/', '~1')}" for step in path)


def _structural_violations(node: Any, field: str, depth: int) -> Iterator[Violation]:
    if depth > _MAX_DEPTH:
        yield Violation(field, f"is nested more than {_MAX_DEPTH} levels deep", "schema_too_deep")
        return
    if isinstance(node, Mapping):
        dialect = node.get("$schema")
        if isinstance(dialect, str) and dialect.rstrip("#") != DIALECT:
            yield Violation(f"{field}/$schema", f"must be {DIALECT} or left out", "unsupported_dialect")
        for keyword in ("$ref", "$dynamicRef"):
            target = node.get(keyword)
            if isinstance(target, str) and not target.startswith("#"):
                yield Violation(f"{field}/{keyword}", "must point into this schema ('#…')", "external_reference")
        pattern = node.get("pattern")
        if isinstance(pattern, str):
            yield from _pattern_violations(pattern, f"{field}/pattern")
        names = node.get("patternProperties")
        if isinstance(names, Mapping):
            for name in names:
                yield from _pattern_violations(str(name), f"{field}/patternProperties")
        for key, child in node.items():
            if key not in {"const", "enum", "default", "examples"}:
                yield from _structural_violations(child, f"{field}{_pointer([key])}", depth + 1)
    elif isinstance(node, list):
        for index, child in enumerate(node):
            yield from _structural_violations(child, f"{field}/{index}", depth + 1)


def _pattern_violations(pattern: str, field: str) -> Iterator[Violation]:
    try:
        parsed = _parser.parse(pattern)
    except (re.error, RecursionError, OverflowError):
        return  # not Python's dialect; whether it is JSON Schema's is for the compiler to say
    if _repeats_a_repetition(parsed, inside=False):
        yield Violation(
            field,
            "repeats a repetition, as (a+)+ does, which takes other engines exponential time; write it without nesting",
            "catastrophic_pattern",
        )


def _repeats_a_repetition(parsed: Any, *, inside: bool) -> bool:
    repeats = (_constants.MAX_REPEAT, _constants.MIN_REPEAT)
    for operator, argument in parsed:
        if operator in repeats:
            _, highest, body = argument
            unbounded = highest is _constants.MAXREPEAT or highest > 100
            if unbounded and inside:
                return True
            if _repeats_a_repetition(body, inside=inside or unbounded):
                return True
        elif operator is _constants.SUBPATTERN:
            if _repeats_a_repetition(argument[-1], inside=inside):
                return True
        elif operator is _constants.BRANCH:
            if any(_repeats_a_repetition(branch, inside=inside) for branch in argument[1]):
                return True
        elif operator in (_constants.ASSERT, _constants.ASSERT_NOT) and _repeats_a_repetition(
            argument[1], inside=inside
        ):
            return True
    return False
