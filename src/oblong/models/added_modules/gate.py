"""An expert gate: which of the tasks does a text look like, or the old data of the base?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from oblong.errors import MethodError

POOLED_AT_A_TIME: Final = 64  # sequences: the embeddings of a whole training text would not fit in memory


class ExpertGate:
    """Sends a sequence to the expert whose training data it looks like, or to the base.

    Each expert is a Gaussian over mean embeddings of its data, of one shared diagonal variance; the base is one of
    them, fitted on old data. The Gaussian stands for the autoencoder of the paper (Aljundi, Chakravarty and Tuytelaars
    2017): both score how usual an input is.

    Args:
        base: the model whose input embeddings are pooled.
    """

    def __init__(self, base: Any) -> None:
        self._base = base
        self._means: list[Tensor] = []
        self._scatter: list[Tensor] = []
        self._counts: list[int] = []

    @property
    def num_fitted(self) -> int:
        """Experts that have been fitted, the base among them."""
        return len(self._means)

    def add(self, blocks_NT: Tensor) -> int:
        """Fit the next expert on its data (the first one is the base's old data); returns its number."""
        parts = torch.split(blocks_NT, POOLED_AT_A_TIME)
        device = self._base.get_input_embeddings().weight.device
        pooled_ND = torch.cat([pool_embeddings(self._base, part.to(device), None).double().cpu() for part in parts])
        mean_D = pooled_ND.mean(0)
        self._means.append(mean_D)
        self._scatter.append((pooled_ND - mean_D).square().sum(0))
        self._counts.append(len(pooled_ND))
        return len(self._means) - 1

    def choose(self, input_ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """The expert of each sequence: batch, int64; 0 is the base.

        Raises:
            MethodError: nothing has been fitted.
        """
        return self.choose_pooled(pool_embeddings(self._base, input_ids, mask))

    def choose_pooled(self, pooled_BD: Tensor) -> Tensor:
        """The same for sequences whose embeddings have been averaged."""
        if not self._means:
            raise MethodError("an expert gate must see the base's old data first: call add")
        pooled_BD = pooled_BD.double()
        variance_D = (torch.stack(self._scatter).sum(0) / max(1, sum(self._counts)) + 1e-12).to(pooled_BD.device)
        distances = [((pooled_BD - mean.to(pooled_BD.device)).square() / variance_D).sum(-1) for mean in self._means]
        return torch.stack(distances, dim=-1).argmin(-1)

    def state_dict(self) -> dict[str, Tensor]:
        """Means and scatter (experts x width, float64) and counts; empty before anything was fitted."""
        if not self._means:
            return {}
        return {
            "means": torch.stack(self._means),
            "scatter": torch.stack(self._scatter),
            "counts": torch.tensor(self._counts),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over `state_dict` of a gate over the same embeddings."""
        self._means = list(state["means"].unbind())
        self._scatter = list(state["scatter"].unbind())
        self._counts = state["counts"].tolist()


@torch.no_grad()
def pool_embeddings(base: Any, input_ids: Tensor, mask: Tensor | None) -> Tensor:
    """Mean input embedding of each sequence, padding left out: batch x width, float32."""
    return pool_embedded(base.get_input_embeddings()(input_ids), mask)


@torch.no_grad()
def pool_embedded(embedded_BTD: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the positions that a mask (batch x sequence_length) keeps: batch x width, float32."""
    weights_BT1 = torch.ones_like(embedded_BTD[..., :1]).float() if mask is None else mask.float()[..., None]
    pooled: Tensor = (embedded_BTD.float() * weights_BT1).sum(1) / weights_BT1.sum(1).clamp_min(1)
    return pooled
