"""Text to blocks: nothing lost but the tail, and an order that only the seed decides."""

from __future__ import annotations

import pytest
import torch

from oblong.errors import DataError
from oblong.models.packing import pack_documents
from oblong.tuning.data import TrainingBlocks, build_training_blocks, count_steps, order_blocks
from oblong.tuning.recipe import build_recipe
from tests.tuning_builders import make_tokenizer

RECIPE = {"model": "m", "plan": "p", "data": "text", "output": "o", "sequence_length": 4, "batch_size": 2}
END = 256


def test_documents_are_separated_and_cut_into_blocks() -> None:
    tokenizer = make_tokenizer()
    blocks = pack_documents(["abc", "defgh"], tokenizer, 4, source="text")
    # 3 letters + end + 5 letters + end = 10 tokens = 2 blocks of 4, and 2 tokens dropped
    letters = [tokenizer.convert_tokens_to_ids(letter) for letter in "abcdefgh"]
    assert blocks.tolist() == [[*letters[:3], END], letters[3:7]]
    assert blocks.dtype == torch.int64


def test_too_little_text_says_how_little() -> None:
    with pytest.raises(DataError, match=r"text: 4 tokens do not fill one block of 512: give more text"):
        pack_documents(["abc"], make_tokenizer(), 512, source="text")


def test_a_tokenizer_without_end_is_refused() -> None:
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(DataError, match="no end-of-text token"):
        pack_documents(["abc"], tokenizer, 2, source="text")


def test_each_pass_is_a_permutation_and_the_next_is_another() -> None:
    order = order_blocks(20, 50, seed=0)
    assert sorted(order[:20].tolist()) == sorted(order[20:40].tolist()) == list(range(20))
    assert order[:20].tolist() != order[20:40].tolist()
    assert len(order) == 50


def test_the_seed_and_only_the_seed_decides_the_order() -> None:
    torch.manual_seed(1)
    first = order_blocks(20, 30, seed=5)
    torch.manual_seed(2)
    assert torch.equal(first, order_blocks(20, 30, seed=5))
    assert not torch.equal(first, order_blocks(20, 30, seed=6))
    assert torch.equal(first[:10], order_blocks(20, 10, seed=5))


@pytest.mark.parametrize(("length", "steps"), [({"steps": 7}, 7), ({"epochs": 1}, 6), ({"epochs": 0.01}, 1)])
def test_number_of_steps(length: dict[str, float], steps: int) -> None:
    # 11 blocks, 2 per step: one epoch is 5.5 steps, rounded up to 6
    assert count_steps(build_recipe(RECIPE | length), 11) == steps


def test_a_run_has_exactly_the_items_of_its_steps() -> None:
    recipe = build_recipe(RECIPE | {"steps": 3, "gradient_accumulation": 2})
    blocks, num_steps = build_training_blocks(["abcdefghijklm"], make_tokenizer(), recipe)
    assert (num_steps, len(blocks)) == (3, 12)
    item = blocks[0]
    assert item["input_ids"].shape == (4,)
    assert torch.equal(item["input_ids"], item["labels"])


def test_items_follow_the_order() -> None:
    blocks = TrainingBlocks(torch.arange(6).reshape(3, 2), torch.tensor([2, 0]))
    assert [blocks[index]["input_ids"].tolist() for index in range(2)] == [[4, 5], [0, 1]]
