"""From what a user calls a speech model to a Transcriber, strictly loaded and never with remote code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import torch

from oblong.checkpoints.config import read_json_object
from oblong.checkpoints.locate import locate_model
from oblong.errors import CorruptCheckpointError, UnsupportedFormatError, UserError
from oblong.evaluation.evaluate import choose_device
from oblong.models.causal_lm import TORCH_DTYPES, Dtype, first_line, refuse_incomplete
from oblong.models.quiet import quiet_transformers
from oblong.models.wheels import digest_file
from oblong.records import SPEECH_DELTA_FILE
from oblong.records.base import digest_bytes
from oblong.speech.transcribers import AudioLanguageModelTranscriber, Transcriber, WhisperTranscriber

WHISPER: Final = "whisper"
SPEECH_LM: Final = "speech_lm"
SPEECH_DELTA: Final = "speech_delta"
# What decides the text: weights, configurations, tokenizer, chat template.
DIGESTED: Final = ("*.safetensors", "*.bin", "*.json", "*.jinja", "*.model", "*.txt")

Loader = Callable[[Path, Dtype], tuple[Any, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedTranscriber:
    """A model that is ready to listen, with what tells it from others.

    Attributes:
        transcriber: the model.
        name: as the user calls it.
        digest: SHA-256 over its files.
        dtype, device: of the weights.
        prompt: the instruction in place of its own.
    """

    transcriber: Transcriber
    name: str
    digest: str
    dtype: Dtype
    device: torch.device
    prompt: str | None


def load_transcriber(
    model: str, *, device: str | None = None, dtype: Dtype | None = None, prompt: str | None = None
) -> LoadedTranscriber:
    """Load Whisper, a SpeechLM, or another audio language model of transformers.

    Args:
        model: a directory, a Hub id or a name such as `whisper-base`; a directory of a speech delta, too.
        device: where it computes, `cpu` or `cuda`; default: a GPU if there is one.
        dtype: of the weights; default: bfloat16 on a GPU; on the CPU float32, which is faster there and decodes a
            batch to the same tokens as its rows alone.
        prompt: an instruction in place of the model's own.

    Raises:
        ModelNotFoundError: no model under this name.
        UnsupportedFormatError: not a directory of a model that hears; or a prompt for one that takes none.
        CorruptCheckpointError: the weights cannot be read, or are not all that the configuration asks for.
        SelectionError: a device that this machine does not have.
    """
    place = choose_device(device)
    path = locate_model(model)
    resolved: Dtype = dtype or ("bfloat16" if place.type == "cuda" else "float32")
    kind = read_model_type(path)
    if kind == WHISPER and prompt is not None:
        raise UnsupportedFormatError(path, "Whisper takes no instruction: leave --prompt out")
    with quiet_transformers():
        loaded, processor = _load_both(path, _LOADERS.get(kind, _load_audio_language_model), resolved)
    loaded.to(place).eval()
    transcriber: Transcriber
    if kind == WHISPER:
        transcriber = WhisperTranscriber(model=loaded, processor=processor)
    else:
        transcriber = AudioLanguageModelTranscriber(model=loaded, processor=processor, prompt=prompt)
    return LoadedTranscriber(
        transcriber=transcriber, name=model, digest=digest_model(path), dtype=resolved, device=place, prompt=prompt
    )


def read_model_type(path: Path) -> str:
    """The `model_type` of a model directory's configuration; `speech_delta` for a speech delta.

    Raises:
        UnsupportedFormatError: a single file, or a directory without config.json.
        CorruptCheckpointError: config.json cannot be read.
    """
    if (path / SPEECH_DELTA_FILE).is_file():
        return SPEECH_DELTA
    if not (path / "config.json").is_file():
        raise UnsupportedFormatError(path, "is no model directory with config.json, weights, processor and tokenizer")
    return str(read_json_object(path / "config.json").get("model_type"))


def digest_model(path: Path) -> str:
    """SHA-256 over the names and digests of a directory's files that decide what it writes."""
    files = sorted({file for pattern in DIGESTED for file in path.glob(pattern)})
    return digest_bytes("\n".join(f"{file.name} {digest_file(file)}" for file in files).encode())


def _load_both(path: Path, load: Loader, dtype: Dtype) -> tuple[Any, Any]:
    try:
        return load(path, dtype)
    except UserError:
        raise
    except OSError as error:
        raise UnsupportedFormatError(path, f"transformers cannot load it: {first_line(error)}") from error
    except Exception as error:  # transformers and safetensors raise many kinds for a broken file
        raise CorruptCheckpointError(path, f"{type(error).__name__}: {first_line(error)}") from error


def _load_whisper(path: Path, dtype: Dtype) -> tuple[Any, Any]:
    import transformers

    library: Any = transformers
    return _load_strictly(library.WhisperForConditionalGeneration, path, dtype), _read_processor(
        library.WhisperProcessor, path
    )


def _load_speech_lm(path: Path, dtype: Dtype) -> tuple[Any, Any]:
    models: Any = import_module("oblong.models.speech_lm")
    model, processor = models.load_speech_lm(path, dtype=dtype)
    return model, processor


def _load_speech_delta(path: Path, dtype: Dtype) -> tuple[Any, Any]:
    arms: Any = import_module("oblong.speech.arms")
    model, processor = arms.load_speech_delta(path, dtype=dtype)
    return model, processor


def _load_audio_language_model(path: Path, dtype: Dtype) -> tuple[Any, Any]:
    import transformers

    library: Any = transformers
    processor = _read_processor(library.AutoProcessor, path)
    if not hasattr(processor, "apply_transcription_request"):
        kind = read_model_type(path)
        raise UnsupportedFormatError(
            path,
            f"is a {kind!r} model, which does not take speech: name a Whisper, a SpeechLM or another model whose"
            " processor has apply_transcription_request",
        )
    return _load_strictly(library.AutoModelForMultimodalLM, path, dtype), processor


def _load_strictly(model_class: Any, path: Path, dtype: Dtype) -> Any:
    options: dict[str, Any] = {"dtype": TORCH_DTYPES[dtype], "output_loading_info": True, "trust_remote_code": False}
    model, report = model_class.from_pretrained(path, **options)
    refuse_incomplete(path, report)
    return model


def _read_processor(processor_class: Any, path: Path) -> Any:
    try:
        return processor_class.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # a missing, broken or unknown processor raises many kinds
        advice = f"its processor cannot be loaded: {first_line(error)}; put the processor's and tokenizer's files there"
        raise UnsupportedFormatError(path, advice) from error


_LOADERS: Final[Mapping[str, Loader]] = {
    WHISPER: _load_whisper,
    SPEECH_LM: _load_speech_lm,
    SPEECH_DELTA: _load_speech_delta,
}
