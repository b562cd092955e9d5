"""The model's configuration, read as plain JSON: no class is built from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from oblong.errors import CorruptCheckpointError

CONFIG_NAME: Final = "config.json"


def read_config(path: Path) -> Mapping[str, Any]:
    """Read the `config.json` of a directory, or the one beside a file; empty when there is none.

    Raises:
        CorruptCheckpointError: the directory's is no JSON object. (One beside a file may belong to something else.)
    """
    config = (path if path.is_dir() else path.parent) / CONFIG_NAME
    if not config.is_file():
        return {}
    try:
        return read_json_object(config)
    except CorruptCheckpointError:
        if path.is_dir():
            raise
        return {}


def read_json_object(path: Path) -> Mapping[str, Any]:
    """Parse a file that must hold one JSON object.

    Raises:
        CorruptCheckpointError: unreadable, not JSON, or not an object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        refuse_half_characters(data)
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptCheckpointError(path, f"is not valid JSON: {error}") from error
    if not isinstance(data, dict):
        raise CorruptCheckpointError(path, "is not a JSON object")
    return data


def refuse_half_characters(data: Any) -> None:
    """Raise ValueError where an escape stands for half a character (a lone surrogate), which no file can hold."""
    json.dumps(data, ensure_ascii=False).encode()


def get_text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's part of a multimodal configuration, or the configuration itself."""
    nested = config.get("text_config")
    return nested if isinstance(nested, dict) else config


def get_quantisation(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """`quantization_config`, empty when there is none."""
    declared = config.get("quantization_config")
    return declared if isinstance(declared, dict) else {}


def get_count(config: Mapping[str, Any], *names: str) -> int | None:
    """The first of the named entries that is a positive whole number, from the language model's part."""
    text = get_text_config(config)
    for name in names:
        value = text.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None
