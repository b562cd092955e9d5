"""What methods add to a step of stage B: each against an independent computation."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from oblong.methods import AnchorData
from oblong.methods.anchor_losses import compute_anchor_gradients, compute_inner_product
from oblong.methods.gem import GradientEpisodicMemory
from oblong.models.causal_lm import load_causal_lm
from oblong.speech.training import train_speech
from oblong.speech.training.batches import SpeechBatch
from oblong.speech.training.forecast import forecast_training
from oblong.speech.training.holding import Held, describe_reading, hold
from oblong.speech.training.processes import Processes
from oblong.speech.training.stage import Workbench
from tests.held_builders import make_bench, make_held, make_plain
from tests.tolerances import SCORE_AGAINST_REFERENCE

BLOCK = 16
VOCABULARY = 258  # of the tiny model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_plain(tmp_path_factory.mktemp("old-text"))


def make_old_text() -> AnchorData:
    """Random tokens, two past tasks."""
    blocks = torch.randint(3, 40, (6, BLOCK), generator=torch.Generator().manual_seed(5))
    return AnchorData(blocks=blocks, tasks=torch.arange(6) % 2, sources=("one", "two"))


def start(
    folder: Path, method: dict[str, Any], *, processes: Processes | None = None, **adapt: Any
) -> tuple[Workbench, Held]:
    """Stage B before its first step."""
    recipe = make_held(folder, method, "unused", **adapt)
    bench = make_bench(recipe, **({} if processes is None else {"processes": processes}))
    anchor = make_old_text() if recipe.adapt.anchor is not None else None
    held = hold(bench, anchor)
    held.method.measure()
    return bench, held


def make_batch(bench: Workbench, count: int = 4) -> SpeechBatch:
    return bench.maker.make(bench.clips[:count])


def disturb(bench: Workbench, *, scale: float = 0.05) -> None:
    """Move what trains in the language model, and the adaptor."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in bench.forward.model.parameters():
            if parameter.requires_grad:
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


def read_base(folder: Path, blocks: Tensor) -> Tensor:
    """Logits of the bare language model as transformers loads it, with the attention that trainings have."""
    model: Any = load_causal_lm(str(folder / "llama"), dtype="float32").model
    model.set_attn_implementation("eager")
    with torch.no_grad():
        logits: Tensor = model.eval()(input_ids=blocks).logits
    return logits


def read_transcripts(bench: Workbench, batch: SpeechBatch) -> list[tuple[Tensor, Tensor]]:
    """For each utterance the logits of its labels, and these, by the model's plain forward pass."""
    with torch.no_grad():
        logits = bench.forward.model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, audio_features=list(batch.frames)
        ).logits
    rows = []
    for row, labels in zip(logits, batch.labels, strict=True):
        places = (labels != -100).nonzero()[:, 0]
        rows.append((row[places - 1], labels[places]))
    return rows


def add_terms(held: Held, batch: SpeechBatch, step: int = 0) -> float:
    return math.fsum(term.item() for term in held.objective(batch, step))


@pytest.mark.parametrize("name", ["kl_to_base", "lwf", "mask_the_target"])
@pytest.mark.parametrize("anchor", [{"sources": "self_generated", "blocks": 4}, None], ids=["old text", "transcripts"])
def test_a_comparison_with_the_base_is_zero_at_the_first_step_and_positive_later(
    folder: Path, name: str, anchor: dict[str, Any] | None
) -> None:
    bench, held = start(folder, {"name": name, "strength": 3.0}, anchor=anchor)
    batch = make_batch(bench)
    assert add_terms(held, batch) == bench.forward(batch).loss.item()
    disturb(bench)
    assert add_terms(held, batch) > bench.forward(batch).loss.item() + 1e-3


@pytest.mark.parametrize("anchor", ["self_generated", None], ids=["old text", "transcripts"])
def test_in_bfloat16_the_comparison_is_zero_at_the_first_step_and_its_gradients_are_float32(
    folder: Path, anchor: str | None
) -> None:
    recipe = make_held(folder, {"name": "kl_to_base", "strength": 3.0}, "unused", anchor=anchor)
    bench = make_bench(recipe.model_copy(update={"dtype": "bfloat16"}))
    held = hold(bench, None if anchor is None else make_old_text())
    batch = make_batch(bench)
    assert add_terms(held, batch) == bench.forward(batch).loss.item()
    disturb(bench)
    terms = list(held.objective(batch, 0))
    assert sum(term.item() for term in terms) > bench.forward(batch).loss.item() + 1e-3
    terms[-1].backward()  # type: ignore[no-untyped-call]
    gradients = [parameter.grad for parameter in bench.forward.model.parameters() if parameter.grad is not None]
    assert {gradient.dtype for gradient in gradients} == {torch.float32}


