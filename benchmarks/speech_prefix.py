"""A training step of a speech LLM: shared against plain prompt prefix, torch's fused attention against eager.

    python -m benchmarks.speech_prefix [--clips 4] [--rounds 3] [--threads 1] [--dtype bfloat16] [--json FILE]

Whisper-base and the demo model, real speech, forward and backward pass of one batch: stage A (the adaptor trains under
a frozen language model) and stage B (LoRA of rank 8 on every linear layer). The four ways take turns in every round;
the first round is not counted. Printed are medians by the clock and of this process's CPU time, which other programs on
the machine disturb less; `times` is the CPU time over that of the way training chooses on a CPU (eager, shared), the
median over rounds. The first line says how many positions of a row the prefix takes.

Exit code 1: sharing is not faster in both stages with eager attention, or the losses differ by more than 1 %.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch

from benchmarks.timing import measure
from oblong.models.quiet import quiet_transformers
from oblong.models.speech_lm import SpeechLMForConditionalGeneration
from oblong.speech.arms import ArmRecipe, LoraRecipe, apply_arm
from oblong.speech.training.batches import BatchMaker, SpeechBatch
from oblong.speech.training.forward import SpeechForward, find_prefix_length
from oblong.speech.training.preparing import build_model, hear, read_inputs
from oblong.speech.training.progress import ignore_progress
from oblong.speech.training.recipe import SpeechTrainRecipe

RECIPE: Final[dict[str, Any]] = {
    "encoder": "whisper-base",
    "language_model": "demo",
    "output": "unused",
    "trailing_silence": 1.0,
    "data": {"train": "speech:prompts-en-train", "evaluate": {"human": "speech:prompts-en-test"}},
    "adaptor": {"bottleneck": 384},
    "adapt": {"arm": {"adaptor_only": True}, "steps": 1},
}
MAX_DIFFERENCE: Final = 0.01
DTYPES: Final = {"bfloat16": torch.bfloat16, "float32": torch.float32}
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to compute the same step."""

    attention: str
    shares: bool

    def __str__(self) -> str:
        return f"{self.attention}, {'shared' if self.shares else 'plain'}"


PLAIN: Final = Way(attention="eager", shares=False)
CHOSEN: Final = Way(attention="eager", shares=True)
WAYS: Final = (CHOSEN, PLAIN, Way(attention="sdpa", shares=True), Way(attention="sdpa", shares=False))


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=4, help="in the batch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="of the arithmetic")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and judge."""
    options = parse_options(arguments)
    torch.set_num_threads(options.threads)
    recipe = SpeechTrainRecipe.model_validate(RECIPE | {"data": RECIPE["data"] | {"limits": {"train": options.clips}}})
    with quiet_transformers():
        model, batch = prepare(recipe)
        prefix = find_prefix_length(batch, model.config.audio_token_id)
        stages = {"align": measure_stage(model, batch, options)}
        apply_arm(model, ArmRecipe(lora=LoraRecipe(rank=8)), language_model=recipe.language_model)
        stages["adapt"] = measure_stage(model, batch, options)
    positions = {"rows": len(batch.labels), "of_a_row": batch.input_ids.shape[1], "prefix": prefix}
    print_tables(stages, positions)
    if options.json:
        settings = {key: value for key, value in vars(options).items() if key != "json"}
        result = {"settings": settings, "positions": positions, "stages": stages}
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0 if all(map(is_worth_it, stages.values())) else 1


def prepare(recipe: SpeechTrainRecipe) -> tuple[SpeechLMForConditionalGeneration, SpeechBatch]:
    """The model of stage A, and one batch of all the recipe's clips."""
    inputs = read_inputs(recipe, Path("benchmark"))
    model, processor, device = build_model(recipe, ["en"])
    clips = hear(inputs.train[0], model, processor, recipe, ignore_progress).clips
    return model.train(), BatchMaker(processor).make(clips).to(device)


def measure_stage(
    model: SpeechLMForConditionalGeneration, batch: SpeechBatch, options: argparse.Namespace
) -> list[Row]:
    """What each way takes, medians over the rounds."""
    steps = {way: make_step(model, batch, way, DTYPES[options.dtype]) for way in WAYS}
    rounds = [{way: measure(step) for way, step in steps.items()} for _ in range(options.rounds + 1)][1:]
    return [
        {
            "way": str(way),
            "seconds": median(taken[way].seconds for taken in rounds),
            "cpu_seconds": median(taken[way].cpu_seconds for taken in rounds),
            "times_chosen": median(taken[way].cpu_seconds / taken[CHOSEN].cpu_seconds for taken in rounds),
            "loss": rounds[-1][way].result,
        }
        for way in WAYS
    ]


def make_step(
    model: SpeechLMForConditionalGeneration, batch: SpeechBatch, way: Way, dtype: torch.dtype
) -> Callable[[], float]:
    """Forward and backward pass of the batch; it returns the loss."""
    forward = SpeechForward(model, dtype=dtype, share_prefix=way.shares)
    language_model: Any = model.model.language_model

    def step() -> float:
        language_model.set_attn_implementation(way.attention)
        loss = forward(batch).loss
        assert loss is not None
        loss.backward()
        model.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def is_worth_it(rows: Sequence[Row]) -> bool:
    """Whether sharing saves CPU time with eager attention, and all ways agree on the loss."""
    by_way = {row["way"]: row for row in rows}
    losses = [row["loss"] for row in rows]
    agree = max(losses) - min(losses) <= MAX_DIFFERENCE * min(losses)
    return bool(by_way[str(PLAIN)]["times_chosen"] > 1 and agree)


def print_tables(stages: dict[str, list[Row]], positions: dict[str, int]) -> None:
    """The figures of both stages."""
    print(f"{positions['rows']} rows of {positions['of_a_row']} positions, {positions['prefix']} of them the prefix")
    for stage, rows in stages.items():
        print(f"\n{stage:<16}{'seconds':>9}{'CPU s':>9}{'times':>8}{'loss':>9}")
        for row in rows:
            print(
                f"{row['way']:<16}{row['seconds']:>9.2f}{row['cpu_seconds']:>9.2f}"
                f"{row['times_chosen']:>8.2f}{row['loss']:>9.4f}"
            )


if __name__ == "__main__":
    sys.exit(main())
