"""The generated reference is complete: nothing that can be called, sent, typed or set is missing from it."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from loopai_client.cli.main import app
from loopai_common.contracts.channels import CHANNELS
from loopai_common.runtime.settings import PREFIXES, load_settings, variables_of
from tests.support.reference import SETTINGS

ROOT = Path(__file__).parents[3]
ENV_EXAMPLE = re.findall(r"^#([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE)


def page(name: str) -> str:
    return (ROOT / "docs" / "reference" / f"{name}.md").read_text()


@pytest.mark.parametrize("service", PREFIXES)
def test_every_setting_is_explained_and_in_the_example(service: str) -> None:
    names = {name for name, _ in ENV_EXAMPLE}
    for name, field in SETTINGS[service].model_fields.items():
        assert field.description, name
        own, *shared = variables_of(name, field, PREFIXES[service])
        assert {own, *shared} & names, own
        explained = page("settings")
        assert f"`{own}`" in explained or f"`LOOPAI_<SERVICE>_{name.upper()}`" in explained, own


@pytest.mark.parametrize("service", PREFIXES)
def test_the_defaults_in_the_example_are_the_defaults(service: str) -> None:
    environment = {name: value for name, value in ENV_EXAMPLE if value}
    assert load_settings(SETTINGS[service], service, environment) == load_settings(SETTINGS[service], service, {})


def test_no_variable_is_in_the_example_twice() -> None:
    names = [name for name, _ in ENV_EXAMPLE]
    assert len(names) == len(set(names)) > 80


def test_every_subject_is_listed_with_who_sends_it() -> None:
    rows = {row.split(" | ")[0].strip("| `"): row.split(" | ") for row in page("bus").splitlines()}
    for channel in CHANNELS:
        assert channel.service in rows[channel.address][1]
        assert rows[channel.address][2].strip(), channel.address


def test_every_command_is_listed() -> None:
    groups = re.findall(r"^## loopai (\w+) (\w+)", page("command"), re.MULTILINE)
    listed = {first for first, _ in groups} | set(re.findall(r"^## loopai (\w+)$", page("command"), re.MULTILINE))
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).stdout
    assert len(listed) > 10
    assert all(re.search(rf"\b{name}\b", shown) for name in listed)
    assert ("tasks", "create") in groups
    assert ("task", "create") not in groups
