"""What a newcomer is shown once the stack runs: where it is, and one thing to paste."""

import json
from pathlib import Path

from loopai_client.client import LoopaiClient
from loopai_client.errors import LoopaiError

_TASK = "mood"
_EXAMPLES = (
    ("happy", "what a lovely day"),
    ("angry", "this is the worst"),
    ("happy", "thank you so much, I love it"),
    ("angry", "I hate waiting, terrible service"),
)
_KEY = ' -H "Authorization: Bearer $LOOPAI_API_KEY"'
_CREATE = """curl -s {url}/api/v1/tasks{key} -H 'Content-Type: application/json' -H 'Prefer: wait=30' -d '{{
  "name": "{name}", "description": "The mood of a message.",
  "input_schema": {{"type": "object", "properties": {{"text": {{"type": "string"}}}}, "required": ["text"]}},
  "output_schema": {{"enum": ["happy", "angry"]}},
  "examples": [
{examples}]}}'; echo
"""
_EXECUTE = """curl -s {url}/api/v1/tasks/{name}/execute{key} -H 'Content-Type: application/json' \\
  -d '{{"input": {{"text": "I love this lovely place"}}}}'; echo
"""


def first_steps(url: str, logs: Path, seconds: float, *, with_key: bool) -> str:
    """The announcement. Once the example task is there, only the call of its program is shown.

    ``with_key``: the calls send the API key of the environment, for those without one are refused.
    """
    key = _KEY if with_key else ""
    exists = _exists(url)
    examples = ",\n".join(
        f'    {{"input": {{"text": {json.dumps(text)}}}, "output": "{label}"}}' for label, text in _EXAMPLES
    )
    create = "" if exists else _CREATE.format(url=url, name=_TASK, key=key, examples=examples)
    return (
        f"\nLoopai is up after {seconds:.1f} s.\n\n"
        f"  API      {url}\n"
        f"  Swagger  {url}/swagger\n"
        f"  Logs     {logs}\n\n"
        f"{'Run' if exists else 'Make a program from examples, and run'} it, in another terminal:\n\n"
        f"{create}{_EXECUTE.format(url=url, name=_TASK, key=key)}\n"
        "Ctrl-C stops everything."
    )


def _exists(url: str) -> bool:
    try:
        with LoopaiClient(url) as client:
            return client.get_task(_TASK).status == "ready"
    except LoopaiError:
        return False
