"""Time of an accelerator on the shapes of whole models, beside torch's singular values, checked against the CPU.

    python -m benchmarks.scan_gpu [--models llama-8b mixtral-8x7b olmoe-layer] [--layers N] [--rounds 3]
                                  [--checkpoint DIRECTORY] [--device cuda] [--divide-by 1] [--json FILE]

Gaussian weights are generated in bfloat16, one window of a scan after the other (not timed), and lie in host memory.
Timed, as `oblong scan --device cuda` does it but one after the other:

    copy      from pageable host memory, through pinned memory, to the device
    oblong    kappa with its error bound, log-volume, Frobenius norm, participation ratio; float64
    svdvals   torch.linalg.svdvals in float32 on the device, of one matrix per shape (what PEFT's KappaTuneSelector
              calls, matrix by matrix), times the number of matrices of that shape

Square Gaussian matrices have a kappa of about their size and need the refinement; trained ones seldom have more.
One matrix per shape, vocabularies apart, is also measured on the CPU: both kappas must agree within the sum of their
bounds.
Reading and hashing are not in these times. `--checkpoint` times the whole scan of a model on the disk, cache of spectra
off, after one scan that fills the page cache.

Exits with 1 when a promise is broken: agreement always; on an H200 with whole models an 8B Llama in 3 s and
Mixtral-8x7B in 15 s; on any GPU an OLMoE layer 50 times faster than svdvals. Exits with 2 where there is no GPU;
`--device cpu --divide-by 16` tries the script out.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from oblong.scanning import scan
from oblong.scanning.devices import MAX_WINDOW_BYTES, choose_feed
from oblong.scanning.staging import Stager
from oblong.spectra import compute_spectrum
from oblong.spectra.accelerator import compute_spectra_on

Shape = tuple[int, int]

NO_GPU = 2
BROKEN = 1
GOAL_SECONDS = {"llama-8b": 3.0, "mixtral-8x7b": 15.0}
GOAL_TIMES_FASTER = {"olmoe-layer": 50.0}
GOAL_DEVICE = "H200"
WARM_UP: Shape = (512, 256)
MAX_CHECKED_ROWS = 16384

ATTENTION: tuple[Shape, ...] = ((4096, 4096), (1024, 4096), (1024, 4096), (4096, 4096))
MLP: tuple[Shape, ...] = ((14336, 4096), (14336, 4096), (4096, 14336))
EXPERT: tuple[Shape, ...] = ((1024, 2048), (1024, 2048), (2048, 1024))


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The matrices of one layer, how many layers there are, and the matrices outside of them."""

    layer: tuple[Shape, ...]
    num_layers: int
    outside: tuple[Shape, ...] = ()


