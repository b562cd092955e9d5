"""Peak resident memory of a scan above the imported program.

    python benchmarks/scan_memory.py [MODEL] [--spectrum full] [--threads 2] [--json FILE]

The scan runs in a process of its own: ru_maxrss is read once everything a scan imports is imported and once the scan is
written; the difference is what the scan itself needed. The figure to hold is under 300 MB for the demo model.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

LIMIT_BYTES = 300_000_000

MEASURED = """
import json, resource, sys, tempfile
from pathlib import Path

import scipy.linalg, threadpoolctl

import oblong.cli.main
from oblong.scanning import scan

def peak():
    # kilobytes on Linux, bytes on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

model, spectrum, threads = sys.argv[1], sys.argv[2], int(sys.argv[3]) or None
before = peak()
with tempfile.TemporaryDirectory() as directory:
    found = scan(model, output=Path(directory) / "s.jsonl", spectrum=spectrum, num_threads=threads, cache=False)
largest = max(found, key=lambda unit: unit.num_parameters)
print(json.dumps({"imported_bytes": before, "scan_bytes": peak() - before, "units": len(found),
                  "largest_tensor": largest.name, "largest_tensor_float32_bytes": 4 * largest.num_parameters}))
"""


def measure_peak(model: str, spectrum: str, threads: int) -> dict[str, Any]:
    """Run one scan in a fresh process and return its peak memory."""
    command = [sys.executable, "-c", MEASURED, model, spectrum, str(threads)]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(finished.stdout)
    return {"model": model, "spectrum": spectrum, "threads": threads or "all cores", **result}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="demo")
    parser.add_argument("--spectrum", default="extremes", choices=["extremes", "full"])
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    result = measure_peak(arguments.model, arguments.spectrum, arguments.threads)
    print(f"imported program   {result['imported_bytes'] / 1e6:8.1f} MB")
    print(f"scan above it      {result['scan_bytes'] / 1e6:8.1f} MB   (to hold: {LIMIT_BYTES / 1e6:.0f} MB for demo)")
    print(f"largest tensor     {result['largest_tensor_float32_bytes'] / 1e6:8.1f} MB in float32")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    if arguments.model == "demo" and result["scan_bytes"] >= LIMIT_BYTES:
        sys.exit("the scan needed more memory than it may")


if __name__ == "__main__":
    main()
