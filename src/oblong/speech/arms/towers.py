"""The pre-trained models that an arm stands on: what they are, and proof that training left them alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from oblong.checkpoints.delta import digest_tensor, name_dtype
from oblong.checkpoints.locate import locate_model
from oblong.errors import ModelNotFoundError, SpeechModelError, VerificationError
from oblong.models.speech_lm import SpeechLMForConditionalGeneration
from oblong.models.speech_lm.whisper_encoder import match_encoder_names
from oblong.models.stored_tensors import StoredTensors, open_stored_tensors
from oblong.records.speech_delta import SpeechDelta, TensorIdentity, Tower
from oblong.speech.arms.applying import AppliedArm, digest_unstored
from oblong.tuning.prove import compute_fraction_moved, is_image

MAX_NAMES_SHOWN: Final = 3
REMEDY: Final = (
    "put it back where it was, or name its place: load_speech_delta takes both towers', `oblong merge --base` the "
    "language model's"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerProof:
    """The outcome of a training that left the towers alone.

    Attributes:
        encoder, language_model: as their files have them.
        fraction_moved: share of the elements of each of the language model's trained tensors that differ from the
            file's, 0 to 1; nothing for adapters, which have no tensor in it.
    """

    encoder: Tower
    language_model: Tower
    fraction_moved: Mapping[str, float]


def identify_tensor(tensor: torch.Tensor) -> TensorIdentity:
    """Shape, dtype and digest of a tensor as a safetensors file has it."""
    return TensorIdentity(shape=tuple(tensor.shape), dtype=name_dtype(tensor.dtype), digest=digest_tensor(tensor))


def prove_towers(
    model: SpeechLMForConditionalGeneration, applied: AppliedArm, *, encoder: str, language_model: str
) -> TowerProof:
    """Compare what is frozen in a model with the files that it came from.

    Args:
        model: after training.
        applied: what trained.
        encoder: the Whisper model that it was built with, as the user calls it.
        language_model: the language model, as the user calls it.

    Raises:
        VerificationError: a frozen tensor is not what its file holds; all of them are named.
    """
    hearing, writing = (open_stored_tensors(locate_model(name)) for name in (encoder, language_model))
    audio_tower = model.model.audio_tower.state_dict()
    encoder_names = match_encoder_names(hearing.names)
    heard, problems = _compare(hearing, {name: audio_tower[short] for name, short in encoder_names.items()})
    fixed = {name: tensor for name, tensor in applied.language_model.items() if name not in applied.trained}
    written, more = _compare(writing, fixed, names=writing.names)
    problems = [*problems, *more, *_find_moved_unstored(model, applied)]
    if problems:
        raise VerificationError(problems)
    moved = {
        name: compute_fraction_moved(writing.read(name).to(torch.float32), parameter.detach().cpu())
        for name, parameter in applied.trained.items()
        if name in writing
    }
    return TowerProof(
        encoder=Tower(name=encoder, tensors=heard),
        language_model=Tower(name=language_model, tensors=written),
        fraction_moved=moved,
    )


def find_towers(manifest: SpeechDelta, *, encoder: str | None, language_model: str | None) -> tuple[Path, Path]:
    """Encoder and language model of a delta, where it was trained or where the user says, checked tensor by tensor.

    Raises:
        ModelNotFoundError: one is not there.
        SpeechModelError: one is not what the delta was trained on.
    """
    hearing = _locate_tower(manifest.encoder, encoder, "encoder")
    writing = _locate_tower(manifest.language_model, language_model, "language model")
    stored = open_stored_tensors(hearing)
    _check_tower(manifest.encoder, stored, match_encoder_names(stored.names), f"{hearing} is not the encoder")
    stored = open_stored_tensors(writing)
    _check_tower(manifest.language_model, stored, stored.names, f"{writing} is not the language model")
    return hearing, writing


def _locate_tower(tower: Tower, place: str | None, kind: str) -> Path:
    try:
        return locate_model(place or tower.name)
    except ModelNotFoundError as error:
        advice = f"it is the {kind} that the delta was trained on; {REMEDY}"
        raise ModelNotFoundError(place or tower.name, advice) from error


def _check_tower(tower: Tower, stored: StoredTensors, names: Iterable[str], headline: str) -> None:
    present = set(names)
    different = sorted(present ^ tower.tensors.keys())
    different += [
        name
        for name, expected in tower.tensors.items()
        if name in present and identify_tensor(stored.read(name)) != expected
    ]
    if different:
        rest = len(different) - MAX_NAMES_SHOWN
        shown = ", ".join(different[:MAX_NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
        raise SpeechModelError(
            f"{headline} {tower.name!r} that the delta was trained on: other tensors are {shown}; {REMEDY}"
        )


def _compare(
    stored: StoredTensors, tensors: Mapping[str, torch.Tensor], *, names: Iterable[str] | None = None
) -> tuple[Mapping[str, TensorIdentity], list[str]]:
    """Identities of a file's tensors, and which of `tensors` are not their images."""
    identities, problems = {}, []
    for name in tensors if names is None else names:
        base = stored.read(name)
        identities[name] = identify_tensor(base)
        if name in tensors and not is_image(tensors[name], base):
            problems.append(f"{name}: was to stay frozen, and moved")
    return identities, problems


def _find_moved_unstored(model: SpeechLMForConditionalGeneration, applied: AppliedArm) -> Iterator[str]:
    if not applied.unstored:
        return
    after = digest_unstored(model.as_causal_lm(), applied.language_model)
    for name, digest in applied.unstored.items():
        if after.get(name) != digest:
            yield f"{name}: was to stay frozen, and moved"