MODELS = {
    "llama-8b": Model(layer=ATTENTION + MLP, num_layers=32, outside=((128256, 4096),) * 2),
    "mixtral-8x7b": Model(layer=(*ATTENTION, (8, 4096), *MLP * 8), num_layers=32, outside=((32000, 4096),) * 2),
    "olmoe-layer": Model(layer=EXPERT * 64, num_layers=1),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds for all matrices of a model, the copy's and the computation's apart."""

    model: str
    num_matrices: int
    copy_seconds: float
    oblong_seconds: float
    svdvals_seconds: float

    @property
    def times_faster(self) -> float:
        """Against svdvals, neither with its copy."""
        return self.svdvals_seconds / self.oblong_seconds


def list_shapes(model: Model, *, num_layers: int | None, divide_by: int) -> list[Shape]:
    """The shapes in the order of a checkpoint."""
    shapes = [*model.outside, *model.layer * (num_layers or model.num_layers)]
    return [(max(rows // divide_by, 2), max(columns // divide_by, 2)) for rows, columns in shapes]


def iter_windows(shapes: Sequence[Shape], window_bytes: int) -> Iterator[list[Shape]]:
    """Consecutive shapes whose float32 values fit into a window, as `worklist.list_batches` cuts them."""
    window: list[Shape] = []
    size = 0
    for rows, columns in shapes:
        if window and size + 4 * rows * columns > window_bytes:
            yield window
            window, size = [], 0
        window.append((rows, columns))
        size += 4 * rows * columns
    yield window


def generate(shape: Shape, device: str, seed: int) -> NDArray[np.uint16]:
    """Gaussian weights on the host: the bits of bfloat16."""
    generator = torch.Generator(device).manual_seed(seed)
    weights = torch.randn(shape, generator=generator, device=device).mul_(0.02).bfloat16()
    bits: NDArray[np.uint16] = weights.cpu().view(torch.int16).numpy().view(np.uint16)
    return bits


def time_call(call: Callable[[], object], device: str) -> float:
    """Seconds until the device has finished."""
    synchronise(device)
    start = time.perf_counter()
    call()
    synchronise(device)
    return time.perf_counter() - start


def synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def time_window(shapes: Sequence[Shape], device: str, seed: int) -> tuple[float, float]:
    """Seconds to copy and to compute one window."""
    bits = [generate(shape, device, seed + index) for index, shape in enumerate(shapes)]
    stager = Stager(device)
    groups: dict[Shape, list[torch.Tensor]] = {}

    def copy() -> None:
        for shape, values in zip(shapes, bits, strict=True):
            groups.setdefault(shape, []).append(stager(values))

    def compute() -> None:
        for group in groups.values():
            compute_spectra_on(group, device=device)

    return time_call(copy, device), time_call(compute, device)


def time_svdvals(shapes: Sequence[Shape], device: str) -> float:
    """Seconds of torch.linalg.svdvals for all matrices, from one of each shape."""
    seconds = 0.0
    for shape in dict.fromkeys(shapes):
        weights = torch.randn(shape, device=device)
        seconds += time_call(partial(torch.linalg.svdvals, weights), device) * shapes.count(shape)
    return seconds


def time_model(name: str, shapes: Sequence[Shape], device: str, window_bytes: int, num_rounds: int) -> Timing:
    """Medians over rounds for oblong, one round for svdvals."""
    rounds = []
    for number in range(num_rounds):
        parts = [time_window(window, device, 1000 * number) for window in iter_windows(shapes, window_bytes)]
        rounds.append([sum(seconds) for seconds in zip(*parts, strict=True)])
    copy_seconds, oblong_seconds = (median(seconds) for seconds in zip(*rounds, strict=True))
    return Timing(
        model=name,
        num_matrices=len(shapes),
        copy_seconds=copy_seconds,
        oblong_seconds=oblong_seconds,
        svdvals_seconds=time_svdvals(shapes, device),
    )


def check_shape(shape: Shape, device: str) -> dict[str, Any]:
    """One matrix on the device and on the CPU."""
    bits = generate(shape, device, seed=1)
    ours = compute_spectra_on([Stager("cpu")(bits)], device=device)[0]
    reference = compute_spectrum((bits.astype(np.uint32) << 16).view(np.float32))
    if ours.kappa is None or reference.kappa is None:
        return {"shape": shape, "agrees": ours.outcome is reference.outcome}
    difference = abs(ours.kappa / reference.kappa - 1)
    allowed = (ours.kappa_error or 0.0) + (reference.kappa_error or 0.0)
    return {"shape": shape, "kappa": ours.kappa, "difference": difference, "agrees": difference <= allowed}


def time_checkpoint(directory: Path, device: str) -> float:
    """Seconds of the second of two scans."""
    for _ in range(2):
        start = time.perf_counter()
        scan(directory, device=device, cache=False)
        seconds = time.perf_counter() - start
    return seconds


def list_broken(
    timings: Sequence[Timing], checks: Sequence[dict[str, Any]], *, device_name: str, whole: bool
) -> list[str]:
    """The promises that did not hold."""
    broken = [f"{check['shape']}: kappa differs from the CPU's" for check in checks if not check["agrees"]]
    for timing in timings if whole else ():
        seconds = timing.copy_seconds + timing.oblong_seconds
        if GOAL_DEVICE in device_name and seconds > GOAL_SECONDS.get(timing.model, seconds):
            broken.append(f"{timing.model}: {seconds:.2f} s, promised {GOAL_SECONDS[timing.model]} s")
        if timing.times_faster < GOAL_TIMES_FASTER.get(timing.model, 0.0):
            broken.append(f"{timing.model}: {timing.times_faster:.0f}x, promised {GOAL_TIMES_FASTER[timing.model]}x")
    return broken


def print_tables(timings: Sequence[Timing], checks: Sequence[dict[str, Any]]) -> None:
    print(f"\n{'':>14} {'matrices':>8} {'copy s':>8} {'oblong s':>9} {'svdvals s':>10} {'times':>7}")
    for t in timings:
        print(
            f"{t.model:>14} {t.num_matrices:>8} {t.copy_seconds:>8.2f} {t.oblong_seconds:>9.2f} "
            f"{t.svdvals_seconds:>10.1f} {t.times_faster:>7.1f}"
        )
    print(f"\n{'shape':>16} {'kappa':>12} {'from the CPU':>13}")
    for check in checks:
        rows, columns = check["shape"]
        verdict = "" if check["agrees"] else "  DIFFERS"
        print(f"{rows:>8} x {columns:<5} {check.get('kappa', 0):>12.6g} {check.get('difference', 0):>13.1e}{verdict}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--layers", type=int, help="fewer layers than the model has; no promise about its time then")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--divide-by", type=int, default=1, help="smaller matrices, to try the script out")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    device: str = arguments.device
    if device != "cpu" and not torch.cuda.is_available():
        print("no GPU is here that torch can use: nothing was measured", file=sys.stderr)
        return NO_GPU
    device_name = "CPU" if device == "cpu" else torch.cuda.get_device_name(device)
    feed = choose_feed(device)
    print(f"{device_name}, torch {torch.__version__}, medians of {arguments.rounds} rounds")
    compute_spectra_on([np.random.default_rng(0).standard_normal(WARM_UP)] * 2, device=device)
    shapes = {
        name: list_shapes(MODELS[name], num_layers=arguments.layers, divide_by=arguments.divide_by)
        for name in arguments.models
    }
    window = feed.window_bytes if feed else MAX_WINDOW_BYTES
    timings = [time_model(name, these, device, window, arguments.rounds) for name, these in shapes.items()]
    distinct = dict.fromkeys(shape for these in shapes.values() for shape in these)
    checks = [check_shape(shape, device) for shape in distinct if max(shape) <= MAX_CHECKED_ROWS]
    print_tables(timings, checks)
    results: dict[str, Any] = {"device": device_name, "timings": [asdict(t) for t in timings], "checks": checks}
    if arguments.checkpoint:
        results["checkpoint_seconds"] = time_checkpoint(arguments.checkpoint, device)
        print(f"\nscan of {arguments.checkpoint.name} from the page cache: {results['checkpoint_seconds']:.2f} s")
    is_whole = arguments.layers is None and arguments.divide_by == 1 and device != "cpu"
    broken = list_broken(timings, checks, device_name=device_name, whole=is_whole)
    print("\n".join(["", *broken]) if broken else "\nevery promise holds" + ("" if is_whole else " that applies here"))
    if arguments.json:
        arguments.json.write_text(json.dumps({**results, "broken": broken}, indent=1) + "\n", encoding="utf-8")
    return BROKEN if broken else 0


if __name__ == "__main__":
    sys.exit(main())
