"""The verdict on one hostile checkpoint: `oblong scan` must give a Scan, or name the file and exit with 2.

Run as a script it judges what stdin asks for, one number a line, so that a process that dies, hangs or eats the memory
is seen from outside.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import shutil
import sys
import tempfile
import traceback
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from oblong.cli.main import run
from oblong.records import Scan
from tests.mutation_seeds import Files, make_seeds
from tests.mutations import mutate_checkpoint

# What a scan may take beyond the process that imports it: resident, and asked for (threads reserve address space).
RESIDENT_FACTOR: Final = 10
RESIDENT_BYTES: Final = 64 << 20
RESERVED_BYTES: Final = 1 << 30
ALLOCATION_WORDS: Final = ("allocate", "MemoryError", "not enough memory")
# Torch reserves what a storage of its old format claims, compares, and gives it back untouched: named, and allowed.
RESERVED_BY_TORCH: Final = ".pth: corrupt checkpoint: it is truncated or no torch file: [enforce fail at alloc_cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`fault` is None where the scan gave a Scan or a good error; `message` is what it printed."""

    number: int
    kind: str
    what: str
    code: int | None
    fault: str | None
    message: str
    peak_bytes: int = 0


def judge(seed: int, number: int, place: Path) -> Verdict:
    """Make a mutant in `place`, scan it, and say what came of it."""
    kind, files, what = mutate_checkpoint(seed, number)
    code, fault, message = judge_files(files, place / f"m{number}", as_file=number % 4 == 0)
    return Verdict(number=number, kind=kind, what=what, code=code, fault=fault, message=message)


def judge_files(files: Files, folder: Path, *, as_file: bool = False) -> tuple[int | None, str | None, str]:
    """Exit code, what is wrong with the outcome (None: nothing), and what was printed to stderr."""
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    output = folder.with_suffix(".jsonl")
    first = folder / next(iter(files))
    # Files of these names are no model directory's, so they are named themselves.
    model = first if as_file or first.suffix in (".pt", ".pth") else folder
    errors, results = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(results), warnings.catch_warnings():
            warnings.simplefilter("always")
            code = run(["scan", str(model), "-o", str(output), "--threads", "1", "--no-cache", "--heads"])
        fault = find_fault(code, errors.getvalue(), output, [*files, folder.name])
    except BaseException as error:
        code, fault = None, f"{type(error).__name__}: {error}"
        errors.write(traceback.format_exc())
    finally:
        shutil.rmtree(folder)
    output.unlink(missing_ok=True)
    return code, fault, errors.getvalue()


def find_fault(code: int, errors: str, output: Path, names: list[str]) -> str | None:
    """What is wrong with an outcome."""
    if "Warning:" in errors:
        return "a warning of a library reaches the user"
    if any(word in errors for word in ALLOCATION_WORDS) and RESERVED_BY_TORCH not in errors:
        return "more memory was asked for than there may be"
    if list(output.parent.glob(f"{output.name}.*")) and code == 2:
        # What was finished before the bad tensor may be kept; a file that was refused at once must leave nothing.
        for path in output.parent.glob(f"{output.name}.*"):
            path.unlink()
    if code == 0:
        Scan.read(output)
        return None
    if code != 2:
        return f"exit code {code}"
    if not any(name in errors for name in names):
        return "the error names no file"
    return "a bare traceback" if "Traceback" in errors else None


def read_memory(field: str) -> int:
    """A figure of this process in bytes: VmHWM, VmRSS or VmSize."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    return 0


def limit_memory() -> None:
    """Refuse what asks for more than a gigabyte beyond what the process has now."""
    bound = read_memory("VmSize") + RESERVED_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))


def judge_within_bounds(seed: int, number: int, place: Path) -> Verdict:
    """`judge`, and look at the peak of the resident memory."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = read_memory("VmRSS")
    verdict = judge(seed, number, place)
    peak = max(read_memory("VmHWM") - before, 0)
    size = sum(len(content) for content in mutate_checkpoint(seed, number)[1].values())
    fault = verdict.fault
    if fault is None and peak > RESIDENT_FACTOR * size + RESIDENT_BYTES:
        fault = f"{peak / 1e6:.0f} MB of memory for files of {size / 1e6:.3f} MB"
    return Verdict(**{**asdict(verdict), "fault": fault, "peak_bytes": peak})


def warm_up(place: Path) -> None:
    """Import and allocate what every scan needs, by scanning the sound checkpoints."""
    for name, files in make_seeds().items():
        code, fault, message = judge_files(files, place / f"sound-{name}")
        assert (code, fault) == (0, None), f"the sound {name} fails: {message}"


def main() -> None:
    """Judge mutants of the run `argv[1]` as their numbers arrive; one line of JSON each."""
    os.environ["OBLONG_SPECTRA_CACHE"] = "off"
    answers = os.fdopen(os.dup(1), "w")
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        warm_up(place)
        limit_memory()
        answers.write("ready\n")
        answers.flush()
        for line in sys.stdin:
            verdict = judge_within_bounds(int(sys.argv[1]), int(line), place)
            answers.write(json.dumps(asdict(verdict)) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
