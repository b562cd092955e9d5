"""Checkpoints of the shapes of well-known models, with planted spectra: what a scan finds can be checked exactly.

    python -m benchmarks.planted_models llama8b|olmoe|mixtral FOLDER [--layers N]

Writes sharded safetensors in bfloat16 with an index and a configuration, a few rows at a time, and `planted.json` with
the truth of every matrix, last: a folder that has it is whole and is not written again. Everything is seeded.

    llama8b  Llama-3-8B: 32 layers, 4096 wide, 14336 in the MLP, 32 heads over 8 key-value heads, vocabulary 128256,
             untied output layer: 16.1 GB
    olmoe    OLMoE-1B-7B: 16 layers of 64 experts, 2048 wide, 1024 in each expert, fused as transformers 5 stores
             them: 13.8 GB
    mixtral  Mixtral-8x7B: 32 layers of 8 experts, 4096 wide, 14336 in each expert, fused: 93.4 GB (for a GPU's machine)
"""

from __future__ import annotations

import argparse
import json
import math
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.planted import Planted, Truth, plant

SEED = 20250625
FORMAT = 1
TRUTH_NAME = "planted.json"
INDEX_NAME = "model.safetensors.index.json"
SHARD_BYTES = 2 << 30
ONE = np.uint16(0x3F80)

KAPPAS = (4.0, 200.0)
SQUARE_KAPPAS = (1e3, 1e5)
EMBEDDING_KAPPAS = (5.0, 1e3)
"""Condition numbers are drawn between these, evenly in the logarithm. Square matrices have larger ones, as in real
models."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One stored tensor; `units` names its matrices as a scan does, with their shapes, from its first byte to its last.

    A vector has none: it is all ones.
    """

    name: str
    shape: tuple[int, ...]
    units: tuple[tuple[str, tuple[int, int]], ...] = ()

    @property
    def num_bytes(self) -> int:
        """Stored size."""
        return 2 * math.prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The shapes of a model as its configuration gives them."""

    config: Mapping[str, Any]

    def change(self, **config: Any) -> Model:
        """The same with other numbers, such as fewer layers."""
        return Model(config={**self.config, **config})

    @property
    def layers(self) -> range:
        """Numbers of the layers."""
        return range(self.config["num_hidden_layers"])

    @property
    def num_experts(self) -> int:
        """Experts of a layer; 0 where the MLP is dense."""
        return int(self.config.get("num_local_experts") or self.config.get("num_experts") or 0)

    def list_tensors(self) -> list[Tensor]:
        """Every tensor, in the order of their bytes."""
        width, vocabulary = self.config["hidden_size"], self.config["vocab_size"]
        layers = [tensor for layer in self.layers for tensor in self.list_layer(f"model.layers.{layer}")]
        return [
            make_matrix("model.embed_tokens.weight", vocabulary, width),
            *layers,
            Tensor(name="model.norm.weight", shape=(width,)),
            make_matrix("lm_head.weight", vocabulary, width),
        ]

    def list_layer(self, prefix: str) -> Iterator[Tensor]:
        """The tensors of one layer."""
        width, hidden = self.config["hidden_size"], self.config["intermediate_size"]
        keys = width * self.config["num_key_value_heads"] // self.config["num_attention_heads"]
        yield Tensor(name=f"{prefix}.input_layernorm.weight", shape=(width,))
        for part, rows in (("q", width), ("k", keys), ("v", keys), ("o", width)):
            yield make_matrix(f"{prefix}.self_attn.{part}_proj.weight", rows, width)
        yield Tensor(name=f"{prefix}.post_attention_layernorm.weight", shape=(width,))
        if not self.num_experts:
            for part, shape in (("gate", (hidden, width)), ("up", (hidden, width)), ("down", (width, hidden))):
                yield make_matrix(f"{prefix}.mlp.{part}_proj.weight", *shape)
            return
        yield make_matrix(f"{prefix}.mlp.gate.weight", self.num_experts, width)
        yield make_gate_up(f"{prefix}.mlp.experts.gate_up_proj", self.num_experts, hidden, width)
        yield make_down(f"{prefix}.mlp.experts.down_proj", self.num_experts, width, hidden)


MODELS = {
    "llama8b": Model(
        config={
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "num_hidden_layers": 32,
            "vocab_size": 128256,
            "tie_word_embeddings": False,
            "dtype": "bfloat16",
        }
    ),
    "olmoe": Model(
        config={
            "architectures": ["OlmoeForCausalLM"],
            "model_type": "olmoe",
            "hidden_size": 2048,
            "intermediate_size": 1024,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "num_hidden_layers": 16,
            "num_experts": 64,
            "vocab_size": 50304,
            "tie_word_embeddings": False,
            "dtype": "bfloat16",
        }
    ),
    "mixtral": Model(
        config={
            "architectures": ["MixtralForCausalLM"],
            "model_type": "mixtral",
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "num_hidden_layers": 32,
            "num_local_experts": 8,
            "vocab_size": 32000,
            "tie_word_embeddings": False,
            "dtype": "bfloat16",
        }
    ),
}


def make_matrix(name: str, rows: int, columns: int) -> Tensor:
    """A tensor that is one matrix."""
    return Tensor(name=name, shape=(rows, columns), units=((name, (rows, columns)),))


def make_gate_up(name: str, num_experts: int, hidden: int, width: int) -> Tensor:
    """A stack of experts whose rows are first gate, then up."""
    experts = range(num_experts)
    parts = tuple((f"{name}[expert.{e}.{part}]", (hidden, width)) for e in experts for part in ("gate", "up"))
    return Tensor(name=name, shape=(num_experts, 2 * hidden, width), units=parts)


def make_down(name: str, num_experts: int, width: int, hidden: int) -> Tensor:
    """A stack of experts, one matrix each."""
    parts = tuple((f"{name}[expert.{expert}]", (width, hidden)) for expert in range(num_experts))
    return Tensor(name=name, shape=(num_experts, width, hidden), units=parts)


def plant_unit(name: str, shape: tuple[int, int]) -> Planted:
    """The matrix of a unit: its name decides it, so that models of fewer layers have the same ones."""
    generator = np.random.default_rng((SEED, zlib.crc32(name.encode())))
    low, high = SQUARE_KAPPAS if shape[0] == shape[1] else KAPPAS
    if max(shape) > 8 * min(shape):
        low, high = EMBEDDING_KAPPAS
    return plant(shape, math.exp(generator.uniform(math.log(low), math.log(high))), generator)


def ensure_model(folder: Path, model: Model) -> dict[str, Truth]:
    """Write a planted model unless it is there already.

    Args:
        folder: where to; safetensors files that are there already go.
        model: one of `MODELS`, or a changed one.

    Returns:
        The truth of every matrix, by the name of its unit.
    """
    wanted = {"format": FORMAT, "seed": SEED, "config": dict(model.config)}
    marker = folder / TRUTH_NAME
    if marker.exists():
        known = json.loads(marker.read_text())
        if known["made_from"] == wanted:
            return {name: Truth(**truth) for name, truth in known["truth"].items()}
        marker.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    truth = write_shards(folder, model.list_tensors())
    (folder / "config.json").write_text(json.dumps(model.config, indent=1) + "\n")
    found = {"made_from": wanted, "truth": {name: asdict(one) for name, one in truth.items()}}
    marker.write_text(json.dumps(found, indent=1) + "\n")
    return truth


def write_shards(folder: Path, tensors: Sequence[Tensor]) -> dict[str, Truth]:
    """Write the shards and their index; returns the truth."""
    for old in folder.glob("*.safetensors"):
        old.unlink()
    shards = list(cut_shards(tensors))
    truth: dict[str, Truth] = {}
    weight_map: dict[str, str] = {}
    for number, members in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        truth |= write_shard(folder / file, members)
        weight_map |= dict.fromkeys((tensor.name for tensor in members), file)
    index = {"metadata": {"total_size": sum(tensor.num_bytes for tensor in tensors)}, "weight_map": weight_map}
    (folder / INDEX_NAME).write_text(json.dumps(index, indent=1) + "\n")
    return truth


def cut_shards(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Consecutive groups of at most SHARD_BYTES, or of one larger tensor."""
    group: list[Tensor] = []
    for tensor in tensors:
        if group and sum(member.num_bytes for member in group) + tensor.num_bytes > SHARD_BYTES:
            yield group
            group = []
        group.append(tensor)
    yield group


