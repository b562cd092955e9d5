"""A speech delta and its towers as one ordinary model directory, and proof from the files of what a delta is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from oblong.checkpoints.delta import create_directory, is_empty_directory
from oblong.checkpoints.locate import locate_model
from oblong.errors import OutputExistsError, SpeechModelError, UserError, VerificationError
from oblong.models.causal_lm import TORCH_DTYPES, Dtype
from oblong.models.quiet import quiet_transformers
from oblong.models.speech_lm import SpeechLMForConditionalGeneration, SpeechLMProcessor
from oblong.models.stored_tensors import open_stored_tensors
from oblong.speech.arms.delta_file import StoredSpeechDelta, is_speech_delta, read_speech_delta
from oblong.speech.arms.loading import load_speech_delta
from oblong.speech.arms.lora import merge_lora
from oblong.speech.arms.towers import find_towers
from oblong.tuning.prove import compute_fraction_moved, is_image
from oblong.tuning.verify import Check, Verification


def merge_speech_delta(
    directory: Path,
    output: Path,
    *,
    dtype: Dtype = "float32",
    encoder: str | None = None,
    language_model: str | None = None,
    force: bool = False,
) -> Path:
    """Write a delta with its towers as a model directory that `load_speech_lm` and transformers read.

    Args:
        directory: the delta.
        output: where to; appears whole or not at all.
        dtype: of the towers on the disk; float32 keeps all tensors to the bit.
        encoder: see `load_speech_delta`.
        language_model: see `load_speech_delta`.
        force: replace a model directory that is there.

    Returns:
        `output`.

    Raises:
        SpeechModelError: an audio-gated LoRA, which is not a change of weights; or see `load_speech_delta`.
        OutputExistsError: `output` exists and `force` is false.
        UserError: `output` exists and is no merged model, so that even `force` must not remove it.
        OutputWriteError: the disk is full or the place is not writable; what existed before is untouched.
    """
    _refuse_existing(output, force=force)
    model, processor = _load_merged(directory, encoder=encoder, language_model=language_model)
    for tower in (model.model.audio_tower, model.model.language_model, model.lm_head):
        tower.to(TORCH_DTYPES[dtype])
    savers: Any = (model, processor)  # without annotations
    with create_directory(output, replace=force) as temporary, quiet_transformers():
        for part in savers:
            part.save_pretrained(temporary)
    return output


def verify_speech_delta(
    directory: Path, *, encoder: str | None = None, language_model: str | None = None, merged: str | None = None
) -> Verification:
    """Check a delta's files against each other, against both towers, and against a merged model.

    Args:
        directory: the delta.
        encoder: see `load_speech_delta`.
        language_model: see `load_speech_delta`.
        merged: what `merge_speech_delta` made of it, to be compared bit for bit.

    Raises:
        VerificationError: trained tensors that did not move, or a merged model that is not the delta on its towers.
        SpeechModelError, CorruptCheckpointError, RecordError: see `load_speech_delta`.
    """
    delta = read_speech_delta(directory)
    manifest = delta.manifest
    hearing, writing = find_towers(manifest, encoder=encoder, language_model=language_model)
    problems = list(_find_unmoved(delta, writing))
    num_stored = sum(len(tensors) for tensors in manifest.stored.values())
    checks = [
        Check(statement="the delta holds what its manifest says", num_tensors=num_stored),
        Check(statement="the encoder on the disk is what was frozen", num_tensors=len(manifest.encoder.tensors)),
        Check(
            statement="the language model on the disk is what it was trained from",
            num_tensors=len(manifest.language_model.tensors),
        ),
    ]
    if delta.trained:
        checks.append(Check(statement="what the arm names in the language model moved", num_tensors=len(delta.trained)))
    if merged is not None:
        model, _ = _load_merged(directory, encoder=str(hearing), language_model=str(writing))
        problems += _compare_merged(locate_model(merged), model)
        statement = "the merged model: the delta on its towers"
        checks.append(Check(statement=statement, num_tensors=len(list(model.parameters()))))
    if problems:
        raise VerificationError(problems)
    return Verification(checks=tuple(checks), fraction_moved=_summarise_moved(delta))


def _load_merged(
    directory: Path, *, encoder: str | None, language_model: str | None
) -> tuple[SpeechLMForConditionalGeneration, SpeechLMProcessor]:
    """The whole model in float32, adapters folded in."""
    lora = read_speech_delta(directory).manifest.lora
    if lora is not None and lora.audio_gated:
        raise SpeechModelError(
            f"{directory} is an audio-gated LoRA: merged into the weights it would change text, which it was made not "
            "to; use the delta as it is: evaluate, transcribe and load_speech_delta take it"
        )
    model, processor = load_speech_delta(directory, dtype="float32", encoder=encoder, language_model=language_model)
    merge_lora(model)
    return model, processor


def _refuse_existing(output: Path, *, force: bool) -> None:
    if not output.exists() or is_empty_directory(output):
        return
    if not force:
        raise OutputExistsError(output)
    if is_speech_delta(output) or not (output / "config.json").is_file():
        raise UserError(f"{output} is no merged model and will not be replaced: choose another output")


def _find_unmoved(delta: StoredSpeechDelta, language_model: Path) -> Iterator[str]:
    stored = open_stored_tensors(language_model)
    for name, tensor in delta.trained.items():
        if delta.manifest.lora is not None:
            if name.endswith("lora_B.weight") and not tensor.any():
                yield f"{name}: is zero as it was at the start"
            continue
        if name not in stored:
            yield f"{name}: the language model has no such tensor"
            continue
        share = compute_fraction_moved(stored.read(name).to(torch.float32), tensor)
        if share == 0.0:
            yield f"{name}: in the Plan, but no element of it moved"
        elif share != delta.manifest.fraction_moved.get(name):
            yield f"{name}: {share:.4%} of it moved, the manifest says otherwise"


def _compare_merged(merged: Path, model: SpeechLMForConditionalGeneration) -> Iterator[str]:
    stored = open_stored_tensors(merged)
    state = model.state_dict()
    # Without the second names of tied tensors, which files leave out.
    for name in sorted({name for name, _ in model.named_parameters()} - set(stored.names)):
        yield f"{name}: the merged model has no such tensor"
    for name, tensor in stored.iterate():
        if name not in state or not is_image(tensor, state[name]):
            yield f"{name}: the merged model's is not that of the delta on its towers"


def _summarise_moved(delta: StoredSpeechDelta) -> float:
    """Share of the elements of what trained in the language model that moved, 0 to 1; matrices of LoRA count whole."""
    sizes = {name: tensor.numel() for name, tensor in delta.trained.items()}
    moved = sum(size * delta.manifest.fraction_moved.get(name, 1.0) for name, size in sizes.items())
    return moved / max(1, sum(sizes.values()))
