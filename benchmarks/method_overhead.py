"""What each method against forgetting costs: seconds per step, and peak memory against its forecast.

    python -m benchmarks.method_overhead [METHOD ...] [--model demo] [--train down_proj] [--steps 8] [--repeats 3]
                                         [--threads 1] [--json FILE]
    python -m benchmarks.method_overhead [METHOD ...] --width 256 --layers 4 --vocabulary 8192

A model, or a random Llama of the given size. All matrices whose name holds `--train` are trained in float32 by AdamW;
each run is in a process of its own, the methods are taken in turn, medians printed, beside plain fine-tuning. Times are
CPU time of the process, so that other work on the machine disturbs them less. Seconds per step leave out the first step
and whatever a method measures before training, which has a column of its own ("prepare").

Memory is what training adds to the built model: the growth of ru_maxrss. Its forecast is plain fine-tuning's growth and
what the method states on top (`forecast_bytes`); a method passes that stays within 15 % of it. "extra" and "stated" are
the two differences to plain fine-tuning by themselves.

With --json every finished run is kept: the same command, stopped, goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from benchmarks.processes import Row, compute_medians, run_in_process

PLAIN = "plain"
DEFAULTS: dict[str, dict[str, Any]] = {
    "svb": {"every": 1},
    "si": {"warmup_steps": 8},
    "classp": {"anchor_blocks": 4},
    "evolutionary_pruning": {"population": 4, "generations": 1},
}
"""Where the default would hide the cost: a projection in every step, short measurements."""
NUM_ANCHOR_BLOCKS: Final = 16
TOLERANCE: Final = 1.15  # of the forecast
NO_SETTINGS: Final = ("methods", "repeats", "json", "only")  # they decide what is run, not what comes out of a run


def run_method(name: str, options: argparse.Namespace) -> Row:
    """One training in this process."""
    import torch

    from oblong.methods.memory import forecast_sizes
    from oblong.tuning.memory import measure_peak_memory

    torch.set_num_threads(options.threads)
    model, blocks = build_model(options), draw_blocks(options)
    before = measure_peak_memory()
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(name, model, blocks, folder, options)
        times = add_clock(trainer)
        training = trainer._describe_training()
        sizes = forecast_sizes(training, next(training.read_items(1)))
        trainer.train()
    return {
        "method": name,
        "seconds_per_step": statistics.median(later - earlier for earlier, later in pairwise(times[1:])),
        "prepare_seconds": times[0] - start,
        "growth_bytes": measure_peak_memory() - before,
        "forecast_bytes": trainer.method.forecast_bytes(sizes),
        "num_trained": sizes.num_trained,
    }


def draw_blocks(options: argparse.Namespace) -> Any:
    """Random tokens (N, T): the first NUM_ANCHOR_BLOCKS stand for old data."""
    import torch

    shape = (4 * options.steps * options.batch_size + NUM_ANCHOR_BLOCKS, options.sequence_length)
    return torch.randint(options.vocabulary, shape, generator=torch.Generator().manual_seed(0))


def make_trainer(name: str, model: Any, blocks: Any, folder: str, options: argparse.Namespace) -> Any:
    """A MethodTrainer that is silent and keeps nothing."""
    import torch
    from transformers import PrinterCallback, TrainingArguments

    from oblong.methods import AnchorData, MethodTrainer, build_method, parse_method

    num_anchor = NUM_ANCHOR_BLOCKS
    tasks = torch.zeros(num_anchor, dtype=torch.int64)
    trainer = MethodTrainer(
        model=model,
        args=TrainingArguments(
            output_dir=folder,
            max_steps=options.steps,
            per_device_train_batch_size=options.batch_size,
            learning_rate=1e-5,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            log_level="critical",
            remove_unused_columns=False,
            dataloader_pin_memory=False,
        ),
        train_dataset=[{"input_ids": block, "labels": block} for block in blocks[num_anchor:]],
        data_collator=lambda items: {key: torch.stack([item[key] for item in items]) for key in items[0]},
        method=build_method(parse_method({"name": name, **DEFAULTS.get(name, {})})),
        anchor=AnchorData(blocks=blocks[:num_anchor], tasks=tasks, sources=("random",)),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def add_clock(trainer: Any) -> list[float]:
    """The times at which steps begin and the training ends, once it has run."""
    from transformers import TrainerCallback

    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *arguments: Any, **kwargs: Any) -> None:
            times.append(time.process_time())

        on_train_end = on_step_begin

    trainer.add_callback(Clock())
    return times


def build_model(options: argparse.Namespace) -> Any:
    """The model in float32; only the matrices that were asked for train."""
    model = build_random_model(options) if options.model is None else load_model(options)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(options.train in name)
    return model


def load_model(options: argparse.Namespace) -> Any:
    """A model that exists."""
    from oblong.models.causal_lm import load_causal_lm

    model: Any = load_causal_lm(options.model, dtype="float32").model
    options.vocabulary = model.config.vocab_size
    return model


def build_random_model(options: argparse.Namespace) -> Any:
    """A random Llama."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=options.vocabulary,
        hidden_size=options.width,
        intermediate_size=3 * options.width,
        num_hidden_layers=options.layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=options.sequence_length,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config)


