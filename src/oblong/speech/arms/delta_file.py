"""A speech delta on the disk: what trained, whole, and the manifest that says what it stands on.

    DIRECTORY/adaptor.safetensors     the adaptor, float32
    DIRECTORY/trained.safetensors     a Plan's tensors, float32, under the language model's names; or
    DIRECTORY/lora.safetensors        LoRA's matrices, float32
    DIRECTORY/speech_delta.json       `SpeechDelta`: digests of all this, and of every tensor of both towers
    DIRECTORY/...                     configuration, processor and tokenizer of the speech LLM

Why so: design/054.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from oblong.checkpoints.delta import create_directory
from oblong.errors import CorruptCheckpointError
from oblong.models.quiet import quiet_transformers
from oblong.models.speech_lm import SpeechLMForConditionalGeneration, SpeechLMProcessor, save_adaptor
from oblong.models.wheels import digest_file
from oblong.records import Provenance
from oblong.records.speech_delta import SPEECH_DELTA_FILE, SpeechDelta, TensorIdentity
from oblong.speech.arms.applying import AppliedArm
from oblong.speech.arms.towers import TowerProof, identify_tensor, prove_towers

ADAPTOR_FILE: Final = "adaptor.safetensors"
TRAINED_FILE: Final = "trained.safetensors"
LORA_FILE: Final = "lora.safetensors"
ADVICE: Final = "copy the delta here again, or train it again"

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSpeechDelta:
    """A speech delta that is what its manifest says.

    Attributes:
        directory: where it lies.
        manifest: its record.
        trained: float32 tensors of the language model, or LoRA's matrices, as `AppliedArm.trained` names them.
    """

    directory: Path
    manifest: SpeechDelta
    trained: Tensors


def is_speech_delta(directory: Path) -> bool:
    """Whether a directory holds a speech delta, whole or not."""
    return (directory / SPEECH_DELTA_FILE).is_file()


def write_speech_delta(
    directory: Path,
    model: SpeechLMForConditionalGeneration,
    applied: AppliedArm,
    *,
    processor: SpeechLMProcessor,
    encoder: str,
    language_model: str,
    replace: bool = False,
) -> SpeechDelta:
    """Write what trained, after proof that nothing else moved; the directory appears whole or not at all.

    Args:
        directory: where to.
        model: after training.
        applied: what trained.
        processor: the model's.
        encoder: the Whisper model that it was built with, as the user calls it; `load_speech_delta` looks there.
        language_model: likewise.
        replace: put it in the place of a directory that exists.

    Raises:
        VerificationError: a frozen tensor is not what its file holds.
        OutputExistsError: `directory` exists and `replace` is false.
        OutputWriteError: the disk is full or the place is not writable; what existed before is untouched.
    """
    proof = prove_towers(model, applied, encoder=encoder, language_model=language_model)
    with create_directory(directory, replace=replace) as temporary, quiet_transformers():
        save_adaptor(model, temporary / ADAPTOR_FILE)
        if applied.trained:
            tensors = {name: parameter.detach().cpu().contiguous() for name, parameter in applied.trained.items()}
            save_file(tensors, temporary / (TRAINED_FILE if applied.lora is None else LORA_FILE))
        model.config.save_pretrained(temporary)
        model.generation_config.save_pretrained(temporary)
        saver: Any = processor  # without annotations
        saver.save_pretrained(temporary)
        manifest = describe_speech_delta(temporary, applied, proof)
        manifest.write(temporary / SPEECH_DELTA_FILE)
    return manifest


def describe_speech_delta(directory: Path, applied: AppliedArm, proof: TowerProof) -> SpeechDelta:
    """The manifest of files that have just been written."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    names = {path: path.relative_to(directory).as_posix() for path in files}
    return SpeechDelta(
        encoder=proof.encoder,
        language_model=proof.language_model,
        arm=applied.kind,
        description=applied.description,
        plan_name=None if applied.plan is None else applied.plan.name,
        plan_digest=None if applied.plan is None else applied.plan.digest(),
        lora=applied.lora,
        stored={names[path]: identify_tensors(read_tensors(path)) for path in files if path.suffix == ".safetensors"},
        files={names[path]: digest_file(path) for path in files if path.suffix != ".safetensors"},
        fraction_moved=proof.fraction_moved,
        provenance=Provenance.here(),
    )


def read_speech_delta(directory: Path) -> StoredSpeechDelta:
    """Read a speech delta and check every file of it against the manifest.

    Raises:
        RecordError: the manifest is missing or invalid, or of a later version.
        CorruptCheckpointError: a file is missing, truncated or altered.
    """
    manifest = SpeechDelta.read(directory / SPEECH_DELTA_FILE)
    for name, digest in manifest.files.items():
        path = _find_file(directory, name)
        if digest_file(path) != digest:
            raise CorruptCheckpointError(path, "is not the file that the manifest describes", advice=ADVICE)
    tensors = {name: _read_checked(_find_file(directory, name), manifest.stored[name]) for name in manifest.stored}
    expected = {"plan": TRAINED_FILE, "adaptor_only": None}.get(manifest.arm, LORA_FILE)
    needed = {ADAPTOR_FILE} if expected is None else {ADAPTOR_FILE, expected}
    if tensors.keys() != needed or (manifest.lora is None) == (expected == LORA_FILE):
        raise CorruptCheckpointError(
            directory / SPEECH_DELTA_FILE, f"a delta of kind {manifest.arm!r} has other parts", advice=ADVICE
        )
    return StoredSpeechDelta(
        directory=directory, manifest=manifest, trained={} if expected is None else tensors[expected]
    )


def read_tensors(path: Path) -> Tensors:
    """All tensors of a safetensors file.

    Raises:
        CorruptCheckpointError: missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping, only keys()
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise CorruptCheckpointError(path, str(error), advice=ADVICE) from error


def identify_tensors(tensors: Tensors) -> Mapping[str, TensorIdentity]:
    """Identities by name."""
    return {name: identify_tensor(tensor) for name, tensor in tensors.items()}


def _find_file(directory: Path, name: str) -> Path:
    path = directory / name
    # By its name alone: in the Hub's cache the files are links to elsewhere.
    inside = not Path(name).is_absolute() and ".." not in Path(name).parts
    if not (inside and path.is_file()):
        raise CorruptCheckpointError(path, "is named by the manifest and is not there", advice=ADVICE)
    return path


def _read_checked(path: Path, expected: Mapping[str, TensorIdentity]) -> Tensors:
    tensors = read_tensors(path)
    found = identify_tensors(tensors)
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            raise CorruptCheckpointError(path, f"{name} is not the tensor that the manifest describes", advice=ADVICE)
    return tensors
