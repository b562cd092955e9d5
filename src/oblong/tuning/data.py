"""Documents become equal blocks of tokens, in an order that the seed decides.

The order is data, not the state of a sampler: item i of `TrainingBlocks` is the same block in every process, however
often the run was interrupted. Each pass over the text is its own permutation, and passes follow without a gap, so that
every optimizer step sees the same number of tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from oblong.corpora import Documents, read_documents
from oblong.models.packing import pack_documents
from oblong.tuning.recipe import DataRecipe, TuneRecipe


def read_training_text(data: DataRecipe) -> Documents:
    """The documents that a recipe names.

    Raises:
        DataError: see `read_documents`.
    """
    return read_documents(data.source, text_field=data.text_field, split=data.split, skip=data.skip, limit=data.limit)


class TrainingBlocks(Dataset[Mapping[str, torch.Tensor]]):
    """Blocks in training order, as many as the run will use.

    Attributes:
        blocks: token ids, num_blocks x sequence_length, int64.
        order: index into `blocks` of each training item, int64.
    """

    def __init__(self, blocks: torch.Tensor, order: torch.Tensor) -> None:
        self.blocks = blocks
        self.order = order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> Mapping[str, torch.Tensor]:
        block_T = self.blocks[self.order[index]]
        return {"input_ids": block_T, "labels": block_T}


def order_blocks(num_blocks: int, num_items: int, *, seed: int) -> torch.Tensor:
    """Which block each training item is: one fresh permutation per pass, cut to `num_items`. Returns int64 indices."""
    generator = torch.Generator().manual_seed(seed)
    num_passes = math.ceil(num_items / num_blocks)
    passes = [torch.randperm(num_blocks, generator=generator) for _ in range(num_passes)]
    return torch.cat(passes)[:num_items]


def count_steps(recipe: TuneRecipe, num_blocks: int) -> int:
    """Optimizer steps of a run: as given, or enough for the epochs, rounded up."""
    if recipe.steps is not None:
        return recipe.steps
    if recipe.epochs is None:
        raise ValueError("a recipe has steps or epochs")
    return max(1, math.ceil(recipe.epochs * num_blocks / recipe.blocks_per_step))


def build_training_blocks(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, recipe: TuneRecipe
) -> tuple[TrainingBlocks, int]:
    """The training data of a recipe, and its number of optimizer steps.

    Raises:
        DataError: see `pack_documents`.
    """
    blocks = pack_documents(texts, tokenizer, recipe.sequence_length, source=recipe.data.source)
    num_steps = count_steps(recipe, len(blocks))
    order = order_blocks(len(blocks), num_steps * recipe.blocks_per_step, seed=recipe.seed)
    return TrainingBlocks(blocks, order), num_steps
