"""`oblong scan` in a process of its own: wall time, and peak memory above the imported program.

The peak is that of this process image alone (VmHWM): ru_maxrss would carry over what the parent held when it forked.
Checkpoint files are read, not mapped, so the page cache does not count.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from oblong.records import Scan

MEASURED = """
import json, resource, sys
from pathlib import Path

import numpy, scipy.linalg, threadpoolctl

import oblong.cli.main, oblong.scanning, oblong.reporting.scan_tables

def peak():
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * next(int(l.split()[1]) for l in status.read_text().splitlines() if l.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

report = sys.argv.pop()  # not for the command line
before = peak()
code = 0
try:
    oblong.cli.main.main()
except SystemExit as stop:
    code = stop.code
Path(report).write_text(json.dumps({"imported_bytes": before, "scan_bytes": peak() - before}))
sys.exit(code)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanProcess:
    """What one process needed, imports included in `seconds` and not in `scan_bytes`; and the Scan it wrote."""

    seconds: float
    imported_bytes: int
    scan_bytes: int
    scan: Scan


def run_scan(model: Path, directory: Path, *options: str) -> ScanProcess:
    """Run `oblong scan MODEL` with some options, writing into an empty directory.

    Raises:
        CalledProcessError: the scan failed.
    """
    output, report = directory / "scan.jsonl", directory / "peak.json"
    arguments = ["scan", str(model), "-o", str(output), *options]
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", MEASURED, *arguments, str(report)], check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    return ScanProcess(seconds=seconds, scan=Scan.read(output), **json.loads(report.read_text()))
