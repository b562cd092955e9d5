"""The models that oblong knows by a name of its own, since `oblong fetch` brings them (`oblong.models.catalogue`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

DEMO: Final = "demo"
DEMO_GGUF: Final = "demo-gguf"
WHISPER_BASE: Final = "whisper-base"
WHISPER_TINY_EN: Final = "whisper-tiny.en"
MINILM: Final = "minilm"


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedModel:
    """What a user writes as MODEL (`name`), what `oblong fetch` calls it, and its folder in the cache's models."""

    name: str
    fetch_name: str
    folder: str


NAMED_MODELS: Final[Mapping[str, NamedModel]] = {
    model.name: model
    for model in (
        NamedModel(name=DEMO, fetch_name="demo-model", folder="smollm2-135m-instruct"),
        NamedModel(name=DEMO_GGUF, fetch_name=DEMO_GGUF, folder="smollm2-135m-instruct-gguf"),
        NamedModel(name=WHISPER_BASE, fetch_name=WHISPER_BASE, folder="whisper-base"),
        NamedModel(name=WHISPER_TINY_EN, fetch_name=WHISPER_TINY_EN, folder="whisper-tiny.en"),
        NamedModel(name=MINILM, fetch_name=MINILM, folder="all-minilm-l6-v2"),
    )
}
