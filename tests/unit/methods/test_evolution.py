"""Search of prunable units: it never gets worse, finds what was planted; the pruned model is the silenced one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from oblong.errors import MethodError
from oblong.methods.evolution import choose_by_norm, cross, draw_chromosome, evolve, pick_index
from oblong.methods.feed_forward import Chromosome, find_feed_forward, list_units, prune, silence
from oblong.methods.options import EvolutionOptions
from tests.method_builders import draw_blocks, make_bigram, make_llama

OPTIONS = EvolutionOptions(groups=6, deleted=2, population=8, generations=6)


@torch.no_grad()
def compute_logits(model: torch.nn.Module) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=draw_blocks(2, seed=3)).logits
    return logits


def test_the_pruned_model_is_the_silenced_one_and_smaller() -> None:
    model = make_llama()
    model.train(False)
    blocks = find_feed_forward(model)
    chromosome: Chromosome = ((0, 5), (2, 3))
    with silence(blocks, chromosome, 6):
        silenced = compute_logits(model)
    assert not torch.allclose(compute_logits(model), silenced)
    prune(blocks, chromosome, 6)
    torch.testing.assert_close(compute_logits(model), silenced)
    for block in find_feed_forward(model):
        assert block.down.weight.shape == (16, 16)
        assert all(matrix.weight.shape == (16, 16) for matrix in block.inputs)
        assert block.down.in_features == block.up.out_features == 16


def test_the_best_fitness_never_gets_worse_and_finds_a_planted_answer() -> None:
    """The loss counts the groups that should have been deleted and were not: 0 for exactly one chromosome."""
    blocks = find_feed_forward(make_llama())
    wanted = [{1, 4}, {0, 3}]

    def measure() -> float:
        """How many of the wanted groups are not silenced."""
        missed = 0
        for block, genes in zip(blocks, wanted, strict=True):
            (hook,) = block.down._forward_pre_hooks.values()
            (masked,) = hook(block.down, (torch.ones(24),))
            missed += sum(bool(masked[list_units([gene], 24, 6)].any()) for gene in genes)
        return float(missed)

    found = evolve(blocks, measure, OPTIONS.model_copy(update={"population": 40, "generations": 30}))
    assert list(found.losses) == sorted(found.losses, reverse=True)
    assert found.losses[-1] == 0
    assert [set(genes) for genes in found.best] == wanted
    assert len(found.losses) == 31


def test_parents_are_picked_by_the_published_rule() -> None:
    """Index 0 for u = 0, below N - 1 always, and the better half far more often."""
    picks = [pick_index(10, 3.0, u) for u in np.linspace(0, 1, 2001)[:-1]]
    assert picks[0] == 0
    assert max(picks) == 8
    assert np.mean(np.array(picks) < 4.5) == pytest.approx(np.log1p(5 / 9 * np.expm1(3.0)) / 3.0, abs=1e-3)


def test_children_have_no_gene_twice_and_inherit_what_both_have() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        child = cross((0, 1, 2), (2, 0, 1), range(6), generator)
        assert len(set(child)) == 3
        assert cross((3, 4), (3, 4), range(6), generator) == (3, 4)
    drawn = draw_chromosome([range(6)] * 4, 2, generator)
    assert all(len(set(genes)) == 2 for genes in drawn)


@given(seed=st.integers(0, 2**32 - 1), num_groups=st.integers(1, 12))
def test_children_of_any_parents_have_open_genes_alone(seed: int, num_groups: int) -> None:
    generator = np.random.default_rng(seed)
    groups = [int(group) for group in generator.choice(41, num_groups, replace=False)]
    num_deleted = int(generator.integers(1, num_groups + 1))
    one, other = (tuple(int(gene) for gene in generator.permutation(groups)[:num_deleted]) for _ in range(2))
    child = cross(one, other, groups, generator)
    assert len(child) == len(set(child)) == num_deleted
    assert set(child) <= set(groups)


def test_the_norm_seeds_the_first_population() -> None:
    model = make_llama()
    blocks = find_feed_forward(model)
    with torch.no_grad():
        for matrix in blocks[0].inputs:
            matrix.weight[list_units([2, 5], 24, 6)] = 0.0
        blocks[0].down.weight[:, list_units([2, 5], 24, 6)] = 0.0
    assert set(choose_by_norm(blocks, [range(6)] * 2, OPTIONS)[0]) == {2, 5}


def test_taken_groups_are_never_chosen() -> None:
    blocks = find_feed_forward(make_llama())
    open_groups = [(0, 2, 5), (1, 3)]
    tried: list[list[set[int]]] = []

    def measure() -> float:
        """Also remember what is silent."""
        silent = []
        for block in blocks:
            (hook,) = block.down._forward_pre_hooks.values()
            (heard,) = hook(block.down, (torch.ones(24),))
            silent.append({gene for gene in range(6) if not heard[list_units([gene], 24, 6)].any()})
        tried.append(silent)
        return float(len(tried))

    evolve(blocks, measure, OPTIONS, open_groups=open_groups)
    assert len(tried) == 3  # pairs of three groups, and the only pair of two
    for silent in tried:
        assert all(len(chosen) == 2 for chosen in silent)
        assert all(chosen <= set(groups) for chosen, groups in zip(silent, open_groups, strict=True))


def test_a_choice_whose_loss_is_no_number_is_the_worst() -> None:
    losses = iter([float("nan"), 3.0, float("nan"), float("inf"), 2.0, *[float("nan")] * 100])
    found = evolve(find_feed_forward(make_llama()), lambda: next(losses), OPTIONS)
    assert found.losses == (2.0,) * 7


def test_silenced_units_put_out_zero_even_where_they_overflow() -> None:
    (block, _) = blocks = find_feed_forward(make_llama())
    with silence(blocks, ((1,), ()), 6):
        hooks = [next(iter(each.down._forward_pre_hooks.values())) for each in blocks]
        first, second = (
            hook(each.down, (torch.full((24,), torch.inf),))[0] for hook, each in zip(hooks, blocks, strict=True)
        )
    assert not first[4:8].any()
    assert bool(torch.isinf(first[8:]).all())
    assert bool(torch.isinf(second).all())
    assert not block.down._forward_pre_hooks


def test_what_cannot_be_pruned_is_refused() -> None:
    with pytest.raises(MethodError, match="up_proj"):
        find_feed_forward(make_bigram())
    with pytest.raises(ValidationError, match="less than groups"):
        EvolutionOptions(groups=4, deleted=4)
