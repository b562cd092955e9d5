"""A few timed training steps, thrown away."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from oblong.methods import AnchorData
from oblong.methods.registry import InSpeech
from oblong.models.causal_lm import TORCH_DTYPES
from oblong.models.quiet import quiet_transformers
from oblong.speech.arms import apply_arm
from oblong.speech.training.batches import BatchMaker, SpeechBatch
from oblong.speech.training.forward import SpeechForward
from oblong.speech.training.holding import hold
from oblong.speech.training.method_fit import find_use
from oblong.speech.training.objective import Objective, SpeechObjective
from oblong.speech.training.preparing import build_model, hear, read_inputs
from oblong.speech.training.processes import ALONE
from oblong.speech.training.progress import ignore_progress
from oblong.speech.training.recipe import SpeechTrainRecipe
from oblong.speech.training.stage import Workbench
from oblong.speech.training.state import CheckpointStore
from oblong.tuning.run import use_threads

NUM_STEPS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """Mean seconds of the forward and backward passes of a step of stage B.

    Attributes:
        plain: without a method.
        held: with the recipe's; None where there is none, or it acts on tensors and gradients, which is not timed.
    """

    plain: float
    held: float | None


def time_training_steps(recipe: SpeechTrainRecipe, path: Path) -> StepTimes:
    """Time a few steps, after one that is not counted.

    Args:
        recipe: what would be done; of its data only one batch is heard, and old text is random tokens.
        path: of the recipe, for messages.

    Raises:
        RecipeError: the recipe names what cannot be read.
        MethodError: the method cannot work with the Plan's tensors, or in this memory.
    """
    with use_threads(recipe.threads), quiet_transformers():
        bench = build_bench(recipe, path)
        objectives: list[Objective] = [SpeechObjective(forward=bench.forward)]
        if find_use(recipe.adapt.method, recipe.adapt.anchor) is not InSpeech.TENSORS:
            made = hold(bench, make_random_text(bench))
            made.method.measure()
            objectives.append(made.objective)
        plain, *held = time_objectives(bench, objectives)
    return StepTimes(plain=plain, held=held[0] if held else None)


def build_bench(recipe: SpeechTrainRecipe, path: Path) -> Workbench:
    """Stage B with as many utterances as a batch may have, and a fresh adaptor."""
    few = recipe.data.limits.model_copy(update={"train": recipe.batch.max_utterances, "evaluate": 2})
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"limits": few})})
    inputs = read_inputs(recipe, path)
    langs = [utterance.lang for utterance in inputs.train[0].utterances]
    model, processor, device = build_model(recipe, langs)
    clips = hear(inputs.train[0], model, processor, recipe, ignore_progress).clips
    apply_arm(model, recipe.adapt.arm, language_model=recipe.language_model, seed=recipe.seed)
    model.train()
    return Workbench(
        recipe=recipe,
        forward=SpeechForward(model, dtype=TORCH_DTYPES[recipe.dtype], share_prefix=recipe.share_prefix),
        maker=BatchMaker(processor),
        clips=clips,
        device=device,
        store=CheckpointStore(Path(recipe.output)),
        on_progress=ignore_progress,
        on_point=lambda state: None,
        processes=ALONE,
    )


def make_random_text(bench: Workbench) -> AnchorData | None:
    """A block of random tokens for each source of old text; None where the recipe has none."""
    anchor = bench.recipe.adapt.anchor
    if anchor is None:
        return None
    shape = (len(anchor.sources), bench.recipe.adapt.block_tokens)
    blocks = torch.randint(
        bench.forward.model.config.text_config.vocab_size, shape, generator=torch.Generator().manual_seed(0)
    )
    return AnchorData(blocks=blocks, tasks=torch.arange(len(blocks)), sources=anchor.sources)


def time_objectives(bench: Workbench, objectives: Sequence[Objective]) -> list[float]:
    """Mean seconds of `NUM_STEPS` steps of each, taken in turn so that a busy machine slows all alike."""
    batch = bench.maker.make(bench.clips).to(bench.device)
    seconds = [0.0] * len(objectives)
    for step in range(NUM_STEPS + 1):
        for number, objective in enumerate(objectives):
            elapsed = time_step(bench, objective, batch, step)
            seconds[number] += elapsed if step > 0 else 0.0
    return [total / NUM_STEPS for total in seconds]


def time_step(bench: Workbench, objective: Objective, batch: SpeechBatch, step: int) -> float:
    """Seconds of a forward and backward pass."""
    started = time.perf_counter()
    for term in objective(batch, step):
        term.backward()  # type: ignore[no-untyped-call]
    bench.forward.model.zero_grad(set_to_none=True)
    if bench.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started
