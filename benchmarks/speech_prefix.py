"""A training step with the prompts' common beginning computed once, against the plain way: same batches, real models.

    python benchmarks/speech_prefix.py [--rounds 5] [--json]

Interleaved rounds, medians; exit 1 if sharing is not faster in both stages, or the losses differ by more than 1 %.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from oblong.models.quiet import quiet_transformers
from oblong.speech.arms import ArmRecipe, LoraRecipe, apply_arm
from oblong.speech.training.batches import BatchMaker, SpeechBatch
from oblong.speech.training.forward import SpeechForward
from oblong.speech.training.preparing import build_model, hear, read_inputs
from oblong.speech.training.progress import ignore_progress
from oblong.speech.training.recipe import SpeechTrainRecipe

RECIPE = {
    "encoder": "whisper-base",
    "language_model": "demo",
    "output": "unused",
    "data": {
        "train": "speech:prompts-en-train",
        "evaluate": {"human": "speech:prompts-en-test"},
        "limits": {"train": 8, "evaluate": 1},
    },
    "adaptor": {"bottleneck": 384},
    "adapt": {"arm": {"adaptor_only": True}, "steps": 1},
}
MAX_DIFFERENCE = 0.01


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    recipe = SpeechTrainRecipe.model_validate(RECIPE)
    with quiet_transformers():
        inputs = read_inputs(recipe, Path("benchmark"))
        model, processor, device = build_model(recipe, ["en"])
        clips = hear(inputs.train[0], model, processor, recipe, ignore_progress).clips
        batch = BatchMaker(processor).make(clips).to(device)
        results = {"align": compare(model, batch, arguments.rounds)}
        apply_arm(model, ArmRecipe(lora=LoraRecipe(rank=8)), language_model=recipe.language_model)
        results["adapt"] = compare(model, batch, arguments.rounds)
    results |= {"positions": {"all": batch.input_ids.numel(), "rows": len(batch.labels)}}
    if arguments.json:
        print(json.dumps(results, indent=1))
    else:
        for name, values in results.items():
            print(name, " ".join(f"{key} {value:.3f}" for key, value in values.items()))
    stages = [results["align"], results["adapt"]]
    return 0 if all(stage["speedup"] > 1 and stage["difference"] < MAX_DIFFERENCE for stage in stages) else 1


def compare(model: Any, batch: SpeechBatch, rounds: int) -> dict[str, float]:
    """Median seconds of forward and backward, both ways; the first round is not counted."""
    model.train()
    ways = {
        name: SpeechForward(model, dtype=torch.bfloat16, share_prefix=name == "shared") for name in ("plain", "shared")
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    losses = {}
    for _ in range(rounds + 1):
        for name, forward in ways.items():
            started = time.perf_counter()
            loss = forward(batch).loss
            assert loss is not None
            loss.backward()
            seconds[name].append(time.perf_counter() - started)
            losses[name] = loss.item()
            model.zero_grad(set_to_none=True)
    plain, shared = (statistics.median(seconds[name][1:]) for name in ("plain", "shared"))
    difference = abs(losses["plain"] - losses["shared"]) / losses["plain"]
    return {"plain_seconds": plain, "shared_seconds": shared, "speedup": plain / shared, "difference": difference}


if __name__ == "__main__":
    sys.exit(main())
