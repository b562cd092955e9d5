"""One OLMoE-shaped layer of fused experts: every expert its own unit, against PEFT's loop over them.

    python -m benchmarks.scan_moe [--experts 64] [--rounds 3] [--threads N] [--folder FOLDER] [--json FILE]

The layer is planted (see `planted_models`): gate_up (64, 2 * 1024, 2048), which is gate above up, and down (64, 2048,
1024), in bfloat16; 192 matrices whose singular values are known. The contestants, in this process, one after the other
in every round; medians, and medians of the ratios within a round. One that takes more than 60 s runs once.

- oblong, disk    `oblong.scan` of the files, hashing and all: one unit per expert and part
- oblong, memory  `oblong.scan` of a live module that holds the two stacked parameters: the same units
- PEFT's loop     what KappaTuneSelector does for each expert, torch.linalg.svdvals of the matrix in float32, on the
                  same 192 matrices
- PEFT as it is   KappaTuneSelector on the module: gate and up are one matrix to it, 128 in all; it averages the experts
                  of a tensor and keeps only the mean, so that no expert can be told from another

PEFT's loop does what oblong does, matrix by matrix; what a user of PEFT waits for on such a layer is PEFT as it is.

Exits 1 if a planted kappa is off by more than the stated error, or if PEFT as it is takes less than 8 times as long as
oblong on the same module in memory.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.planted import Truth
from benchmarks.planted_check import find_largest_error, list_errors
from benchmarks.planted_models import MODELS, Model, ensure_model
from oblong.checkpoints import open_checkpoint
from oblong.records import Scan
from oblong.scanning import scan

DISK, MEMORY, LOOP, PEFT = "oblong, disk", "oblong, memory", "PEFT's loop", "PEFT as it is"
GOAL = 8.0
SLOW_SECONDS = 60.0
EXPERTS = r"mlp\.experts\."


class Configured(nn.Module):
    """A module with a configuration and the fused experts of one layer, named as in transformers."""

    def __init__(self, config: Mapping[str, Any], stacks: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.config = type("Config", (), {"to_dict": lambda _: dict(config)})()
        self.model = nn.Module()
        self.model.layers = nn.ModuleList([nn.Module()])
        layer = self.model.layers[0]
        layer.mlp = nn.Module()
        layer.mlp.experts = nn.Module()
        for name, stack in stacks.items():
            layer.mlp.experts.register_parameter(name, nn.Parameter(stack, requires_grad=False))


def load_module(folder: Path, model: Model) -> Configured:
    """The planted layer in memory, bfloat16."""
    checkpoint = open_checkpoint(folder)
    stacks: dict[str, torch.Tensor] = {}
    for tensor in checkpoint.tensors:
        if "mlp.experts." in tensor.name:
            stored = np.concatenate(list(checkpoint.source.iter_chunks(tensor, 1 << 26)))
            values = torch.from_numpy(stored).view(torch.bfloat16).reshape(tensor.shape)
            stacks[tensor.name.rpartition(".")[2]] = values
    return Configured(model.config, stacks)


def run_loop(module: Configured) -> int:
    """PEFT's call for every expert and part."""
    kappas = []
    for name, stack in module.named_parameters():
        for expert in stack:
            for part in expert.chunk(2) if name.endswith("gate_up_proj") else (expert,):
                values = torch.linalg.svdvals(part.float())
                kappas.append((values[0] / (values[-1] + 1e-8)).item())
    return len(kappas)


def run_peft(module: Configured) -> int:
    """PEFT's selector; the number of parameters that it has a number for."""
    from peft.helpers import KappaTuneSelector

    selector = KappaTuneSelector(module, max_dim_size_to_analyze=10**9, show_progress=False)
    return len(selector.get_best_target_parameters())


def measure(contestants: Mapping[str, Callable[[], object]], num_rounds: int) -> dict[str, list[float]]:
    """Seconds of every contestant in every round; oblong warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    contestants[MEMORY]()
    for _ in range(num_rounds):
        for name, run in contestants.items():
            if not seconds[name] or seconds[name][0] <= SLOW_SECONDS:
                start = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - start)
    return seconds


def list_rows(seconds: Mapping[str, list[float]]) -> dict[str, dict[str, Any]]:
    """Median seconds, and the median of the ratios to oblong in memory."""
    ours = seconds[MEMORY]
    return {
        name: {
            "median_seconds": median(times),
            "times_oblong": median(theirs / mine for theirs, mine in zip(times, ours, strict=False)),
            "seconds": times,
        }
        for name, times in seconds.items()
    }


def check(scans: Mapping[str, Scan], truth: Mapping[str, Truth]) -> list[str]:
    """What the scans got wrong; prints how far they are off."""
    errors: list[str] = []
    for name, found in scans.items():
        wrong = list_errors(found, truth)
        right, largest = len(truth) - len(wrong), find_largest_error(found, truth)
        print(f"{name:15} {right} of {len(truth)} experts right; largest relative error of kappa {largest:.1e}")
        errors += wrong
    return errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--folder", type=Path, help="default: a folder in the temporary directory, kept for next time")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = MODELS["olmoe"].change(num_hidden_layers=1, num_experts=arguments.experts)
    folder = arguments.folder or Path(tempfile.gettempdir()) / f"oblong-planted-olmoe-1-{arguments.experts}"
    planted = ensure_model(folder, model)
    truth = {name: true for name, true in planted.items() if "mlp.experts." in name}
    module = load_module(folder, model)

    def run_oblong(what: Path | nn.Module) -> Scan:
        return scan(what, include=EXPERTS, cache=False, num_threads=arguments.threads)

    scans: dict[str, Scan] = {}
    contestants: dict[str, Callable[[], object]] = {
        DISK: lambda: scans.update({DISK: run_oblong(folder)}),
        MEMORY: lambda: scans.update({MEMORY: run_oblong(module)}),
        LOOP: lambda: run_loop(module),
        PEFT: lambda: run_peft(module),
    }
    rows = list_rows(measure(contestants, arguments.rounds))
    print(f"{arguments.experts} experts, {arguments.threads} threads, medians of {arguments.rounds} rounds")
    for name, row in rows.items():
        goal = f"  (goal {GOAL:.0f})" if name == PEFT else ""
        print(f"{name:15} {row['median_seconds']:8.2f} s {row['times_oblong']:7.2f} times oblong in memory{goal}")
    errors = check(scans, truth)
    if rows[PEFT]["times_oblong"] < GOAL:
        errors.append(f"PEFT takes only {rows[PEFT]['times_oblong']:.1f} times ours, {GOAL:.0f} was promised")
    if arguments.json:
        result = {"experts": arguments.experts, "threads": arguments.threads, "rows": rows, "errors": errors}
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    if errors:
        sys.exit("\n".join(errors))


if __name__ == "__main__":
    main()
