"""``loopai health``: whether the API can work, and what is missing."""

from rich.markup import escape

from loopai_client.cli.options import DEFAULT_URL, AsJson, Url
from loopai_client.cli.output import Failed, failures, out, print_json, table
from loopai_client.client import LoopaiClient


def health(url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Show whether the API can work, and each thing that it depends on. Exits with 1 when it cannot."""
    with failures(as_json=as_json), LoopaiClient(url) as client:
        found = client.readiness()
        version = client.health().version
        if as_json:
            print_json({**found.model_dump(mode="json"), "version": version})
        else:
            out.print(f"[bold]{escape(url)}[/bold] is {found.status} (version {escape(version)})")
            rows = [
                [name, check.status, "-" if check.latency_ms is None else f"{check.latency_ms:.1f}", check.detail or ""]
                for name, check in found.checks.items()
            ]
            out.print(table(["depends on", "status", "ms", "detail"], rows))
        if not found.ready:
            raise Failed(f"it cannot work: {found.missing}")