def write_shard(path: Path, tensors: Sequence[Tensor]) -> dict[str, Truth]:
    """Write one safetensors file; returns the truth of its matrices."""
    header: dict[str, Any] = {}
    offset = 0
    for tensor in tensors:
        offsets = [offset, offset + tensor.num_bytes]
        header[tensor.name] = {"dtype": "BF16", "shape": tensor.shape, "data_offsets": offsets}
        offset += tensor.num_bytes
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    truth: dict[str, Truth] = {}
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for tensor in tensors:
            if not tensor.units:
                file.write(np.full(tensor.shape, ONE).tobytes())
            for name, shape in tensor.units:
                planted = plant_unit(name, shape)
                truth[name] = planted.compute_truth()
                for block in planted.iter_rows():
                    file.write(block.data)
    return truth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=sorted(MODELS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, help="as many as the real model by default")
    arguments = parser.parse_args()
    model = MODELS[arguments.model]
    start = time.perf_counter()
    truth = ensure_model(
        arguments.folder, model.change(num_hidden_layers=arguments.layers) if arguments.layers else model
    )
    kappas = sorted(one.kappa for one in truth.values())
    seconds = time.perf_counter() - start
    print(f"{len(truth)} matrices, kappa {kappas[0]:.3g} to {kappas[-1]:.3g}, in {seconds:.1f} s: {arguments.folder}")


if __name__ == "__main__":
    main()
