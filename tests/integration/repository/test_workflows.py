"""What the forge runs exists, may do no more than it must, and is what a person would type."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yaml"))

every_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def workflow(path: Path) -> dict[str, Any]:
    loaded = yaml.safe_load(path.read_text())
    assert isinstance(loaded, dict)
    return loaded


def steps(path: Path) -> Iterator[dict[str, Any]]:
    for job in workflow(path)["jobs"].values():
        yield from job["steps"]


def scripts(path: Path) -> list[str]:
    return [step["run"] for step in steps(path) if "run" in step]


def make_targets() -> set[str]:
    text = (ROOT / "Makefile").read_text()
    return set(re.findall(r"^([a-z]+):", text, re.MULTILINE))


def test_there_is_a_workflow_for_each_part() -> None:
    assert {path.stem for path in WORKFLOWS} == {"ci", "images", "security", "helm", "release"}


@every_workflow
def test_what_a_workflow_calls_exists(path: Path) -> None:
    called = "\n".join(scripts(path))
    made = re.findall(r"(?m)^\s*make ([a-z]+)", called)
    assert set(made) <= make_targets()
    own = set(re.findall(r"(?<![\w/])\.ci/[a-z-]+", called))
    assert made or own
    for script in own:
        assert os.access(ROOT / script, os.X_OK), script
    named = set(re.findall(r"(?:helm|tests|docs|compose|services)/[\w./*-]*[\w*]", called))
    for file in named:
        assert list(ROOT.glob(file)), file


@every_workflow
def test_a_workflow_may_read_and_nothing_else_unless_a_job_says_so(path: Path) -> None:
    assert workflow(path)["permissions"] == {"contents": "read"}
    granted = {name: job["permissions"] for name, job in workflow(path)["jobs"].items() if "permissions" in job}
    assert granted == ({"release": {"contents": "write", "packages": "write"}} if path.stem == "release" else {})
    for step in steps(path):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


@every_workflow
def test_a_workflow_ends_and_does_not_run_twice_for_one_branch(path: Path) -> None:
    assert workflow(path)["concurrency"]["group"].startswith(path.stem)
    assert all(job["timeout-minutes"] <= 60 for job in workflow(path)["jobs"].values())


@every_workflow
def test_actions_are_pinned_and_come_from_few_makers(path: Path) -> None:
    for step in steps(path):
        if "uses" in step:
            maker, version = step["uses"].split("/")[0], step["uses"].partition("@")[2]
            assert maker in {"actions", "docker", "anchore"}
            assert re.fullmatch(r"v\d+|[0-9a-f]{40}", version), step["uses"]


@every_workflow
def test_no_script_is_made_of_what_a_stranger_wrote(path: Path) -> None:
    """A branch's name or a title in ``run`` would be run by the shell."""
    for script in scripts(path):
        expressions = re.findall(r"\$\{\{(.*?)\}\}", script)
        assert all(expression.strip().startswith("matrix.") for expression in expressions), script


def test_every_supported_python_is_tested() -> None:
    matrix = workflow(ROOT / ".github/workflows/ci.yaml")["jobs"]["test"]["strategy"]["matrix"]
    assert matrix["python"] == ["3.11", "3.12", "3.13", "3.14"]
    assert 'requires-python = ">=3.11"' in (ROOT / "pyproject.toml").read_text()


def test_every_image_is_scanned() -> None:
    matrix = workflow(ROOT / ".github/workflows/images.yaml")["jobs"]["image"]["strategy"]["matrix"]
    services = [path.parent.name for path in ROOT.glob("services/*/Dockerfile")]
    assert sorted(matrix["image"]) == sorted([*services, "cli"])


def test_the_other_files_for_tools_can_be_read() -> None:
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    made = container["postCreateCommand"].removeprefix("make ").split()
    assert set(made) <= make_targets()
    updates = yaml.safe_load((ROOT / ".github/dependabot.yml").read_text())["updates"]
    assert {update["package-ecosystem"] for update in updates} == {"github-actions", "docker", "npm"}
    for update in updates:
        for directory in update.get("directories", [update.get("directory")]):
            assert list(ROOT.glob(f"{directory.strip('/')}/*".lstrip("/"))), directory


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "SECURITY.md", "docs/kubernetes.md"])
def test_commands_in_documents_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    code = "\n".join(re.findall(r"```(?:sh|console)\n(.*?)```", text, re.DOTALL) + re.findall(r"`([^`\n]+)`", text))
    assert set(re.findall(r"(?m)^\s*make ([a-z]+)", code)) <= make_targets()
    for script in re.findall(r"(?<![\w/])\.ci/[a-z-]+", code):
        assert os.access(ROOT / script, os.X_OK), script
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if "://" not in link and not link.startswith("mailto:"):
            assert (ROOT / page).parent.joinpath(link).exists(), link


class Releases:
    """A copy of what `.ci/release-notes` reads."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for pattern in ("pyproject.toml", "*/*/pyproject.toml", "helm/loopai/Chart.yaml"):
            for path in ROOT.glob(pattern):
                target = directory / path.relative_to(ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)

    def notes(self, version: str) -> subprocess.CompletedProcess[str]:
        command = [str(ROOT / ".ci" / "release-notes"), version]
        return subprocess.run(command, cwd=self.directory, capture_output=True, text=True, timeout=60)


def test_a_release_is_told_by_its_section_of_the_changelog(tmp_path: Path) -> None:
    releases = Releases(tmp_path)
    (tmp_path / "CHANGELOG.md").write_text(
        "# Changelog\n\n## [Unreleased]\n\n- Later.\n\n## [0.1.0] - 2026-12-01\n\n### Added\n- This.\n\n"
        "## [0.0.9] - 2026-11-01\n\n- Before.\n"
    )
    done = releases.notes("0.1.0")
    assert (done.returncode, done.stdout) == (0, "### Added\n- This.\n")


def test_a_release_is_refused_whose_version_somebody_forgot(tmp_path: Path) -> None:
    releases = Releases(tmp_path)
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## [Unreleased]\n\n- Later.\n")
    assert "CHANGELOG.md has no section [0.1.0]" in releases.notes("0.1.0").stderr
    chart = tmp_path / "helm/loopai/Chart.yaml"
    chart.write_text(chart.read_text().replace('appVersion: "0.1.0"', 'appVersion: "0.0.9"'))
    assert "appVersion in helm/loopai/Chart.yaml is 0.0.9, not 0.1.0" in releases.notes("0.1.0").stderr
    assert "pyproject.toml is 0.1.0, not 0.2.0" in releases.notes("0.2.0").stderr
