"""A few timed training steps, thrown away."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from oblong.models.causal_lm import TORCH_DTYPES
from oblong.models.quiet import quiet_transformers
from oblong.speech.arms import apply_arm
from oblong.speech.training.batches import BatchMaker
from oblong.speech.training.forward import SpeechForward
from oblong.speech.training.preparing import build_model, hear, read_inputs
from oblong.speech.training.progress import ignore_progress
from oblong.speech.training.recipe import SpeechTrainRecipe
from oblong.tuning.run import use_threads

NUM_STEPS: Final = 3


def time_training_steps(recipe: SpeechTrainRecipe, path: Path) -> float:
    """Mean seconds of a forward and backward pass of stage B, after one that is not counted.

    Args:
        recipe: what would be done; of its data only one batch is heard.
        path: of the recipe, for messages.

    Raises:
        RecipeError: the recipe names what cannot be read.
    """
    few = recipe.data.limits.model_copy(update={"train": recipe.batch.max_utterances, "evaluate": 2})
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"limits": few})})
    inputs = read_inputs(recipe, path)
    with use_threads(recipe.threads), quiet_transformers():
        langs = [utterance.lang for utterance in inputs.train[0].utterances]
        model, processor, device = build_model(recipe, langs)
        clips = hear(inputs.train[0], model, processor, recipe, ignore_progress).clips
        apply_arm(model, recipe.adapt.arm, language_model=recipe.language_model, seed=recipe.seed)
        forward = SpeechForward(model, dtype=TORCH_DTYPES[recipe.dtype], share_prefix=recipe.share_prefix)
        batch = BatchMaker(processor).make(clips).to(device)
        model.train()
        seconds = []
        for _ in range(NUM_STEPS + 1):
            started = time.perf_counter()
            forward(batch).loss.backward()
            model.zero_grad(set_to_none=True)
            seconds.append(time.perf_counter() - started)
    return sum(seconds[1:]) / NUM_STEPS
