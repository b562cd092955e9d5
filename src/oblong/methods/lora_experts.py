"""Experts over a frozen base: low-rank updates of which a gate or a router chooses, the base always among them.

    y = W x + sum_e p_e B_e A_e x,    p over experts 1 to E and the base (expert 0, no update), one p per sequence

`routing` says how p comes about: given from outside (a task id, an `ExpertGate`), or by a router that is trained with
the experts: softmax, or Gumbel-softmax with hard choices.

Source: expert gates: Aljundi, Chakravarty and Tuytelaars 2017; routing: Rosenbaum, Klinger and Riemer 2018, whose
routers are trained by reward, per layer. Differentiable routers per sequence (Jang et al. 2017 for Gumbel-softmax) are
what fits a language model; a router that learns by reward which expert serves which task is in `weighted_policy.py`. B
starts at zero, so with any p the model starts as the base bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from oblong.errors import MethodError
from oblong.models.added_modules.experts import Choice, Updates, choose_hard, list_heard
from oblong.models.added_modules.gate import ExpertGate, pool_embeddings

__all__ = ["BASE_EXPERT", "ExpertGate", "ExpertLinear", "LoraExperts", "pool_embeddings", "replace_linear"]

BASE_EXPERT = 0


class ExpertLinear(nn.Module):
    """A frozen linear layer with low-rank updates.

    Attributes:
        weights_BE: the share of each expert in each sequence; set by `LoraExperts`.
    """

    def __init__(self, base: nn.Linear, num_experts: int, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.base = base
        self.updates = Updates()
        for _ in range(num_experts):
            self.updates.add(base.in_features, base.out_features, rank, generator)
        self.weights_BE: Tensor | None = None

    @property
    def readers(self) -> nn.ParameterList:
        """A of each expert."""
        return self.updates.readers

    @property
    def writers(self) -> nn.ParameterList:
        """B of each expert."""
        return self.updates.writers

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        """W x and the chosen updates; a sequence that is all the base's is left alone bit for bit."""
        output: Tensor = self.base(hidden_BTD)
        if self.weights_BE is None:
            return output
        chosen: Tensor = self.updates(output, hidden_BTD, Choice(self.weights_BE, list_heard(self.weights_BE)))
        return chosen


class LoraExperts(nn.Module):
    """A causal language model whose chosen linear layers have experts.

    Args:
        base: the model; frozen, and its layers replaced in place.
        targets: last components of the names of linear layers that get experts.
        num_experts: besides the base.
        rank: of each update.
        routing: `given` from outside, or `softmax` or `gumbel` by a router that trains along.
        seed: of the experts' and the router's weights and of the Gumbel noise.

    Attributes:
        choice_BE: the shares of the last call, batch x (1 + num_experts); column 0 is the base.
    """

    def __init__(
        self,
        base: Any,
        *,
        targets: Sequence[str] = ("q_proj", "v_proj"),
        num_experts: int = 2,
        rank: int = 8,
        routing: Literal["given", "softmax", "gumbel"] = "given",
        seed: int = 0,
    ) -> None:
        super().__init__()
        base.requires_grad_(False)
        generator = torch.Generator().manual_seed(seed)
        self._layers = replace_linear(base, targets, num_experts, rank, generator)
        self.base = base
        self.num_experts = num_experts
        self.routing = routing
        self.choice_BE: Tensor | None = None
        self._noise = torch.Generator().manual_seed(seed + 1)
        width = base.get_input_embeddings().weight.shape[1]
        self.router = None if routing == "given" else nn.Linear(width, 1 + num_experts)
        if self.router is not None:
            nn.init.zeros_(self.router.weight)
            nn.init.zeros_(self.router.bias)

    def forward(self, input_ids: Tensor, experts: Tensor | None = None, **inputs: Any) -> Any:
        """Run the model.

        Args:
            input_ids: batch x sequence_length.
            experts: the expert of each sequence (0 is the base), for `given` routing; None is the base for all.
            inputs: further inputs of the base model.

        Raises:
            MethodError: an expert that does not exist.
        """
        self.choice_BE = self._choose(input_ids, experts, inputs.get("attention_mask"))
        with self._choosing(self.choice_BE):
            return self.base(input_ids=input_ids, **inputs)

    def train_only(self, expert: int) -> None:
        """Freeze every expert but one; a router keeps training."""
        for layer in self._layers:
            for index, pair in enumerate(zip(layer.readers, layer.writers, strict=True), start=1):
                for parameter in pair:
                    parameter.requires_grad_(index == expert)

    def _choose(self, input_ids: Tensor, experts: Tensor | None, mask: Tensor | None) -> Tensor:
        if self.router is None:
            chosen = torch.zeros(len(input_ids), dtype=torch.int64) if experts is None else experts
            if bool(((chosen < 0) | (chosen > self.num_experts)).any()):
                raise MethodError(f"there are experts 0 (the base) to {self.num_experts}, not {chosen.tolist()}")
            return functional.one_hot(chosen.to(input_ids.device), 1 + self.num_experts).float()
        logits = self.router(pool_embeddings(self.base, input_ids, mask))
        if self.routing == "softmax":
            return torch.softmax(logits, dim=-1)
        return choose_hard(logits, self._noise if self.training else None)

    @contextmanager
    def _choosing(self, weights_BE: Tensor) -> Iterator[None]:
        for layer in self._layers:
            layer.weights_BE = weights_BE
        try:
            yield
        finally:
            for layer in self._layers:
                layer.weights_BE = None


def replace_linear(
    model: nn.Module, targets: Sequence[str], num_experts: int, rank: int, generator: torch.Generator
) -> list[ExpertLinear]:
    """Put experts into the linear layers whose last name is a target; returns them in order.

    Raises:
        MethodError: there is no such layer.
    """
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if name in targets and isinstance(child, nn.Linear)
    ]
    if not found:
        raise MethodError(f"no linear layer is called {' or '.join(targets)}: name other targets")
    layers = []
    for parent, name, child in found:
        layer = ExpertLinear(child, num_experts, rank, generator).to(child.weight.device)
        setattr(parent, name, layer)
        layers.append(layer)
    return layers
