"""Documents become equal blocks of tokens, in an order that the seed decides.

Documents are tokenised as the tokenizer prepares a text, an end-of-text token is put after each, and the stream is cut
into blocks; what is left at its end is dropped. A block may hold the end of one document and the start of the next, and
attention crosses that border, as is usual in continued pre-training.

The order is data, not the state of a sampler: item i of `TrainingBlocks` is the same block in every process, however
often the run was interrupted. Each pass over the text is its own permutation, and passes follow without a gap, so that
every optimizer step sees the same number of tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from oblong.errors import DataError
from oblong.tuning.recipe import TuneRecipe


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


def pack_documents(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, sequence_length: int, *, source: str
) -> torch.Tensor:
    """Tokenise and cut into blocks.

    Args:
        texts: documents in order.
        tokenizer: must have an end-of-text token.
        sequence_length: tokens per block.
        source: where the text came from, for messages.

    Returns:
        Token ids, num_blocks x sequence_length, int64; num_blocks >= 1.

    Raises:
        DataError: the tokenizer has no end-of-text token, or the text does not fill one block.
    """
    stream = [token for text in texts for token in _tokenise(text, tokenizer)]
    num_blocks = len(stream) // sequence_length
    if num_blocks == 0:
        raise DataError(
            f"{source}: {len(stream)} tokens do not fill one block of {sequence_length}: "
            "give more text or a smaller sequence_length"
        )
    return torch.tensor(stream[: num_blocks * sequence_length]).reshape(num_blocks, sequence_length)


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


def _tokenise(text: str, tokenizer: PreTrainedTokenizerBase) -> Iterator[int]:
    end = tokenizer.eos_token_id
    if not isinstance(end, int):
        raise DataError("the model's tokenizer has no end-of-text token to put between documents")
    # verbose=False: a document longer than the model's context is normal here, it will be cut into blocks.
    tokens: list[int] = tokenizer(text, verbose=False)["input_ids"]
    yield from tokens
    if not tokens or tokens[-1] != end:
        yield end
