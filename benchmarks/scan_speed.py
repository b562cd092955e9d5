"""Time of a whole scan against PEFT's KappaTuneSelector and a loop of torch's SVD, on the same matrices.

    python benchmarks/scan_speed.py [MODEL] [--rounds 5] [--with-vocabulary] [--threads N] [--json FILE]

All run in this process, one after the other, in every round; the figures are medians over the rounds, of times and of
the ratios within a round. Only a quiet machine gives honest figures: torch suffers far more than oblong when other
work competes for the cores. What each does, so that nobody is favoured unknowingly:

- oblong scan   from the files on the disk (in the page cache after the first round): reads, hashes (SHA-256), decodes,
                measures (kappa with its error bound, entropies, null model, noise floor), writes the Scan.
- PEFT          KappaTuneSelector._compute_kappas with max_dim_size_to_analyze lifted, on a model that is in memory
                already (loading is not timed): torch.linalg.svdvals in float32, one kappa per nn.Linear.
- torch SVD     torch.linalg.svd(W, full_matrices=False) in float32 of the same weights, in memory already; this is the
                call of the paper's own code.

Without --with-vocabulary all three see the Linear layers without the output layer. With it, all three see the
vocabulary matrix as well: as the embedding in the file for oblong, as the tied output layer for the others.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
from peft.helpers import KappaTuneSelector
from torch import nn
from transformers import AutoModelForCausalLM

from oblong.checkpoints import locate_model
from oblong.scanning import scan

NO_LIMIT = 10**9
OBLONG, PEFT, SVD = "oblong scan", "PEFT KappaTuneSelector", "torch.linalg.svd float32"
GOALS = {PEFT: 2.5, SVD: 3.5}


def load_linear_layers(model: str, *, with_vocabulary: bool) -> nn.ModuleDict:
    """The model's Linear layers, as PEFT will see them."""
    whole = AutoModelForCausalLM.from_pretrained(locate_model(model), dtype=torch.bfloat16)
    head = whole.get_submodule("lm_head")
    layers = {
        name.replace(".", "/"): module
        for name, module in whole.named_modules()
        if isinstance(module, nn.Linear) and (with_vocabulary or module is not head)
    }
    return nn.ModuleDict(layers)


def run_oblong(model: str, *, with_vocabulary: bool, threads: int) -> int:
    """Scan to a file; the number of matrices measured."""
    exclude = None if with_vocabulary else r"embed|lm_head|norm"
    with tempfile.TemporaryDirectory() as directory:
        found = scan(model, output=Path(directory) / "s.jsonl", exclude=exclude, num_threads=threads, cache=False)
    return len(found.measured)


def run_peft(layers: nn.ModuleDict) -> int:
    """PEFT's kappas; their number."""
    selector = KappaTuneSelector(layers, max_dim_size_to_analyze=NO_LIMIT, show_progress=False)
    return len(selector.get_best_targets())


def run_svd(layers: nn.ModuleDict) -> int:
    """The paper's call on every layer; their number."""
    kappas = []
    for layer in layers.values():
        weight = layer.get_parameter("weight").detach().float()
        _, values, _ = torch.linalg.svd(weight, full_matrices=False)
        kappas.append(float(values[0] / values[-1]))
    return len(kappas)


def measure(contestants: Mapping[str, Callable[[], int]], rounds: int) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Seconds of every contestant in every round, and how many matrices each did; a first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    counts: dict[str, int] = {}
    for number in range(rounds + 1):
        for name, run in contestants.items():
            start = time.perf_counter()
            counts[name] = run()
            if number > 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds, counts


def summarise(seconds: Mapping[str, list[float]], counts: Mapping[str, int]) -> list[dict[str, Any]]:
    """One row per contestant: median seconds, and the median of its ratios to oblong."""
    return [
        {
            "name": name,
            "num_matrices": counts[name],
            "median_seconds": median(times),
            "times_slower": median(theirs / ours for theirs, ours in zip(times, seconds[OBLONG], strict=True)),
            "seconds": times,
        }
        for name, times in seconds.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="demo")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--with-vocabulary", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    layers = load_linear_layers(arguments.model, with_vocabulary=arguments.with_vocabulary)
    contestants: dict[str, Callable[[], int]] = {
        OBLONG: lambda: run_oblong(
            arguments.model, with_vocabulary=arguments.with_vocabulary, threads=arguments.threads
        ),
        PEFT: lambda: run_peft(layers),
        SVD: lambda: run_svd(layers),
    }
    rows = summarise(*measure(contestants, arguments.rounds))
    print(f"{arguments.model}, {arguments.threads} threads, medians of {arguments.rounds} rounds")
    for row in rows:
        goal = f"  (goal {GOALS[row['name']]}x)" if row["name"] in GOALS else ""
        print(
            f"{row['name']:26} {row['num_matrices']:5} matrices {row['median_seconds']:8.2f} s "
            f"{row['times_slower']:6.2f}x{goal}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps({"threads": arguments.threads, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
