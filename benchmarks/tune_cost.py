"""What selective tuning costs against full fine-tuning: trained share, tokens per second, peak memory.

    python -m benchmarks.tune_cost [MODEL] [--budget 10M] [--steps 6] [--repeats 3] [--threads 2] [--json FILE]

Same model, text, batch, optimizer and number of steps; each run in a process of its own, the arms taken in turn, the
median of each printed:

    plan             oblong tune, kappa lowest, `--budget` parameters
    everything       oblong tune, a Plan of every matrix that is eligible
    full, bf16       transformers' Trainer, all parameters: float32 weights, bf16 autocast (the usual recipe)
    full, float32    transformers' Trainer, all parameters: float32 weights and arithmetic

Peak memory is the process's ru_maxrss, with the imported program in it; the column beside it is above the imports.
Speed is that of the training loop alone, first step included.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.processes import Row, compute_medians, run_in_process

PLAN, EVERYTHING, FULL_BF16, FULL_FLOAT32 = "plan", "everything", "full, bf16", "full, float32"
ARMS = (PLAN, EVERYTHING, FULL_BF16, FULL_FLOAT32)


def write_plans(model: str, budget: str, folder: Path) -> None:
    from oblong.planning import plan
    from oblong.scanning import scan

    found = scan(model)
    eligible = sum(1 for unit in found if unit.eligible)
    plan(found, criterion="kappa", budget=budget).write(folder / "plan.yaml")
    plan(found, criterion="kappa", budget=str(eligible)).write(folder / "everything.yaml")


def run_arm(arm: str, folder: Path, options: argparse.Namespace) -> Row:
    """One training in this process."""
    from oblong.tuning.memory import measure_peak_memory
    from oblong.tuning.recipe import build_recipe
    from oblong.tuning.run import tune

    imported = measure_peak_memory()
    recipe = build_recipe(
        {
            "model": options.model,
            "plan": str(folder / ("everything.yaml" if arm == EVERYTHING else "plan.yaml")),
            "data": options.data,
            "output": tempfile.mkdtemp(dir=folder),
            "steps": options.steps,
            "sequence_length": options.sequence_length,
            "batch_size": options.batch_size,
            "learning_rate": 1e-5,
            "save_every": 0,
            "threads": options.threads,
            "dtype": "float32" if arm == FULL_FLOAT32 else "bfloat16",
        }
    )
    if arm in (PLAN, EVERYTHING):
        run = tune(recipe)
        trained, total, seconds, loss = run.num_trainable, run.num_parameters, run.seconds, run.history[-1].loss
    else:
        trained, total, seconds, loss = train_plainly(recipe)
    num_tokens = recipe.steps * recipe.blocks_per_step * recipe.sequence_length if recipe.steps else 0
    peak = measure_peak_memory()
    return {
        "arm": arm,
        "trained": trained,
        "share": trained / total,
        "tokens_per_second": num_tokens / seconds,
        "peak_bytes": peak,
        "above_imports_bytes": peak - imported,
        "last_loss": loss,
    }


def train_plainly(recipe: Any) -> tuple[int, int, float, float]:
    """Full fine-tuning as the transformers documentation shows it, on the same blocks in the same order."""
    from torch import float32
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, default_data_collator

    from oblong.checkpoints.locate import locate_model
    from oblong.corpora import read_documents
    from oblong.models.quiet import quiet_transformers
    from oblong.tuning.data import build_training_blocks
    from oblong.tuning.run import use_threads
    from oblong.tuning.trainer import build_arguments

    path = locate_model(recipe.model)
    with use_threads(recipe.threads), quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(path, dtype=float32)
        tokenizer = AutoTokenizer.from_pretrained(path)
        blocks, num_steps = build_training_blocks(read_documents(recipe.data.source).texts, tokenizer, recipe)
        arguments = build_arguments(recipe, num_steps=num_steps, output=Path(recipe.output))
        arguments.train_sampling_strategy = "sequential"
        trainer = Trainer(model, arguments, train_dataset=blocks, data_collator=default_data_collator)
        seconds = trainer.train().metrics["train_runtime"]
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return num_parameters, num_parameters, seconds, losses[-1]


def print_table(rows: Sequence[Row]) -> None:
    print(f"{'arm':<16}{'trained':>12}{'share':>8}{'tokens/s':>10}{'peak':>10}{'above imports':>15}{'last loss':>11}")
    for row in rows:
        print(
            f"{row['arm']:<16}{row['trained']:>12,.0f}{row['share']:>8.1%}{row['tokens_per_second']:>10.1f}"
            f"{row['peak_bytes'] / 1e6:>7.0f} MB{row['above_imports_bytes'] / 1e6:>12.0f} MB{row['last_loss']:>11.3f}"
        )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="demo")
    parser.add_argument("--budget", default="10M")
    parser.add_argument("--data", default="bundled:german-train")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--sequence-length", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--threads", type=int, default=None, help="default: torch's, one per core")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    if options.arm:
        print(json.dumps(run_arm(options.arm, options.folder, options)))
        return
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as `oblong tune` sets it
    with tempfile.TemporaryDirectory() as name:
        write_plans(options.model, options.budget, Path(name))
        given = [*sys.argv[1:], "--folder", name]
        arms = [arm for _ in range(options.repeats) for arm in ARMS]
        rows = [run_in_process("benchmarks.tune_cost", [*given, "--arm", arm]) for arm in arms]
    medians = compute_medians(rows, by="arm")
    print_table(medians)
    if options.json:
        options.json.write_text(json.dumps({"runs": rows, "medians": medians}, indent=1) + "\n")


if __name__ == "__main__":
    main()
