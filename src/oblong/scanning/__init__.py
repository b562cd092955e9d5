"""Scanning: spectra x checkpoints -> Scan."""

from oblong.scanning.progress import ProgressCallback, ScanProgress
from oblong.scanning.scanner import scan

__all__ = ["ProgressCallback", "ScanProgress", "scan"]
