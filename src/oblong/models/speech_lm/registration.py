"""The model made known to transformers: Auto classes, and the list that its speech recognition pipeline goes by."""

from __future__ import annotations

from typing import Any

import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES

from oblong.models.speech_lm.base_model import SpeechLMModel
from oblong.models.speech_lm.configuration import SpeechLMConfig
from oblong.models.speech_lm.modeling import SpeechLMForConditionalGeneration
from oblong.models.speech_lm.processing import SpeechLMProcessor

GENERATING = ("AutoModelForCausalLM", "AutoModelForMultimodalLM", "AutoModelForSpeechSeq2Seq")


def register() -> None:
    """Register everything; a second call changes nothing."""
    library: Any = transformers  # without annotations where it matters here
    model_type = SpeechLMConfig.model_type
    library.AutoConfig.register(model_type, SpeechLMConfig, exist_ok=True)
    library.AutoModel.register(SpeechLMConfig, SpeechLMModel, exist_ok=True)
    for name in GENERATING:
        if hasattr(library, name):  # older releases lack the multimodal one
            getattr(library, name).register(SpeechLMConfig, SpeechLMForConditionalGeneration, exist_ok=True)
    library.AutoProcessor.register(SpeechLMConfig, SpeechLMProcessor, exist_ok=True)
    names: Any = MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES
    names[model_type] = SpeechLMForConditionalGeneration.__name__
