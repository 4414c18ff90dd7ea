"""The commands of an operator, which work on the data itself; the service may run meanwhile, and need not.

``loopai store …``, ``loopai export`` and ``loopai import`` start this as a process, so that they find the data by the
settings of the service. Exit codes: 0 done, 1 something is wrong, 2 wrong usage or settings.
"""

import argparse
import asyncio
import dataclasses
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry

from loopai_artifact_store.backends import has_catalog, open_backends
from loopai_artifact_store.labelling import label_all
from loopai_artifact_store.metrics import StoreMetrics
from loopai_artifact_store.operations.recovery import rebuild
from loopai_artifact_store.operations.transfer import export_tasks, import_tasks
from loopai_artifact_store.operations.verification import verify
from loopai_artifact_store.ports import Store
from loopai_artifact_store.settings import ArtifactStoreSettings
from loopai_common.contracts.base import format_timestamp
from loopai_common.errors import LoopaiError
from loopai_common.runtime.service import StartRefused
from loopai_common.runtime.settings import SettingsError, load_settings

SERVICE: Final = "artifact-store"
_DONE: Final = 0
_WRONG: Final = 1
_USAGE: Final = 2

Answer = dict[str, Any]
"""What a command says; ``problems`` or ``losses`` that are not empty make it fail."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        settings = load_settings(ArtifactStoreSettings, SERVICE)
        if options.needs_catalog and not has_catalog(settings):
            raise SettingsError(f"there is no store in '{settings.data_dir}'; set LOOPAI_DATA_DIR, or start one there")
        answer = asyncio.run(_run(settings, options.command, options))
    except (SettingsError, StartRefused) as error:
        _tell_error(options.json, "refused", str(error), [])
        return _USAGE
    except LoopaiError as error:
        details = [dataclasses.asdict(violation) for violation in error.details]
        _tell_error(options.json, error.code, f"{error.message}. {error.remedy}", details)
        return _WRONG
    except OSError as error:
        _tell_error(options.json, "failed", f"{error.filename or 'operating system'}: {error.strerror or error}", [])
        return _WRONG
    wrong = answer.get("problems") or answer.get("losses") or ()
    if options.json:
        lines = [json.dumps(answer, ensure_ascii=False, default=_plain)]
    else:
        lines = [options.sentence.format(**answer), *(f"  {each['task']}: {each['sentence']}" for each in wrong)]
    sys.stdout.write("\n".join(lines) + "\n")
    return _WRONG if wrong else _DONE


async def _run(
    settings: ArtifactStoreSettings,
    command: Callable[[Store, argparse.Namespace], Awaitable[Answer]],
    options: argparse.Namespace,
) -> Answer:
    async with open_backends(settings, StoreMetrics(CollectorRegistry())) as backends:
        return await command(Store(backends.catalog, backends.executions, backends.storage), options)


async def _verify(store: Store, _: argparse.Namespace) -> Answer:
    found = dataclasses.asdict(await verify(store))
    return {**found, "ok": not found["problems"], "wrong": len(found["problems"])}


async def _rebuild(store: Store, _: argparse.Namespace) -> Answer:
    return dataclasses.asdict(await rebuild(store))


async def _relabel(store: Store, _: argparse.Namespace) -> Answer:
    return {"tasks": await label_all(store)}


async def _export(store: Store, options: argparse.Namespace) -> Answer:
    done = await export_tasks(store, options.file, options.task, executions=options.executions)
    return {"file": str(options.file), "size_bytes": options.file.stat().st_size, **dataclasses.asdict(done)}


async def _import(store: Store, options: argparse.Namespace) -> Answer:
    done = await import_tasks(store, options.file, dry_run=options.dry_run)
    return {"dry_run": options.dry_run, "verb": "Would import" if options.dry_run else "Imported"} | dataclasses.asdict(
        done
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="loopai-artifact-store", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Any, sentence: str, help_: str, *, needs_catalog: bool) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help_, description=help_)
        added.add_argument("--json", action="store_true", help="Print JSON, for machines.")
        added.set_defaults(command=command, sentence=sentence, needs_catalog=needs_catalog)
        return added

    add(
        "verify",
        _verify,
        "Looked at {tasks} tasks, {versions} versions, {programs} programs ({orphans} orphans), {waiting_events} "
        "waiting events and {waiting_changes} changes that the recovery documents do not tell yet; {wrong} problems.",
        "Check every digest and every reference; changes nothing.",
        needs_catalog=True,
    )
    add(
        "rebuild",
        _rebuild,
        "Recovered {tasks} tasks with {versions} versions.",
        "Make an empty catalog anew from the storage of programs.",
        needs_catalog=False,
    )
    add(
        "relabel",
        _relabel,
        "Labelled {tasks} tasks.",
        "Write again what is kept beside the programs for people and for recovery.",
        needs_catalog=True,
    )
    exporting = add(
        "export",
        _export,
        "Exported {tasks} tasks with {versions} versions and {executions} records of executions to {file} "
        "({size_bytes} bytes).",
        "Write tasks with their programs into an archive.",
        needs_catalog=True,
    )
    exporting.add_argument("file", type=Path, help="The archive; one that is there is replaced.")
    exporting.add_argument("--task", action="append", default=[], help="Name or id; several times; without it: all.")
    exporting.add_argument("--executions", action="store_true", help="Also the records of executions.")
    importing = add(
        "import",
        _import,
        "{verb} {tasks} tasks with {versions} versions and {executions} records of executions; {skipped} were here "
        "already.",
        "Store the tasks of an archive.",
        needs_catalog=False,
    )
    importing.add_argument("file", type=Path, help="The archive.")
    importing.add_argument("--dry-run", action="store_true", help="Only check what would be done.")
    return parser


def _tell_error(as_json: bool, code: str, message: str, details: list[dict[str, str]]) -> None:
    if as_json:
        body = {"code": code, "message": message, "details": details}
        sys.stderr.write(json.dumps({"error": body}, ensure_ascii=False) + "\n")
        return
    sys.stderr.write(f"{code}: {message}\n")
    for detail in details:
        sys.stderr.write(f"  {detail['field']}: {detail['message']}\n")


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return format_timestamp(value)
    raise TypeError(f"{type(value).__name__} is no JSON")


if __name__ == "__main__":
    sys.exit(main())
