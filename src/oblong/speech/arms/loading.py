"""A speech delta put back on its encoder and its language model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoConfig, GenerationConfig

from oblong.errors import CorruptCheckpointError, SpeechModelError, UnsupportedFormatError
from oblong.models.causal_lm import Dtype, first_line
from oblong.models.names import match_parameters
from oblong.models.quiet import quiet_transformers
from oblong.models.speech_lm import (
    SpeechLMConfig,
    SpeechLMForConditionalGeneration,
    SpeechLMProcessor,
    build_speech_lm,
    load_adaptor,
)
from oblong.models.speech_lm.loading import check_processor
from oblong.records.speech_delta import LoraShape
from oblong.speech.arms.delta_file import ADAPTOR_FILE, ADVICE, LORA_FILE, StoredSpeechDelta, read_speech_delta
from oblong.speech.arms.lora import add_lora
from oblong.speech.arms.towers import find_towers
from oblong.tuning.adapters.lora import MATRICES

# What a configuration says of files, versions and this process, and not of the model.
PASSING_FIELDS: Final = frozenset({"_name_or_path", "name_or_path", "transformers_version", "dtype", "torch_dtype"})


def load_speech_delta(
    directory: Path, *, dtype: Dtype = "bfloat16", encoder: str | None = None, language_model: str | None = None
) -> tuple[SpeechLMForConditionalGeneration, SpeechLMProcessor]:
    """Build the speech LLM that a delta was written from; frozen but for its adaptor, in evaluation mode.

    Args:
        directory: what `write_speech_delta` wrote.
        dtype: of the towers in memory. A Plan's tensors take it as well: in float32 they are the masters bit for bit,
            in bfloat16 what autocast made of them in training. Adaptor and LoRA's matrices stay float32.
        encoder: where the Whisper model lies, if it is no longer where the delta was trained.
        language_model: where the language model lies, likewise.

    Raises:
        ModelNotFoundError: a tower is not there.
        SpeechModelError: a tower is not the one that the delta was trained on.
        RecordError, CorruptCheckpointError: a file of the delta is missing, truncated, altered, or of a later version.
        MissingExtraError: a delta of LoRA without PEFT.
    """
    delta = read_speech_delta(directory)
    hearing, writing = find_towers(delta.manifest, encoder=encoder, language_model=language_model)
    with quiet_transformers():
        config, generation_config, processor = _read_side_files(directory)
    model, _ = build_speech_lm(
        hearing, writing, config.adaptor_config, dtype=dtype, trailing_silence=config.trailing_silence
    )
    _refuse_other_architecture(directory, config, model.config)
    check_processor(processor, model.config)
    model.config.default_prompt_ids = config.default_prompt_ids
    model.generation_config = generation_config
    load_adaptor(model, directory / ADAPTOR_FILE)
    _load_trained(model, delta)
    model.freeze_towers()
    model.eval()  # type: ignore[no-untyped-call]
    return model, processor


@torch.no_grad()
def _load_trained(model: SpeechLMForConditionalGeneration, delta: StoredSpeechDelta) -> None:
    lora = delta.manifest.lora
    if lora is not None:
        _check_lora(delta, lora)
    targets = match_parameters(model.as_causal_lm(), delta.trained) if lora is None else add_lora(model, lora)
    for name in targets.keys() | delta.trained.keys():
        target, tensor = targets.get(name), delta.trained.get(name)
        if target is None or tensor is None or target.shape != tensor.shape:
            raise CorruptCheckpointError(delta.directory, f"{name} has no place of its shape", advice=ADVICE)
        target.copy_(tensor)


def _check_lora(delta: StoredSpeechDelta, lora: LoraShape) -> None:
    """Compare what the manifest asks to be built with what lies there, before memory is taken for it."""
    expected = {f"{module}.{matrix}.weight" for module in lora.modules for matrix in MATRICES}
    ranks = {tensor.shape[0] for name, tensor in delta.trained.items() if name.endswith(f".{MATRICES[0]}.weight")}
    if delta.trained.keys() != expected or ranks != {lora.rank}:
        reason = "does not hold the adapters that the manifest describes"
        raise CorruptCheckpointError(delta.directory / LORA_FILE, reason, advice=ADVICE)


def _read_side_files(directory: Path) -> tuple[SpeechLMConfig, GenerationConfig, SpeechLMProcessor]:
    sources: Any = (AutoConfig, GenerationConfig, SpeechLMProcessor)  # without annotations
    try:
        config, generation_config, processor = (source.from_pretrained(directory) for source in sources)
    except Exception as error:  # missing, broken or foreign files raise many kinds
        raise UnsupportedFormatError(directory, f"transformers cannot read it: {first_line(error)}") from error
    if not isinstance(config, SpeechLMConfig):
        raise UnsupportedFormatError(directory, f"is of a {config.model_type!r} model, not of a speech LLM")
    return config, generation_config, processor


def _refuse_other_architecture(directory: Path, trained: SpeechLMConfig, built: SpeechLMConfig) -> None:
    """Equal weights under another configuration, such as another rotary base, are another model."""
    differences = [
        *_find_differences(trained.audio_config, built.audio_config, "encoder"),
        *_find_differences(trained.text_config, built.text_config, "language model"),
    ]
    if differences:
        raise SpeechModelError(
            f"{directory} was trained on towers of other configurations: {'; '.join(differences)}; put the original "
            "config.json back"
        )


def _find_differences(trained: Any, built: Any, kind: str) -> Iterator[str]:
    # Only what both have: later releases of transformers add fields.
    before, now = trained.to_dict(), built.to_dict()
    for name in sorted((before.keys() & now.keys()) - PASSING_FIELDS):
        if before[name] != now[name]:
            yield f"the {kind}'s {name} was {before[name]!r} and is {now[name]!r}"