def summarise(rows: Sequence[Row]) -> list[Row]:
    """Medians of each method's repeats, beside plain fine-tuning's and the method's forecast."""
    medians = compute_medians(rows, by="method")
    plain = next(row for row in medians if row["method"] == PLAIN)
    for row in medians:
        row["times_plain"] = row["seconds_per_step"] / plain["seconds_per_step"]
        row["memory_times_plain"] = row["growth_bytes"] / plain["growth_bytes"]
        row["extra_bytes"] = row["growth_bytes"] - plain["growth_bytes"]
        row["of_forecast"] = row["growth_bytes"] / (plain["growth_bytes"] + row["forecast_bytes"])
        row["passes"] = row["of_forecast"] <= TOLERANCE
    return medians


def print_table(rows: Sequence[Row]) -> None:
    headings = ("s/step", "x plain", "prepare", "memory", "x plain", "extra", "stated", "of forecast")
    print(f"{'method':<24}{''.join(f'{heading:>12}' for heading in headings)}")
    for row in rows:
        memory, extra, stated = (row[name] / 1e6 for name in ("growth_bytes", "extra_bytes", "forecast_bytes"))
        print(
            f"{row['method']:<24}{row['seconds_per_step']:>12.3f}{row['times_plain']:>12.2f}"
            f"{row['prepare_seconds']:>10.2f} s{memory:>9.0f} MB{row['memory_times_plain']:>12.2f}"
            f"{extra:>9.0f} MB{stated:>9.0f} MB{row['of_forecast']:>12.2f}  {'pass' if row['passes'] else 'FAIL'}"
        )
    passed = sum(row["passes"] for row in rows)
    print(f"{passed} of {len(rows)} within {TOLERANCE:.2f} of their forecast of memory")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", help="default: all")
    parser.add_argument("--model", help="directory, Hub id or demo; default: a random one")
    parser.add_argument("--train", default="mlp", help="part of the names of the matrices that train")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--sequence-length", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def list_settings(options: argparse.Namespace) -> dict[str, Any]:
    """What decides the numbers of a run."""
    return {name: value for name, value in vars(options).items() if name not in NO_SETTINGS}


def read_finished(file: Path | None, settings: dict[str, Any]) -> list[Row]:
    """The runs that an earlier call has kept.

    Raises:
        SystemExit: they were made with other settings.
    """
    if file is None or not file.exists():
        return []
    kept = json.loads(file.read_text())
    if kept.get("settings") != settings:
        raise SystemExit(f"{file}: was made with other settings, {kept.get('settings')}: name another file")
    rows: list[Row] = kept["runs"]
    return rows


def list_missing(names: Sequence[str], repeats: int, rows: Sequence[Row]) -> list[str]:
    """The methods still to be run, in turn; one that has fewer runs than another comes first."""
    done = Counter(row["method"] for row in rows)
    return [name for turn in range(repeats) for name in names if done[name] <= turn]


def write_finished(file: Path, settings: dict[str, Any], rows: Sequence[Row]) -> None:
    """Replace the file at once, so that a run that is stopped here leaves the old one or the new one."""
    scratch = file.with_suffix(".tmp")
    content = {"settings": settings, "runs": rows, "medians": summarise(rows)}
    scratch.write_text(json.dumps(content, indent=1) + "\n")
    scratch.replace(file)


def main() -> None:
    from oblong.methods import METHODS

    options = parse_arguments()
    if options.only:
        print(json.dumps(run_method(options.only, options)))
        return
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as `oblong tune` sets it
    names = list(dict.fromkeys([PLAIN, *(options.methods or METHODS)]))
    settings = list_settings(options)
    rows = read_finished(options.json, settings)
    failed = []
    for name in list_missing(names, options.repeats, rows):
        try:
            rows.append(run_in_process("benchmarks.method_overhead", [*sys.argv[1:], "--only", name]))
        except SystemExit as failure:
            if name == PLAIN:
                raise
            failed.append(f"{name} failed: {failure}")
            continue
        if options.json:
            write_finished(options.json, settings, rows)
    print_table(summarise(rows))
    if failed:
        raise SystemExit("\n".join(failed))


if __name__ == "__main__":
    main()
