"""A GGUF base: tuned from its dequantised values, verified against its stored bytes, merged to safetensors."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize
from numpy.typing import NDArray
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from oblong.checkpoints import open_checkpoint
from oblong.models.quiet import quiet_transformers
from oblong.records import Plan
from oblong.tuning import merge_run, tune, verify_run
from tests.tuning_builders import NUM_LAYERS, make_plan, make_recipe, save_tiny_llama

LAYER_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
TRAINED = ("model.layers.0.mlp.up_proj.weight", "model.layers.1.self_attn.q_proj.weight")
HEADS, KEY_VALUE_HEADS, WIDTH, INNER = 4, 2, 32, 64


def interleave(rows: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """llama.cpp stores the two rotary halves of each head row by row in turn."""
    halves = rows.reshape(heads, 2, -1, rows.shape[1])
    return np.ascontiguousarray(np.stack([halves[:, 0], halves[:, 1]], axis=2).reshape(rows.shape))


def write_gguf(model: Path, path: Path) -> None:
    """The tiny Llama as llama.cpp would store it: matrices in Q8_0, vectors in F32."""
    weights = {name: tensor.float().numpy() for name, tensor in load_file(model / "model.safetensors").items()}
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(NUM_LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_VALUE_HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(257)
    for name, values in name_tensors(weights).items():
        kind = GGMLQuantizationType.F32 if values.ndim == 1 else GGMLQuantizationType.Q8_0
        writer.add_tensor(name, quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def name_tensors(weights: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    named = {
        "token_embd.weight": weights["model.embed_tokens.weight"],
        "output_norm.weight": weights["model.norm.weight"],
    }
    for layer in range(NUM_LAYERS):
        for long, short in LAYER_NAMES.items():
            values = weights[f"model.layers.{layer}.{long}.weight"]
            if short in ("attn_q", "attn_k"):
                values = interleave(values, HEADS if short == "attn_q" else KEY_VALUE_HEADS)
            named[f"blk.{layer}.{short}.weight"] = values
    return named


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A GGUF file with a tokenizer beside it."""
    model = save_tiny_llama(tmp_path / "model", intermediate_size=INNER)
    folder = tmp_path / "gguf"
    folder.mkdir()
    write_gguf(model, folder / "tiny.gguf")
    for file in model.glob("tokenizer*"):
        shutil.copy(file, folder)
    return folder / "tiny.gguf"


def plan_for(base: Path, model: Path) -> Plan:
    """A Plan as a scan of the GGUF file gives it: digests of the stored blocks."""
    checkpoint = open_checkpoint(base)
    digests = {tensor.name: checkpoint.digest(tensor) for tensor in checkpoint.tensors}
    plan = make_plan(model, TRAINED)
    tensors = tuple(tensor.model_copy(update={"digest": digests[tensor.name]}) for tensor in plan.tensors)
    return plan.model_copy(update={"tensors": tensors})


def test_a_quantised_file_is_tuned_verified_and_merged(base: Path, tmp_path: Path) -> None:
    plan_for(base, tmp_path / "model").write(tmp_path / "plan.yaml")
    tune(make_recipe(tmp_path, model=str(base)))
    merged = merge_run(tmp_path / "run", tmp_path / "merged")
    verification = verify_run(tmp_path / "run", merged=str(merged))
    assert verification.fraction_moved > 0.5
    assert [check.num_tensors for check in verification.checks] == [2, 18, 2, 20]

    delta = load_file(tmp_path / "run/delta/delta.safetensors")
    assert set(delta) == set(TRAINED)
    with quiet_transformers():
        weights = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32).state_dict()
    assert all(torch.equal(weights[name], delta[name]) for name in TRAINED)
