"""What the how-to pages of speech show is what the program takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from oblong.records import SpeechRunStatus
from oblong.records.recipe import check_recipe
from oblong.speech.training import SpeechTrainRecipe

DOCS = Path(__file__).resolve().parents[3] / "docs/how-to"
ADD_SPEECH = (DOCS / "add-speech-to-your-llm.md").read_text(encoding="utf-8")
MAX_LINES = 30


def read_yaml_block(page: str) -> tuple[str, Any]:
    """The first YAML block of a page, as text and parsed."""
    found = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert found is not None
    return found[1], yaml.safe_load(found[1])


def test_the_recipe_of_the_page_is_right_and_short() -> None:
    text, data = read_yaml_block(ADD_SPEECH)
    assert len(text.splitlines()) <= MAX_LINES
    recipe = check_recipe(SpeechTrainRecipe, data, DOCS)
    assert recipe.stop.max_perplexity_ratio == 1.1
    alternatives = ({"adaptor_only": True}, {"lora": {"rank": 16, "audio_gated": True}})
    for arm in alternatives:
        check_recipe(SpeechTrainRecipe, data | {"adapt": data["adapt"] | {"arm": arm}}, DOCS)


def test_every_way_to_end_is_explained() -> None:
    missing = [status for status in SpeechRunStatus if f"`{status}`" not in ADD_SPEECH and status != "running"]
    assert missing == []


def test_accelerate_knows_every_field_of_the_page() -> None:
    """The configuration was not run on several GPUs; that its fields exist can be told here."""
    from accelerate.commands.config.config_args import ClusterConfig
    from accelerate.commands.launch import launch_command_parser

    _, data = read_yaml_block((DOCS / "speech-several-gpus.md").read_text(encoding="utf-8"))
    assert set(data) <= set(ClusterConfig.__dataclass_fields__)
    options = {action.dest for action in launch_command_parser()._actions}
    assert set(data["fsdp_config"]) <= options
