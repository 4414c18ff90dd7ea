"""What ``docs/generators.md`` tells people to set is what the generator takes."""

import re
import shlex
from pathlib import Path

import pytest

from loopai_common.runtime.settings import load_settings
from loopai_generator.settings import GeneratorSettings

PAGE = (Path(__file__).parents[3] / "docs" / "generators.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS)
def test_documented_settings_are_taken(block: str) -> None:
    lines = [shlex.split(line) for line in block.splitlines()]
    assert {line[0] for line in lines} == {"export"}
    settings = load_settings(GeneratorSettings, "generator", dict(line[1].split("=", 1) for line in lines))
    assert settings.openai_model


def test_every_setting_of_the_language_model_is_documented() -> None:
    named = set(re.findall(r"^\| `(OPENAI_[A-Z_]+)` \|", PAGE, re.MULTILINE))
    assert named == {name.upper() for name in GeneratorSettings.model_fields if name.startswith("openai_")}
    assert len(BLOCKS) == 5
