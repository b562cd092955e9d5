"""Old data: the one object that feeds every method that wants to know what the base model should not forget.

It holds blocks of tokens, in groups ("tasks") where several sources are given. The source may be a text of the user's,
a text that ships with oblong, or the model itself: sampled from its own start-of-text token it says what it learned,
without any of its training data (Source: Self-Synthesized Rehearsal and context-free generation, arXiv 2505.13811).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from oblong.corpora import read_documents
from oblong.errors import DataError
from oblong.methods.base_model import evaluation_mode
from oblong.methods.options import SELF_GENERATED, AnchorOptions
from oblong.models.packing import pack_documents

Autocast = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnchorData:
    """Blocks of old data.

    Attributes:
        blocks: token ids, num_blocks x sequence_length, int64.
        tasks: the group of each block, num_blocks, int64, from 0.
        sources: the name of each group; `self_generated` needs no data at all.
    """

    blocks: Tensor
    tasks: Tensor
    sources: tuple[str, ...]

    @property
    def is_data_free(self) -> bool:
        """Whether nothing but the model itself went in."""
        return set(self.sources) == {SELF_GENERATED}

    @property
    def num_tasks(self) -> int:
        """Number of groups."""
        return len(self.sources)

    def take_newest(self) -> AnchorData:
        """The last group alone."""
        chosen = self.tasks == self.num_tasks - 1
        tasks = torch.zeros_like(self.tasks[chosen])
        return AnchorData(blocks=self.blocks[chosen], tasks=tasks, sources=self.sources[-1:])

    def add_group(self, blocks: Tensor, source: str) -> AnchorData:
        """The same with one more group.

        Args:
            blocks: token ids, num_blocks x sequence_length, int64.
            source: its name.
        """
        return AnchorData(
            blocks=torch.cat([self.blocks, blocks]),
            tasks=torch.cat([self.tasks, torch.full((len(blocks),), self.num_tasks)]),
            sources=(*self.sources, source),
        )

    def draw(self, count: int, *, seed: int, step: int, task: int | None = None) -> Tensor:
        """Blocks for one step, drawn without replacement while they last.

        The draw is a function of its arguments alone, so that a resumed run draws what the uninterrupted one did.

        Returns:
            count x sequence_length, int64.
        """
        pool = self.blocks if task is None else self.blocks[self.tasks == task]
        generator = torch.Generator().manual_seed((seed * 1_000_003 + step) * 31 + (0 if task is None else task + 1))
        rounds = [torch.randperm(len(pool), generator=generator) for _ in range(-(-count // len(pool)))]
        return pool[torch.cat(rounds)[:count]] if rounds else pool[:0]

    def take(self, limit: int) -> Tensor:
        """The first blocks of every group, of each as many as of the others while it lasts, in the order given.

        Returns:
            min(limit, num_blocks) x sequence_length, int64.
        """
        ranks = torch.empty_like(self.tasks)
        for task in range(self.num_tasks):
            members = self.tasks == task
            ranks[members] = torch.arange(int(members.sum()))
        return self.blocks[ranks.argsort(stable=True)[:limit].sort().values]

    def iterate(self, *, limit: int | None = None) -> Iterator[Tensor]:
        """One block after the other, each 1 x sequence_length; see `take` for a limit."""
        for block_T in self.blocks if limit is None else self.take(limit):
            yield block_T[None]


class Reservoir:
    """A uniform sample of a stream of unknown length: the n-th item replaces a random slot with probability size / n.

    Source: Vitter 1985, algorithm R; the buffer of experience replay.
    """

    def __init__(self, size: int, *, seed: int) -> None:
        self.items: list[Any] = []
        self._size = size
        self._num_seen = 0
        self._generator = torch.Generator().manual_seed(seed)

    def add(self, item: Any) -> None:
        """See one more item of the stream."""
        self._num_seen += 1
        if len(self.items) < self._size:
            self.items.append(item)
            return
        slot = int(torch.randint(self._num_seen, (), generator=self._generator))
        if slot < self._size:
            self.items[slot] = item


def build_anchor(
    options: AnchorOptions,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    *,
    sequence_length: int,
    autocast: Autocast = nullcontext,
) -> AnchorData:
    """Read or generate old data.

    Args:
        options: where it comes from and how much of it.
        model: the base model, which generates where it is asked to.
        tokenizer: its tokenizer.
        sequence_length: tokens per block.
        autocast: makes the context of the forward passes.

    Raises:
        DataError: a text is missing, or does not fill one block.
    """
    groups = []
    for index, source in enumerate(options.sources):
        seed = options.seed + index
        if source == SELF_GENERATED:
            start = find_start_token(tokenizer)
            groups.append(generate_blocks(model, start, options, sequence_length, seed=seed, autocast=autocast))
        else:
            texts = read_documents(source, text_field=options.text_field).texts
            packed = pack_documents(texts, tokenizer, sequence_length, source=f"anchor {source}")
            groups.append(sample_blocks(packed, options.blocks, seed=seed))
    tasks = torch.cat([torch.full((len(group),), index) for index, group in enumerate(groups)])
    return AnchorData(blocks=torch.cat(groups), tasks=tasks, sources=options.sources)


def sample_blocks(blocks: Tensor, count: int, *, seed: int) -> Tensor:
    """A uniform sample of blocks, all of them if there are no more; in the order of the reservoir."""
    reservoir = Reservoir(count, seed=seed)
    for block_T in blocks:
        reservoir.add(block_T)
    return torch.stack(reservoir.items)


def find_start_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that a document starts after: start-of-text, or where a model has none, end-of-text.

    Raises:
        DataError: the tokenizer has neither.
    """
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if isinstance(token, int):
            return token
    raise DataError(
        "the model cannot generate its own old data: its tokenizer has no start-of-text or end-of-text token"
    )


@torch.no_grad()
def generate_blocks(
    model: Any, start: int, options: AnchorOptions, sequence_length: int, *, seed: int, autocast: Autocast = nullcontext
) -> Tensor:
    """Sample blocks from the model itself, each from the start token on; torch's global generators are left alone.

    An end-of-text token does not end a block: the model goes on with its next document, as in training blocks.

    Returns:
        options.blocks x sequence_length, int64, on the CPU; each starts with the start token.
    """
    generator = torch.Generator().manual_seed(seed)
    with evaluation_mode(model), autocast():
        groups = [
            _generate_batch(model, start, size, sequence_length, options.temperature, generator)
            for size in _split_evenly(options.blocks, options.batch_size)
        ]
    return torch.cat(groups)


def _generate_batch(
    model: Any, start: int, size: int, sequence_length: int, temperature: float, generator: torch.Generator
) -> Tensor:
    device = next(model.parameters()).device
    columns = [torch.full((size, 1), start)]
    cache = None
    for _ in range(sequence_length - 1):
        output = model(input_ids=columns[-1].to(device), past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        probabilities_BV = torch.softmax(output.logits[:, -1].float().cpu() / temperature, dim=-1)
        columns.append(torch.multinomial(probabilities_BV, 1, generator=generator))
    return torch.cat(columns, dim=1)


def _split_evenly(total: int, size: int) -> Sequence[int]:
    return [min(size, total - begin) for begin in range(0, total, size)]
