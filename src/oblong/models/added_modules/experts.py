"""Experts over a frozen base: low-rank updates of which a gate or a router chooses, the base always among them.

    y = W x + sum_e p_e B_e A_e x,    p over the base (expert 0, no update) and experts 1 to E, one p per sequence

Source: expert gates: Aljundi, Chakravarty and Tuytelaars 2017; routing: Rosenbaum, Klinger and Riemer 2018, here with
differentiable routers per sequence (Jang et al. 2017 for Gumbel-softmax). B starts at zero, so with any p a new expert
leaves the model as it is bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from oblong.errors import MethodError
from oblong.models.added_modules.attached import AddedModules, Hook
from oblong.records.run import ModulesKind, Routing

DRAWS: Final = "draws"


class Choice(NamedTuple):
    """The share of each expert in each sequence (batch x (1 + experts)), and the experts that any sequence hears."""

    shares: Tensor
    experts: tuple[int, ...]


class Updates(nn.Module):
    """The low-rank updates of one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.readers = nn.ParameterList()
        self.writers = nn.ParameterList()

    def add(self, inputs: int, outputs: int, rank: int, generator: torch.Generator) -> None:
        """Put one more expert here; A is drawn, B zero."""
        self.readers.append(nn.Parameter(torch.randn(rank, inputs, generator=generator) / inputs**0.5))
        self.writers.append(nn.Parameter(torch.zeros(outputs, rank)))

    def forward(self, output_BTO: Tensor, hidden_BTD: Tensor, choice: Choice) -> Tensor:
        """A layer's output with its updates; a sequence that is all the base's is left alone bit for bit."""
        for expert in choice.experts:
            share_B11 = choice.shares[:, expert, None, None]
            update = hidden_BTD.float() @ self.readers[expert - 1].T @ self.writers[expert - 1].T
            output_BTO = output_BTO + (share_B11 * update).to(output_BTO.dtype)
        return output_BTO


def list_heard(weights_BE: Tensor) -> tuple[int, ...]:
    """Experts that any sequence hears; all, where a router learns from what those it left out would have said."""
    if weights_BE.requires_grad:
        return tuple(range(1, weights_BE.shape[1]))
    heard = (weights_BE != 0).any(0).tolist()
    return tuple(expert for expert in range(1, len(heard)) if heard[expert])


def choose_hard(logits_BE: Tensor, noise: torch.Generator | None) -> Tensor:
    """One expert per sequence, with the gradient of the softmax; with noise the choice is a draw from it.

    Source: Jang, Gu and Poole 2017, the straight-through Gumbel-softmax estimator.
    """
    noisy = logits_BE
    if noise is not None:
        uniform = torch.rand(logits_BE.shape, generator=noise).clamp_(1e-9, 1 - 1e-7)
        noisy = logits_BE - (-uniform.log()).log().to(logits_BE.device)
    soft = torch.softmax(noisy, dim=-1)
    hard = functional.one_hot(noisy.argmax(-1), logits_BE.shape[-1]).to(soft.dtype)
    return hard + soft - soft.detach()


class Experts(AddedModules):
    """An expert per task; see `AddedModules`.

    A router (`softmax`, `gumbel`) trains with the newest expert and may change what it sends where; a told task is
    answered by its expert alone, which does not change.

    Args:
        model: the base.
        targets: last components of the names of linear layers that get experts.
        routing: see `AddedModules`.

    Raises:
        MethodError: no linear layer is called so.
    """

    kind: ClassVar[ModulesKind] = "experts"
    state: Choice | None

    def __init__(self, model: Any, *, targets: Sequence[str], routing: Routing = "gate") -> None:
        super().__init__(model, routing=routing)
        self._targets = tuple(targets)
        self._layers = find_linear(model, targets)
        self.updates = nn.ModuleList(Updates() for _ in self._layers)
        self.router = self._make_router(1) if routing in ("softmax", "gumbel") else None
        # Counted in a parameter, so that a resumed training draws on where it was.
        self.draws = nn.Parameter(torch.zeros((), dtype=torch.int64), requires_grad=False)

    @property
    def targets(self) -> tuple[str, ...]:
        """Last components of the names of layers that have experts."""
        return self._targets

    def has_learned(self) -> bool:
        """Whether the newest expert's B is no longer zero."""
        updates: Any = self.updates
        return any(bool(layer.writers[-1].any()) for layer in updates)

    def is_of_a_task(self, name: str) -> bool:
        """Whether a tensor belongs to one expert; a router is all tasks'."""
        return name.startswith("updates.")

    def _add_part(self, rank: int, generator: torch.Generator) -> None:
        for layer, updates in zip(self._layers, self.updates, strict=True):
            part: Any = updates
            part.add(layer.in_features, layer.out_features, rank, generator)
        if self.router is not None:
            grown = self._make_router(self.router.out_features + 1)
            with torch.no_grad():
                grown.weight[:-1] = self.router.weight
                grown.bias[:-1] = self.router.bias
            self.router = grown

    def _make_router(self, num_experts: int) -> nn.Linear:
        """All logits zero, so that at first everyone has the same share."""
        embedding = self.model.get_input_embeddings().weight
        router = nn.Linear(embedding.shape[1], num_experts, device=embedding.device)
        nn.init.zeros_(router.weight)
        nn.init.zeros_(router.bias)
        return router

    def _hook_layers(self) -> list[Any]:
        return [
            layer.register_forward_hook(self._make_update(updates))
            for layer, updates in zip(self._layers, self.updates, strict=True)
        ]

    def _make_update(self, updates: nn.Module) -> Hook:
        def hook(layer: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor | None:
            return None if self.state is None else updates(output, arguments[0], self.state)

        return hook

    def _prepare(self, choice_BE: Tensor, inputs: dict[str, Any]) -> tuple[Choice | None, dict[str, Any]]:
        heard = list_heard(choice_BE)
        return (Choice(choice_BE, heard) if heard else None), inputs

    def _route(self, pooled_BD: Tensor) -> Tensor:
        if self.router is None:
            return super()._route(pooled_BD)
        logits_BE: Tensor = self.router(pooled_BD)
        if self.routing == "softmax":
            return torch.softmax(logits_BE, dim=-1)
        return choose_hard(logits_BE, self._draw_noise() if self.training else None)

    def _draw_noise(self) -> torch.Generator:
        noise = torch.Generator().manual_seed((self.seed << 12) ^ int(self.draws))
        with torch.no_grad():
            self.draws.add_(1)
        return noise

    def _list_passing(self) -> frozenset[str]:
        return frozenset({DRAWS})


def find_linear(model: nn.Module, targets: Sequence[str]) -> list[nn.Linear]:
    """The linear layers whose last name is a target, in order.

    Raises:
        MethodError: there is none.
    """
    modules = model.named_modules()
    found = [module for path, module in modules if path.rpartition(".")[2] in targets and isinstance(module, nn.Linear)]
    if not found:
        raise MethodError(f"no linear layer is called {' or '.join(targets)}: name other targets")
    return found
