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


def test_the_launchers_know_the_options_of_the_page() -> None:
    """Nothing was run on several GPUs; that the options exist can be told here."""
    from accelerate.commands.launch import launch_command_parser
    from torch.distributed.run import get_args_parser

    page = (DOCS / "speech-several-gpus.md").read_text(encoding="utf-8")
    launchers = {"torchrun": get_args_parser(), "accelerate launch": launch_command_parser()}
    for command, parser in launchers.items():
        found = re.search(rf"^    {command} (.*?) -m oblong", page, re.MULTILINE)
        assert found is not None
        known = {option for action in parser._actions for option in action.option_strings}
        assert {word for word in found[1].split() if word.startswith("--")} <= known
