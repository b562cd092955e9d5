"""`merge`: base + delta = a full model directory that transformers loads.

A safetensors base is copied file by file and the trained tensors' bytes are then overwritten where they lie: the result
has the base's shards, order and metadata, and memory is bounded by the largest trained tensor.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

import torch

from oblong.checkpoints.base import Checkpoint
from oblong.checkpoints.delta import Delta, apply_delta, create_directory, is_empty_directory
from oblong.errors import OutputExistsError, UserError, VerificationError
from oblong.models.stored_tensors import open_stored_tensors
from oblong.tuning.verify import compare_with_base, locate_base, read_tuned_run, refuse_merging

CONFIG_FILE: Final = "config.json"
SINGLE_FILE: Final = "model.safetensors"
SIDE_FILES: Final = ("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "LICENSE*", "NOTICE*")


def merge_run(directory: Path, output: Path, *, base: str | None = None, force: bool = False) -> Path:
    """Write a run's model as a normal model directory.

    Args:
        directory: output of `tune`.
        output: where to; appears whole or not at all.
        base: the base model, where it is no longer where the run found it.
        force: replace a model directory that is there.

    Returns:
        `output`.

    Raises:
        OutputExistsError: `output` exists and `force` is false.
        UserError: `output` exists and is no model directory, so that even `force` must not remove it.
        VerificationError: the base model or the delta is not what the manifest says.
        UserError: the run added modules to the model.
        OutputWriteError: the disk is full or the place is not writable; what existed before is untouched.
    """
    _refuse_existing(output, force=force)
    delta = read_tuned_run(directory).delta
    refuse_merging(directory, delta)
    path = locate_base(delta.manifest, base)
    stored = open_stored_tensors(path)
    problems = list(compare_with_base(stored, delta.manifest))
    if problems:
        raise VerificationError(problems)
    with create_directory(output, replace=force) as temporary:
        if stored.checkpoint.info.format == "safetensors":
            _copy_side_files(path if path.is_dir() else path.parent, temporary)
            _copy_weights(stored.checkpoint, delta, temporary)
        else:
            _build_and_save(path, delta, temporary)
    return output


def _refuse_existing(output: Path, *, force: bool) -> None:
    if not output.exists() or is_empty_directory(output):
        return
    if not force:
        raise OutputExistsError(output)
    if not (output / CONFIG_FILE).is_file():
        raise UserError(f"{output} is no model directory and will not be replaced: choose another output")


def _copy_side_files(source: Path, target: Path) -> None:
    """Configuration and tokenizer; what oblong noted about the base's own origin does not hold for the merged model."""
    for pattern in SIDE_FILES:
        for file in source.glob(pattern):
            if file.is_file() and not file.name.startswith("oblong-"):
                shutil.copyfile(file, target / file.name)


def _copy_weights(checkpoint: Checkpoint, delta: Delta, target: Path) -> None:
    files = checkpoint.source.files
    # A single file is found by transformers only under its usual name.
    copies = {file: target / (file.name if len(files) > 1 else SINGLE_FILE) for file in files}
    for file, copy in copies.items():
        shutil.copyfile(file, copy)
    for tensor in checkpoint.tensors:
        if tensor.name in delta.tensors:
            data = delta.tensors[tensor.name].reshape(-1).view(torch.uint8).numpy().data
            with copies[tensor.file].open("r+b") as file_to_patch:
                file_to_patch.seek(tensor.offset)
                file_to_patch.write(data)


def _build_and_save(path: Path, delta: Delta, target: Path) -> None:
    """A base in another format, such as GGUF, becomes a new safetensors directory in float32, as exact as the delta."""
    from oblong.models.causal_lm import load_causal_lm
    from oblong.models.names import match_parameters
    from oblong.models.quiet import quiet_transformers

    loaded = load_causal_lm(str(path), dtype="float32")
    apply_delta(match_parameters(loaded.model, delta.tensors), delta)
    if hasattr(loaded.model.config, "quantization_config"):
        del loaded.model.config.quantization_config
    with quiet_transformers():
        loaded.model.save_pretrained(target)
        loaded.tokenizer.save_pretrained(target)
