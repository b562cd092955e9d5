"""Every tensor of Whisper, BERT and the demo model has a row that says what it is and why it is or is not measured.

Tiny random models of the same classes are always scanned; the real ones where `oblong fetch` has brought them.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertModel

from oblong.checkpoints.named import DEMO_GGUF, MINILM, NAMED_MODELS, WHISPER_BASE, WHISPER_TINY_EN
from oblong.models.catalogue import CATALOGUE
from oblong.models.fetching import is_fetched
from oblong.planning import plan as make_plan
from oblong.records import Scan, Status
from oblong.scanning import scan
from tests.whisper_builders import make_whisper

# By role, of a model with as many layers of each kind as `encoder` and `decoder` say.
ATTENTION_ROLES = ("q", "k", "v", "o")


def expect_whisper(encoder: int, decoder: int) -> dict[str, int]:
    """Tensors with a spectrum: self-attention everywhere and cross-attention in the decoder, both with q, k, v, o."""
    layers = encoder + decoder
    return {
        **dict.fromkeys(ATTENTION_ROLES, layers + decoder),
        "up": layers,
        "down": layers,
        "conv": 2,
        "embedding": 3,
    }


def expect_bert(layers: int) -> dict[str, int]:
    return {**dict.fromkeys((*ATTENTION_ROLES, "up", "down"), layers), "embedding": 3, "pooler": 1}


def check_complete(found: Scan) -> None:
    """A row for every tensor, a role for every row, and a reason for everything that may not be chosen."""
    assert len({unit.tensor for unit in found}) == found.header.checkpoint.num_tensors
    assert [unit.name for unit in found if unit.role == "other"] == []
    for unit in found:
        assert (unit.status is Status.OK) == (unit.measures is not None)
        assert unit.eligible == (unit.reason is None)
        assert not unit.eligible or unit.status is Status.OK


def count_measured(found: Scan) -> dict[str, int]:
    return dict(Counter(unit.role for unit in found.measured))


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scanned") / "whisper"
    model: Any = make_whisper()
    model.half().save_pretrained(path)
    return path


def test_every_tensor_of_a_whisper_has_its_role(whisper: Path) -> None:
    found = scan(whisper)
    check_complete(found)
    assert count_measured(found) == expect_whisper(2, 2)
    conv = found["model.encoder.conv2.weight"]
    assert (conv.shape, conv.matrix_shape, conv.note) == ((16, 16, 3), (16, 48), None)
    assert found["model.encoder.embed_positions.weight"].reason is not None
    assert {unit.role for unit in found.eligible} == {*ATTENTION_ROLES, "up", "down", "conv"}


def test_a_tied_output_layer_counts_once(tmp_path: Path) -> None:
    model = make_whisper()
    model.config.save_pretrained(tmp_path)
    save_file({name: values.clone() for name, values in model.state_dict().items()}, tmp_path / "model.safetensors")
    found = scan(tmp_path)
    check_complete(found)
    assert found["proj_out.weight"].status is Status.TIED
    assert found["proj_out.weight"].tied_to == "model.decoder.embed_tokens.weight"


def test_a_plan_within_roles_takes_from_every_attention_of_a_whisper(whisper: Path) -> None:
    plan = make_plan(scan(whisper), criterion="kappa", within="role", budget="30%")
    assert {tensor.role for tensor in plan.tensors} >= {*ATTENTION_ROLES, "up", "down"}


def test_heads_of_self_and_cross_attention(whisper: Path) -> None:
    found = scan(whisper, heads=True, include=r"layers\.0\..*q_proj")
    assert count_measured(found) == {"q": 3, "q_head": 6}


def test_every_tensor_of_a_bert_has_its_role(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    model = BertModel(config)
    # Older releases saved the positions' indices, as the real MiniLM does.
    config.save_pretrained(tmp_path)
    state = {**model.state_dict(), "embeddings.position_ids": torch.arange(512)[None]}
    save_file(state, tmp_path / "model.safetensors")
    found = scan(tmp_path)
    check_complete(found)
    assert count_measured(found) == expect_bert(2)
    assert found["pooler.dense.weight"].reason is not None
    assert found["embeddings.position_ids"].reason == "a buffer, not a parameter"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (WHISPER_BASE, expect_whisper(6, 6)),
        (WHISPER_TINY_EN, expect_whisper(4, 4)),
        (MINILM, expect_bert(6)),
        (DEMO_GGUF, {**dict.fromkeys((*ATTENTION_ROLES, "gate", "up", "down"), 30), "embedding": 1}),
    ],
)
def test_every_tensor_of_a_real_model_has_its_role(name: str, expected: dict[str, int]) -> None:
    model = CATALOGUE[NAMED_MODELS[name].fetch_name]
    if not is_fetched(model):
        pytest.skip(f"not on this machine: run `oblong fetch {model.named.fetch_name}`")
    # Two layers are measured; the others have their rows all the same. benchmarks/scan_real_models.py measures all.
    found = scan(name, include=r"layers?\.[01]\.|conv\d|pooler")
    check_complete(found)
    assert Counter(unit.role for unit in found if len(unit.shape) > 1 and unit.role != "buffer") == expected
    assert {unit.role for unit in found.measured} >= expected.keys() - {"embedding"}
