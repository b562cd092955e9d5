from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oblong.checkpoints import open_checkpoint
from tests.checkpoint_builders import LLAMA_CONFIG, llama_tensors, make_weights, write_model

EMBEDDING = "model.embed_tokens.weight"


def open_with_head(directory: Path, *, tied: bool | None, equal: bool) -> Any:
    """A Llama with an output layer in the file, and what its configuration says about it."""
    tensors = llama_tensors()
    tensors["lm_head.weight"] = tensors[EMBEDDING].copy() if equal else make_weights(64, 16, seed=77)
    config = {name: value for name, value in LLAMA_CONFIG.items() if name != "tie_word_embeddings"}
    if tied is not None:
        config["tie_word_embeddings"] = tied
    return open_checkpoint(write_model(directory, tensors, config))


@pytest.mark.parametrize(
    ("tied", "equal", "expected"),
    [
        (True, True, True),
        (True, False, True),  # the configuration rules: the model never reads the copy in the file
        (None, True, True),
        (None, False, False),
        (False, True, False),  # equal by initialisation, free to part
        (False, False, False),
    ],
)
def test_configuration_first_then_content(tmp_path: Path, tied: bool | None, equal: bool, expected: bool) -> None:
    checkpoint = open_with_head(tmp_path, tied=tied, equal=equal)
    assert checkpoint.ties == ({"lm_head.weight": EMBEDDING} if expected else {})


def test_a_multimodal_configuration_is_asked_in_its_text_part(tmp_path: Path) -> None:
    tensors = llama_tensors() | {"lm_head.weight": make_weights(64, 16, seed=77)}
    checkpoint = open_checkpoint(write_model(tmp_path, tensors, {"text_config": {"tie_word_embeddings": True}}))
    assert checkpoint.ties == {"lm_head.weight": EMBEDDING}
