"""The published documents as they should be, made from the code. ``make contracts`` writes them; tests compare them."""

import json
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from loopai_api import wiring
from loopai_api.documentation import errors_markdown
from loopai_api.openapi import openapi_document
from loopai_api.settings import ApiSettings
from loopai_api.versions import VERSIONS
from loopai_common.asyncapi import asyncapi_document, message_schemas
from loopai_common.permissions import nats_authorization
from tests.support.metrics import metrics_markdown
from tests.support.reference import reference_pages

ROOT = Path(__file__).parents[2]
SCHEMAS = "docs/contracts/schemas"


def documents() -> dict[str, str]:
    """Path → text of every document."""
    app = wiring.build(ApiSettings()).app
    assert isinstance(app, FastAPI)
    openapi = {name: openapi_document(app.state.routes, version, ()) for name, version in VERSIONS.items()}
    return {
        **{f"tests/contract/api/openapi-{name}.json": _json(document) for name, document in openapi.items()},
        **reference_pages(openapi["v1"], openapi["v2"]),
        "docs/errors.md": errors_markdown(),
        "docs/metrics.md": metrics_markdown(),
        "docs/contracts/nats-users.conf": nats_authorization(),
        "docs/contracts/asyncapi.json": _json(asyncapi_document()),
        **{f"{SCHEMAS}/{name}.json": _json(schema) for name, schema in message_schemas().items()},
    }


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    """Writes all documents, and removes the schemas of messages that are gone."""
    wanted = documents()
    for path in ROOT.joinpath(SCHEMAS).glob("*.json"):
        if str(path.relative_to(ROOT)) not in wanted:
            path.unlink()
    for name, text in wanted.items():
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