def test_the_divergence_on_old_text_is_that_of_the_bare_language_models(folder: Path) -> None:
    bench, held = start(folder, {"name": "kl_to_base", "strength": 2.0}, anchor_blocks=3)
    disturb(bench)
    blocks = make_old_text().draw(3, seed=0, step=1)
    base = torch.log_softmax(read_base(folder, blocks)[:, :-1], -1)
    with torch.no_grad():
        now = torch.log_softmax(bench.forward.model.as_causal_lm()(input_ids=blocks).logits[:, :-1], -1)
    expected = 2.0 * float((base.exp() * (base - now)).sum(-1).mean())
    speech, *terms = list(held.objective(make_batch(bench), 0))
    assert len(terms) == 3
    assert sum(term.item() for term in terms) == pytest.approx(expected, rel=SCORE_AGAINST_REFERENCE)
    assert speech.item() == bench.forward(make_batch(bench)).loss.item()


def test_old_text_reaches_the_language_model_and_not_the_adaptor(folder: Path) -> None:
    bench, held = start(folder, {"name": "kl_to_base", "strength": 2.0})
    disturb(bench)
    _, term = held.objective(make_batch(bench), 0)
    term.backward()  # type: ignore[no-untyped-call]
    model = bench.forward.model
    assert all(parameter.grad is None for parameter in model.model.multi_modal_projector.parameters())
    trained = [parameter for parameter in model.model.language_model.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in trained)


def test_the_base_listens_through_the_adaptor_of_the_moment(folder: Path) -> None:
    """An adaptor that moved alone is no divergence from the base."""
    bench, held = start(folder, {"name": "kl_to_base", "strength": 2.0}, anchor=None)
    with torch.no_grad():
        for parameter in bench.forward.model.model.multi_modal_projector.parameters():
            parameter.mul_(1.5)
    batch = make_batch(bench)
    assert add_terms(held, batch) == bench.forward(batch).loss.item()


def test_replay_mixes_the_stated_share_and_every_token_weighs_the_same(folder: Path) -> None:
    bench, held = start(folder, {"name": "replay", "strength": 0.4})
    batch = make_batch(bench)
    counts = [len(list(held.objective(batch, step))) - 1 for step in range(5)]
    assert counts == [1, 2, 1, 2, 2]  # floor(0.4 x 4 s) after s steps: 1, 3, 4, 6, 8
    bench, held = start(folder, {"name": "replay", "strength": 0.5})
    blocks = make_old_text().draw(2, seed=0, step=1)
    old = functional.cross_entropy(
        read_base(folder, blocks)[:, :-1].flatten(0, 1), blocks[:, 1:].flatten(), reduction="sum"
    )
    new = bench.forward(batch).loss.item() * batch.num_labels
    expected = (float(old) + new) / (batch.num_labels + 2 * (BLOCK - 1))
    assert add_terms(held, batch) == pytest.approx(expected, rel=SCORE_AGAINST_REFERENCE)


def test_the_loss_of_old_text_is_that_of_the_bare_language_model_to_the_bit(folder: Path) -> None:
    bench, held = start(folder, {"name": "replay", "strength": 0.25})
    batch = make_batch(bench)
    _, term = held.objective(batch, 0)
    block = make_old_text().draw(1, seed=0, step=1)
    losses = functional.cross_entropy(read_base(folder, block)[0, :-1], block[0, 1:], reduction="none")
    assert torch.equal(term.detach(), losses.sum() / (batch.num_labels + BLOCK - 1))


def test_eaft_weighs_the_tokens_of_the_transcripts(folder: Path) -> None:
    bench, held = start(folder, {"name": "eaft", "strength": 2.0, "top": 5, "scale": 1.2})
    batch = make_batch(bench)
    total = 0.0
    for logits, labels in read_transcripts(bench, batch):
        best = torch.log_softmax(logits.topk(5, dim=-1).values, -1)
        weights = (-(best.exp() * best).sum(-1) / 1.2) ** 2
        total += float((weights * functional.cross_entropy(logits, labels, reduction="none")).sum())
    assert add_terms(held, batch) == pytest.approx(total / batch.num_labels, rel=SCORE_AGAINST_REFERENCE)


def test_flow_weighs_utterances_by_how_easy_the_base_finds_them(folder: Path) -> None:
    bench, held = start(folder, {"name": "flow", "items": 3})
    batch = make_batch(bench)
    rows = read_transcripts(bench, batch)
    losses = [functional.cross_entropy(logits, labels, reduction="none") for logits, labels in rows]
    means = torch.stack([loss.mean() for loss in losses])
    median = means[:3].median()
    expected = sum(math.exp(-mean / median) * float(loss.sum()) for mean, loss in zip(means, losses, strict=True))
    assert add_terms(held, batch) == pytest.approx(expected / batch.num_labels, rel=SCORE_AGAINST_REFERENCE)


