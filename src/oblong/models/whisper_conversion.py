"""From a CTranslate2 folder of Whisper to a transformers directory: weights, configurations, tokenizer, features.

CTranslate2 keeps of the configuration only what it decodes with; the rest follows from the shapes, the vocabulary and
what all Whisper models have in common. The numbers are not touched: float16 in, float16 out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from oblong.checkpoints.config import read_json_object
from oblong.errors import UnsupportedFormatError
from oblong.models.ctranslate2 import Arrays, read_ctranslate2
from oblong.models.quiet import quiet_transformers
from oblong.models.wheels import Progress
from oblong.models.whisper_weights import count_layers, rename_whisper_weights

if TYPE_CHECKING:
    from transformers import GenerationConfig, WhisperConfig, WhisperTokenizer

NUM_STEPS: Final = 3
# Source: openai/whisper, decoding.py: `max_initial_timestamp` 1.0 s in steps of 0.02 s.
MAX_INITIAL_TIMESTAMP_INDEX: Final = 50
# Source: openai/whisper, model.py, `Whisper.is_multilingual`. The English models have ids of languages, but no use.
MULTILINGUAL_VOCABULARY: Final = 51865


def convert_whisper(source: Path, directory: Path, report: Progress) -> None:
    """Write a directory that `WhisperForConditionalGeneration` and `WhisperProcessor` load.

    Args:
        source: folder with CTranslate2's `model.bin` and `config.json`, and the `tokenizer.json`.
        directory: made by this; 16 kHz audio, 30 s windows.
        report: told of the stage `convert`, 3 steps.

    Raises:
        CorruptCheckpointError, UnsupportedFormatError: `model.bin` is not a Whisper model of CTranslate2.
    """
    import transformers
    from safetensors.numpy import save_file

    library: Any = transformers  # without annotations where it matters here

    with quiet_transformers():
        report("convert", 0, NUM_STEPS)
        arrays = read_ctranslate2(source / "model.bin")
        tensors = {name: np.ascontiguousarray(values) for name, values in rename_whisper_weights(arrays).items()}
        directory.mkdir(parents=True)
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        report("convert", 1, NUM_STEPS)
        tokenizer = library.WhisperTokenizer.from_pretrained(source)
        features = library.WhisperFeatureExtractor(feature_size=arrays["encoder/conv1/weight"].shape[1])
        library.WhisperProcessor(features, tokenizer).save_pretrained(directory)
        features.save_pretrained(directory)
        report("convert", 2, NUM_STEPS)
        make_whisper_config(arrays, tokenizer).save_pretrained(directory)
        decoding = read_json_object(source / "config.json")
        is_multilingual = len(arrays["decoder/embeddings/weight"]) >= MULTILINGUAL_VOCABULARY
        generation = make_generation_config(decoding, tokenizer, is_multilingual=is_multilingual)
        generation.save_pretrained(directory)
        report("convert", NUM_STEPS, NUM_STEPS)


def make_whisper_config(arrays: Arrays, tokenizer: WhisperTokenizer) -> WhisperConfig:
    """The model's configuration, from the shapes of its arrays."""
    from transformers import WhisperConfig

    width, num_mel_bins, _ = arrays["encoder/conv1/weight"].shape
    end = find_token(tokenizer, "<|endoftext|>")
    return WhisperConfig(
        architectures=["WhisperForConditionalGeneration"],
        dtype=str(arrays["encoder/conv1/weight"].dtype),
        vocab_size=len(arrays["decoder/embeddings/weight"]),
        num_mel_bins=num_mel_bins,
        d_model=width,
        encoder_layers=count_layers("encoder", arrays),
        decoder_layers=count_layers("decoder", arrays),
        encoder_attention_heads=int(arrays["encoder/num_heads"]),
        decoder_attention_heads=int(arrays["decoder/num_heads"]),
        encoder_ffn_dim=len(arrays["encoder/layer_0/ffn/linear_0/bias"]),
        decoder_ffn_dim=len(arrays["decoder/layer_0/ffn/linear_0/bias"]),
        max_source_positions=len(arrays["encoder/position_encodings/encodings"]),
        max_target_positions=len(arrays["decoder/position_encodings/encodings"]),
        activation_function="gelu",
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        decoder_start_token_id=find_token(tokenizer, "<|startoftranscript|>"),
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )


def make_generation_config(
    decoding: Mapping[str, Any], tokenizer: WhisperTokenizer, *, is_multilingual: bool
) -> GenerationConfig:
    """How to decode: CTranslate2's `config.json` in transformers' words.

    Args:
        decoding: that file.
        tokenizer: the model's; says which ids the special tokens have.
        is_multilingual: whether the model is told a language and a task.
    """
    import transformers

    end = find_token(tokenizer, "<|endoftext|>")
    configuration: Any = transformers.GenerationConfig  # its constructor has no annotations
    result: GenerationConfig = configuration(
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        decoder_start_token_id=find_token(tokenizer, "<|startoftranscript|>"),
        max_length=448,
        alignment_heads=decoding["alignment_heads"],
        suppress_tokens=decoding["suppress_ids"],
        begin_suppress_tokens=decoding["suppress_ids_begin"],
        no_timestamps_token_id=find_token(tokenizer, "<|notimestamps|>"),
        prev_sot_token_id=find_token(tokenizer, "<|startofprev|>"),
        return_timestamps=False,
        max_initial_timestamp_index=MAX_INITIAL_TIMESTAMP_INDEX,
        is_multilingual=is_multilingual,
        **(_list_languages_and_tasks(decoding["lang_ids"], tokenizer) if is_multilingual else {}),
    )
    return result


def _list_languages_and_tasks(language_ids: Sequence[int], tokenizer: WhisperTokenizer) -> dict[str, dict[str, int]]:
    return {
        "lang_to_id": dict(zip(tokenizer.convert_ids_to_tokens(list(language_ids)), language_ids, strict=True)),
        "task_to_id": {task: find_token(tokenizer, f"<|{task}|>") for task in ("transcribe", "translate")},
    }


def find_token(tokenizer: WhisperTokenizer, token: str) -> int:
    """The id of a special token.

    Raises:
        UnsupportedFormatError: the tokenizer has no such token (and would answer with that of the unknown).
    """
    number = tokenizer.convert_tokens_to_ids(token)
    if not isinstance(number, int) or tokenizer.convert_ids_to_tokens(number) != token:
        raise UnsupportedFormatError("tokenizer.json", f"has no token {token}: it is not Whisper's")
    return number
