"""A tiny random Llama with a byte-level tokenizer, Plans for it, and recipes: what the tests of tuning are made of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from oblong.checkpoints.delta import digest_tensor
from oblong.records import Budget, Plan, PlannedTensor, Provenance, Rule, Totals
from oblong.tuning.recipe import TuneRecipe, build_recipe
from tests.tiny_configs import make_llama_config

NUM_LAYERS = 2
SELECTED = (
    "model.layers.0.mlp.down_proj.weight",
    "model.layers.1.self_attn.v_proj.weight",
    "model.layers.1.mlp.up_proj.weight",
)
TEXTS = tuple(f"Document {index}: the quick brown fox jumps over {index} lazy dogs. " * 3 for index in range(12))


def save_tiny_llama(
    directory: Path, *, seed: int = 0, dtype: torch.dtype = torch.bfloat16, tied: bool = True, **config: Any
) -> Path:
    """A Llama of 2 layers, d 32, 257 tokens, in `directory`."""
    torch.manual_seed(seed)
    options: dict[str, Any] = {
        "num_hidden_layers": NUM_LAYERS,
        "bos_token_id": None,
        "eos_token_id": 256,
        "tie_word_embeddings": tied,
    }
    model = LlamaForCausalLM(make_llama_config(**(options | config))).to(dtype)  # type: ignore[arg-type]
    model.save_pretrained(directory)
    make_tokenizer().save_pretrained(directory)
    return directory


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, and an end-of-text token."""
    alphabet = sorted(ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.add_special_tokens(["<|end|>"])
    wrapper: Any = PreTrainedTokenizerFast  # its constructor has no annotations
    wrapped: PreTrainedTokenizerFast = wrapper(tokenizer_object=tokenizer, eos_token="<|end|>")
    return wrapped


def make_plan(model: Path, names: Sequence[str] = SELECTED) -> Plan:
    """A Plan of the named tensors of a saved model, with their digests."""
    weights = load_file(model / "model.safetensors")
    tensors = tuple(
        PlannedTensor(
            name=name,
            role="other",
            layer=None,
            shape=tuple(weights[name].shape),
            num_parameters=weights[name].numel(),
            digest=digest_tensor(weights[name]),
            value=None,
            measures={},
            reason="chosen by the test",
        )
        for name in names
    )
    total = sum(tensor.num_parameters for tensor in tensors)
    return Plan(
        name="test",
        model=str(model),
        layout_digest="sha256:0",
        scan_digest="sha256:0",
        rule=Rule(
            criterion="kappa",
            order="lowest",
            within="model",
            budget=Budget(text=str(len(tensors)), unit="tensors", amount=len(tensors)),
        ),
        totals=Totals(
            num_tensors=len(tensors),
            num_parameters=total,
            share=total / sum(weight.numel() for weight in weights.values()),
            by_role={"other": len(tensors)},
        ),
        tensors=tensors,
        provenance=Provenance.here(),
    )


def list_tensor_names(model: Path) -> tuple[str, ...]:
    """Every tensor of a saved model."""
    return tuple(sorted(load_file(model / "model.safetensors")))


def write_text(path: Path, texts: Sequence[str] = TEXTS) -> Path:
    """A JSON Lines file of documents."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def make_recipe(folder: Path, *, names: Sequence[str] = SELECTED, **fields: Any) -> TuneRecipe:
    """A recipe in `folder`; model, Plan and text are written there unless they exist."""
    model = folder / "model"
    if not model.exists():
        save_tiny_llama(model)
    plan = folder / "plan.yaml"
    if not plan.exists():
        make_plan(model, names).write(plan)
    text = folder / "text.jsonl"
    if not text.exists():
        write_text(text)
    defaults = {
        "model": str(model),
        "plan": str(plan),
        "data": str(text),
        "output": str(folder / "run"),
        "steps": 6,
        "sequence_length": 32,
        "batch_size": 2,
        "learning_rate": 1e-2,
        "save_every": 0,
        "log_every": 2,
    }
    return build_recipe(defaults | fields)