def test_stm_leaves_out_the_tokens_that_surprise_the_base(folder: Path) -> None:
    bench, _ = start(folder, {"name": "plain"})
    rows = read_transcripts(bench, make_batch(bench))
    losses = torch.cat([functional.cross_entropy(logits, labels, reduction="none") for logits, labels in rows])
    threshold = float(losses.median())
    bench, held = start(folder, {"name": "stm", "perplexity": math.exp(threshold)})
    kept = losses[losses <= threshold]
    assert 0 < len(kept) < len(losses)
    assert add_terms(held, make_batch(bench)) == pytest.approx(float(kept.mean()), rel=SCORE_AGAINST_REFERENCE)


@pytest.mark.parametrize("method", [{"name": "gem", "blocks": 2, "ridge": 0.0}, {"name": "a_gem", "blocks": 2}])
def test_a_gradient_against_old_text_is_projected(folder: Path, method: dict[str, Any]) -> None:
    """GEM: no old task's loss rises to first order; A-GEM: not their mean."""
    bench, held = start(folder, method)
    training = describe_reading(bench, make_old_text())
    tasks = (0, 1) if isinstance(held.method, GradientEpisodicMemory) else (None,)
    drawn = [make_old_text().draw(2, seed=0, step=1, task=task) for task in tasks]
    old = [compute_anchor_gradients(training, blocks) for blocks in drawn]
    for key, parameter in training.trained.items():
        parameter.grad = -sum((gradients[key] for gradients in old), torch.zeros(()))

    def measure_overlaps() -> list[float]:
        new = {key: value.grad for key, value in training.trained.items() if value.grad is not None}
        return [
            compute_inner_product(new, gradients) / compute_inner_product(gradients, gradients) for gradients in old
        ]

    assert max(measure_overlaps()) < 0
    held.method.change_gradients()
    assert min(measure_overlaps()) > -1e-4


@pytest.mark.parametrize("method", [{"name": "replay", "strength": 0.75}, {"name": "lwf"}])
def test_the_shares_of_two_processes_add_up_to_the_whole(folder: Path, method: dict[str, Any]) -> None:
    def compute(processes: Processes) -> float:
        bench, held = start(folder, method, processes=processes, anchor_blocks=3)
        disturb(bench)
        whole = make_batch(bench)
        share = bench.maker.make(bench.clips[:4][processes.rank :: processes.count])
        return add_terms(held, replace(share, num_labels=whole.num_labels, num_utterances=whole.num_utterances))

    parts = [compute(Processes(rank=rank, count=2)) for rank in range(2)]
    assert math.fsum(parts) == pytest.approx(compute(Processes()), rel=SCORE_AGAINST_REFERENCE)


def test_a_comparison_goes_with_lora(folder: Path) -> None:
    adapt = {"arm": {"lora": {"rank": 2}}, "learning_rate": 1e-2, "anchor": str(folder / "text.txt")}
    ratios = []
    for strength in (0.0, 100.0):
        method = {"name": "kl_to_base", "strength": strength}
        run = train_speech(make_held(folder, method, f"lora-{strength:g}", **adapt))
        ratios.append(run.points[-1].retention["prose"].ratio)
    free, held = ratios
    assert abs(math.log(held)) < 0.5 * abs(math.log(free))


@pytest.mark.parametrize(
    ("method", "tokens", "bytes_per_trained"),
    [
        ({"name": "kl_to_base"}, 3 * BLOCK, 4),
        ({"name": "replay", "strength": 0.6}, 3 * BLOCK, 0),
        ({"name": "stm"}, 0, 4),
    ],
)
def test_the_forecast_states_what_a_method_adds(
    folder: Path, method: dict[str, Any], tokens: int, bytes_per_trained: int
) -> None:
    forecast = forecast_training(make_held(folder, method, "unused", anchor_blocks=3), folder)
    assert forecast.method_tokens == tokens
    assert forecast.method_seconds is not None
    logits = {"kl_to_base": 8, "replay": 4, "stm": 0}[method["name"]] * 4 * BLOCK * VOCABULARY
    assert forecast.method_bytes == bytes_per_trained * forecast.num_arm + logits
    plain = forecast_training(make_held(folder, {"name": "plain"}, "unused"), folder)
    assert (plain.method_tokens, plain.method_seconds, plain.method_bytes) == (0, None, 0)
    assert plain.memory_bytes == forecast.memory_bytes - forecast.method_bytes
