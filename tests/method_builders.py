"""Models small enough for closed forms, and trainings of a tiny Llama: what the tests of methods are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM, PrinterCallback, TrainingArguments

from oblong.methods import AnchorData, MethodOptions, MethodTrainer, build_method
from oblong.methods.protocol import Method, Training
from tests.tiny_configs import make_llama_config

VOCABULARY = 11
LENGTH = 12
TRAINED = ("model.layers.0.mlp.down_proj.weight", "model.layers.1.self_attn.v_proj.weight", "model.norm.weight")


@dataclass
class Output:
    """What a language model returns."""

    logits: Tensor
    hidden_states: Sequence[Tensor] = ()


class Bigram(nn.Module):
    """Logits after token u are column u of W, so every gradient has a closed form."""

    def __init__(self, weight_VU: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight_VU.clone())

    def forward(self, input_ids: Tensor, **_: Any) -> Output:
        return Output(logits=self.weight.T[input_ids])


def make_bigram(seed: int = 0, vocabulary: int = 5) -> Bigram:
    generator = torch.Generator().manual_seed(seed)
    return Bigram(torch.randn(vocabulary, vocabulary, generator=generator))


def make_anchor(blocks_NT: Tensor, *, num_tasks: int = 1) -> AnchorData:
    tasks = torch.arange(len(blocks_NT)) % num_tasks
    return AnchorData(blocks=blocks_NT, tasks=tasks, sources=tuple(f"task {index}" for index in range(num_tasks)))


def make_training(model: nn.Module, blocks_NT: Tensor | None = None, **fields: Any) -> Training:
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    anchor = None if blocks_NT is None else make_anchor(blocks_NT, num_tasks=fields.pop("num_tasks", 1))
    return Training(model=model, trained=trained, anchor=anchor, **fields)


def draw_blocks(num_blocks: int, *, seed: int, length: int = LENGTH, vocabulary: int = VOCABULARY) -> Tensor:
    return torch.randint(vocabulary, (num_blocks, length), generator=torch.Generator().manual_seed(seed))


def make_llama(*, trained: Sequence[str] = TRAINED, dropout: float = 0.0, seed: int = 0) -> LlamaForCausalLM:
    """2 layers, d 16, float32; only the named tensors train."""
    config = make_llama_config(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
        attention_dropout=dropout,
        bos_token_id=None,
        eos_token_id=0,
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    return model


def make_items(num_items: int, *, seed: int = 1) -> list[Mapping[str, Tensor]]:
    return [{"input_ids": block_T, "labels": block_T} for block_T in draw_blocks(num_items, seed=seed)]


def make_trainer(
    folder: Path,
    model: nn.Module,
    method: Method | MethodOptions,
    *,
    num_tasks: int = 1,
    num_steps: int = 4,
    **arguments: Any,
) -> MethodTrainer:
    """A Trainer over fixed items in a seeded order, with dropout as the model has it."""
    options: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": num_steps,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-2,
        "optim": "adamw_torch",
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "log_level": "critical",
        "logging_steps": 1,
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
        "seed": 3,
    }
    trainer = MethodTrainer(
        model=model,
        args=TrainingArguments(**(options | arguments)),
        train_dataset=make_items(4 * num_steps),
        data_collator=stack,
        method=build_method(method) if isinstance(method, MethodOptions) else method,
        anchor=make_anchor(draw_blocks(6, seed=9), num_tasks=num_tasks),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def stack(items: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
