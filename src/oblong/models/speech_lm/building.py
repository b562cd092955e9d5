"""A new speech LLM from a Whisper model and a causal language model."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from oblong.checkpoints.locate import locate_model
from oblong.models.causal_lm import TORCH_DTYPES, Dtype, load_causal_lm
from oblong.models.quiet import quiet_transformers
from oblong.models.speech_lm.adaptor import SpeechAdaptor
from oblong.models.speech_lm.chat_template import AUDIO_TOKEN, find_end_of_turn, get_chat_template, wrap_chat_template
from oblong.models.speech_lm.configuration import AdaptorConfig, SpeechLMConfig
from oblong.models.speech_lm.head import check_head
from oblong.models.speech_lm.modeling import SpeechLMForConditionalGeneration
from oblong.models.speech_lm.processing import SpeechLMProcessor
from oblong.models.speech_lm.whisper_encoder import (
    read_encoder_config,
    read_feature_extractor,
    read_whisper_encoder,
)


def build_speech_lm(
    encoder: Path | str,
    language_model: Path | str,
    adaptor: AdaptorConfig | None = None,
    *,
    dtype: Dtype = "bfloat16",
    seed: int = 0,
    trailing_silence: float | None = None,
) -> tuple[SpeechLMForConditionalGeneration, SpeechLMProcessor]:
    """Put a speech LLM together: pre-trained towers, frozen, and a fresh adaptor, which trains.

    Args:
        encoder: a Whisper model: directory, Hub id in the cache, or a name that `oblong fetch` knows.
        language_model: a causal language model, the same way.
        adaptor: what joins them; default: the paper's.
        dtype: of the towers in memory; the adaptor is float32 unless its configuration says otherwise.
        seed: of the adaptor's weights.
        trailing_silence: see `SpeechLMConfig`.

    Returns:
        The model, in evaluation mode, and its processor.

    Raises:
        ModelNotFoundError, UnsupportedFormatError, CorruptCheckpointError: a part cannot be loaded.
        SpeechModelError: the parts do not fit together.
    """
    encoder_path = locate_model(str(encoder))
    audio_config = read_encoder_config(encoder_path)
    loaded = load_causal_lm(str(language_model), dtype=dtype)
    check_head(loaded.model, loaded.path)
    with quiet_transformers():
        processor = make_processor(read_feature_extractor(encoder_path, audio_config), loaded.tokenizer, adaptor)
        config = make_config(audio_config, loaded.model, adaptor or AdaptorConfig(), processor)
        config.trailing_silence = trailing_silence
        tower = read_whisper_encoder(encoder_path, TORCH_DTYPES[dtype])
        model = assemble(config, tower, loaded.model, seed=seed)
    model.generation_config = make_generation_config(loaded.model, processor, config)
    model.freeze_towers()
    model.eval()  # type: ignore[no-untyped-call]
    return model, processor


def make_processor(
    extractor: Any, tokenizer: PreTrainedTokenizerBase, adaptor: AdaptorConfig | None = None
) -> SpeechLMProcessor:
    """The processor of a new model; the placeholder is added to the tokenizer, the template is taught to hear.

    Raises:
        SpeechModelError: see `find_end_of_turn`.
    """
    if tokenizer.pad_token is None:
        # Safe, since nothing here goes by the padding's id: masks and labels are set by position.
        tokenizer.pad_token = tokenizer.eos_token
    template = get_chat_template(tokenizer)
    end_of_turn = find_end_of_turn(tokenizer, template)
    tokenizer.add_special_tokens({"additional_special_tokens": [AUDIO_TOKEN]}, replace_extra_special_tokens=False)
    return SpeechLMProcessor(
        extractor,
        tokenizer,
        chat_template=wrap_chat_template(template, end_of_turn),
        downsampling=(adaptor or AdaptorConfig()).downsampling,
        end_of_turn=end_of_turn,
    )


def make_config(
    audio_config: Any, language_model: PreTrainedModel, adaptor: AdaptorConfig, processor: SpeechLMProcessor
) -> SpeechLMConfig:
    """The configuration of a new model."""
    head: Any = language_model.get_output_embeddings()  # type: ignore[no-untyped-call]
    prompt: list[int] = processor.tokenizer(processor.make_prompt(), add_special_tokens=False)["input_ids"]
    return SpeechLMConfig(
        audio_config=audio_config,
        text_config=copy_text_config(language_model.config),
        adaptor_config=adaptor,
        audio_token_id=processor.audio_token_id,
        default_prompt_ids=prompt,
        lm_head_bias=getattr(head, "bias", None) is not None,
    )


def copy_text_config(text_config: Any) -> Any:
    """A language model's configuration without how its file was packed: in memory it no longer is."""
    copied = copy.deepcopy(text_config)
    if hasattr(copied, "quantization_config"):
        del copied.quantization_config
    return copied


def make_generation_config(
    language_model: PreTrainedModel, processor: SpeechLMProcessor, config: SpeechLMConfig
) -> GenerationConfig:
    """How to decode: greedily, to the end of the turn or what else the language model stops at."""
    given: Any = language_model.generation_config
    tokenizer = processor.tokenizer
    ends = given.eos_token_id if isinstance(given.eos_token_id, list) else [given.eos_token_id]
    last = tokenizer(processor.end_of_turn, add_special_tokens=False)["input_ids"][-1]
    stops = sorted({last, *(end for end in ends if end is not None)})
    padding = tokenizer.pad_token_id
    configuration: Any = GenerationConfig  # its constructor has no annotations
    result: GenerationConfig = configuration(
        bos_token_id=given.bos_token_id,
        eos_token_id=stops,
        pad_token_id=last if padding is None else padding,
        do_sample=False,
        # A vocabulary with spare rows may have one for the placeholder; nothing may be transcribed as it.
        suppress_tokens=[config.audio_token_id] if config.audio_token_id < config.text_config.vocab_size else None,
    )
    return result


def assemble(
    config: SpeechLMConfig, tower: nn.Module, language_model: PreTrainedModel, *, seed: int
) -> SpeechLMForConditionalGeneration:
    """Hang loaded parts into an empty model, and give it a fresh adaptor at the scale of the embeddings."""
    with torch.device("meta"):
        model = SpeechLMForConditionalGeneration(config)
    model.model.audio_tower = tower
    model.model.language_model = language_model.base_model
    model.lm_head = language_model.get_output_embeddings()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adaptor = SpeechAdaptor(config)
    dtype = torch.float32 if config.adaptor_config.keep_float32 else model.lm_head.weight.dtype
    model.model.multi_modal_projector = adaptor.to(dtype)
    model.match_adaptor_scale()
    return model
