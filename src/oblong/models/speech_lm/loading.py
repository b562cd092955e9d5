"""A saved speech LLM, read back strictly."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoConfig

from oblong.checkpoints.locate import locate_model
from oblong.errors import CorruptCheckpointError, SpeechModelError, UnsupportedFormatError
from oblong.models.causal_lm import TORCH_DTYPES, Dtype
from oblong.models.quiet import quiet_transformers
from oblong.models.speech_lm.configuration import SpeechLMConfig
from oblong.models.speech_lm.modeling import SpeechLMForConditionalGeneration
from oblong.models.speech_lm.processing import SpeechLMProcessor
from oblong.models.speech_lm.whisper_encoder import check_feature_extractor
from oblong.records import SPEECH_DELTA_FILE

MAX_NAMES_SHOWN: Final = 3


def load_speech_lm(
    path: Path | str, *, dtype: Dtype = "bfloat16"
) -> tuple[SpeechLMForConditionalGeneration, SpeechLMProcessor]:
    """Read a saved speech LLM; its towers are frozen and it is in evaluation mode, as one that was just built.

    Args:
        path: a directory that `save_pretrained` of model and processor wrote.
        dtype: of the towers in memory.

    Raises:
        ModelNotFoundError, UnsupportedFormatError: something is not there, or not a speech LLM.
        CorruptCheckpointError: tensors are missing, or the file is damaged.
        SpeechModelError: tensors of another width than the configuration's, or a processor of another model.
    """
    directory = locate_model(str(path))
    with quiet_transformers():
        _refuse_other_kinds(directory)
        processor = _load_processor(directory)
        model, report = _load_model(directory, TORCH_DTYPES[dtype])
    _refuse_misfits(directory, report)
    check_processor(processor, model.config)
    model.freeze_towers()
    model.eval()  # type: ignore[no-untyped-call]
    return model, processor


def check_processor(processor: SpeechLMProcessor, config: SpeechLMConfig) -> None:
    """Make sure that a processor writes the prompts that a model reads.

    Raises:
        SpeechModelError: other spectrograms, another placeholder, or another number of frames per audio token.
    """
    check_feature_extractor(processor.feature_extractor, config.audio_config)
    pairs = {
        "downsampling": (processor.downsampling, config.adaptor_config.downsampling),
        "audio_token_id": (processor.audio_token_id, config.audio_token_id),
    }
    problems = [f"its {name} is {its}, the model's {ours}" for name, (its, ours) in pairs.items() if its != ours]
    if problems:
        raise SpeechModelError(f"the processor belongs to another model: {'; '.join(problems)}; save both together")


def _refuse_other_kinds(directory: Path) -> None:
    if (directory / SPEECH_DELTA_FILE).is_file():
        advice = "`oblong merge` makes a model of it, and oblong.speech.arms.load_speech_delta reads it"
        raise UnsupportedFormatError(directory, f"is the delta of a speech LLM, not the whole of it: {advice}")
    try:
        config: Any = AutoConfig.from_pretrained(directory, trust_remote_code=False)
    except Exception as error:  # no file, broken JSON, an unknown architecture
        raise UnsupportedFormatError(directory, f"its config.json cannot be read: {error}") from error
    if not isinstance(config, SpeechLMConfig):
        raise UnsupportedFormatError(directory, f"is a {config.model_type!r} model, not a speech LLM")


def _load_processor(directory: Path) -> SpeechLMProcessor:
    try:
        processor: Any = SpeechLMProcessor.from_pretrained(directory)
    except Exception as error:  # missing or broken files raise many kinds
        raise UnsupportedFormatError(directory, f"its processor cannot be loaded: {error}") from error
    whole: SpeechLMProcessor = processor
    return whole


def _load_model(directory: Path, dtype: torch.dtype) -> tuple[SpeechLMForConditionalGeneration, Any]:
    options: dict[str, Any] = {"dtype": dtype, "output_loading_info": True, "ignore_mismatched_sizes": True}
    loader: Any = SpeechLMForConditionalGeneration
    try:
        model, report = loader.from_pretrained(directory, **options)
    except OSError as error:
        raise UnsupportedFormatError(directory, f"transformers cannot load it: {error}") from error
    except Exception as error:  # transformers and safetensors raise many kinds for a broken file
        raise CorruptCheckpointError(directory, f"{type(error).__name__}: {error}") from error
    return model, report


def _refuse_misfits(directory: Path, report: Any) -> None:
    if mismatched := sorted(str(entry[0]) for entry in report["mismatched_keys"]):
        raise SpeechModelError(
            f"{directory}: {_shorten(mismatched)} have other widths than its config.json says: encoder, adaptor and "
            "language model must be those that were trained together"
        )
    if missing := sorted(report["missing_keys"]):
        raise CorruptCheckpointError(directory, f"lacks tensors that its configuration asks for: {_shorten(missing)}")


def _shorten(names: list[str]) -> str:
    rest = len(names) - MAX_NAMES_SHOWN
    return ", ".join(names[:MAX_NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
