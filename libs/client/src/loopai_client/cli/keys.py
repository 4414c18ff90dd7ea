"""``loopai keys``: who may call the API. Works on the file that the api reads; no api need run."""

import math
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from loopai_client.cli.options import AsJson
from loopai_client.cli.output import Failed, err, failures, out, print_json, table
from loopai_client.local.key_file import changed_keys, read_keys
from loopai_client.local.stack import DEFAULT_DATA_DIR
from loopai_common.keys import ApiKey, Rate, Scope, new_key

app = typer.Typer(no_args_is_help=True, help="Make API keys, list them, and revoke them.")

_TASK = re.compile(r"[A-Za-z0-9_.-]{1,200}")
_DURATION = re.compile(r"([1-9][0-9]{0,5})([mhdw])")
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}

KeysFile = Annotated[Path, typer.Option("--file", envvar="LOOPAI_API_KEYS_FILE", help="The file that holds the keys.")]
DEFAULT_FILE = DEFAULT_DATA_DIR / "api-keys.json"


@app.command()
def create(
    scope: Annotated[list[Scope], typer.Option(help="What the key may do; may be given several times.")],
    task: Annotated[
        list[str] | None, typer.Option(help="Name or id of a task that the key is for; without it: all tasks.")
    ] = None,
    rate: Annotated[float | None, typer.Option(min=0.001, max=1e9, help="Requests a second.")] = None,
    burst: Annotated[
        int | None, typer.Option(min=1, max=1_000_000_000, help="Requests at once; without it: those of a second.")
    ] = None,
    expires: Annotated[str | None, typer.Option(help="For how long the key is valid: 90m, 12h, 30d, 8w.")] = None,
    file: KeysFile = DEFAULT_FILE,
    as_json: AsJson = False,
) -> None:
    """Make a key, and print it: this once, since the file holds only its hash. The api knows it within two seconds."""
    if burst is not None and rate is None:
        raise typer.BadParameter("needs --rate", param_hint="--burst")
    if any(_TASK.fullmatch(each) is None for each in task or ()):
        raise typer.BadParameter("a task has letters, digits, and _ . -", param_hint="--task")
    key, known = new_key(
        scopes=sorted(set(scope)),
        tasks=sorted(set(task)) if task else None,
        rate=None if rate is None else Rate(rate, burst or math.ceil(rate)),
        expires_at=None if expires is None else _expiry(expires),
    )
    with failures(as_json=as_json), changed_keys(file) as keys:
        keys[known.id] = known
    if as_json:
        print_json({"key": key, **_shown(known)})
    else:
        out.print(key)
        err.print(f"Key [bold]{known.id}[/bold] is in {escape(str(file))}. It is not shown again.")


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The middle part of the key.")],
    file: KeysFile = DEFAULT_FILE,
    as_json: AsJson = False,
) -> None:
    """Make a key invalid, within two seconds."""
    with failures(as_json=as_json), changed_keys(file) as keys:
        if keys.pop(key_id, None) is None:
            raise Failed(f"there is no key {key_id} in {file}")
    if as_json:
        print_json({"revoked": key_id})
    else:
        out.print(f"Key {escape(key_id)} is revoked.")


@app.command("list")
def list_keys(file: KeysFile = DEFAULT_FILE, as_json: AsJson = False) -> None:
    """List the keys; what makes them valid is not in the file."""
    with failures(as_json=as_json):
        shown = [_shown(key) for key in read_keys(file).values()]
    if as_json:
        print_json(shown)
    elif not shown:
        out.print("No keys yet; make one with `loopai keys create`.")
    else:
        out.print(table(["id", "scopes", "tasks", "rate", "created", "expires"], [_row(key) for key in shown]))


def _shown(key: ApiKey) -> dict[str, Any]:
    rate = None if key.rate is None else {"requests_per_second": key.rate.requests_per_second, "burst": key.rate.burst}
    return {
        "id": key.id,
        "scopes": [str(scope) for scope in key.scopes],
        "tasks": key.tasks,
        "rate": rate,
        "created_at": _time(key.created_at),
        "expires_at": None if key.expires_at is None else _time(key.expires_at),
        "expired": key.expires_at is not None and key.expires_at <= datetime.now(UTC),
    }


def _row(key: dict[str, Any]) -> list[str]:
    rate = "-" if key["rate"] is None else f"{key['rate']['requests_per_second']:g}/s, {key['rate']['burst']} at once"
    expires = "never" if key["expires_at"] is None else f"{key['expires_at']}{' (expired)' if key['expired'] else ''}"
    return [key["id"], ", ".join(key["scopes"]), ", ".join(key["tasks"] or ["all"]), rate, key["created_at"], expires]


def _expiry(text: str) -> datetime:
    parts = _DURATION.fullmatch(text)
    if parts is None:
        raise typer.BadParameter("give a number and m, h, d or w, like 30d", param_hint="--expires")
    return datetime.now(UTC).replace(microsecond=0) + int(parts[1]) * _UNITS[parts[2]]


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
