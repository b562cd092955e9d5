"""A speech LLM: Whisper's encoder, an adaptor, any causal language model; as transformers has its own.

Importing this makes transformers' Auto classes and its speech recognition pipeline know the model.
"""

from oblong.models.speech_lm.adaptor_file import load_adaptor, save_adaptor
from oblong.models.speech_lm.base_model import SpeechLMModel
from oblong.models.speech_lm.building import build_speech_lm
from oblong.models.speech_lm.configuration import AdaptorConfig, SpeechLMConfig, make_paper_config
from oblong.models.speech_lm.encoded_audio import EncodedAudio
from oblong.models.speech_lm.loading import load_speech_lm
from oblong.models.speech_lm.modeling import SpeechLMForConditionalGeneration
from oblong.models.speech_lm.processing import SpeechLMProcessor, find_language_name
from oblong.models.speech_lm.registration import register
from oblong.models.speech_lm.supervision import (
    TrainingInputs,
    check_supervision,
    make_training_inputs,
    pad_training_inputs,
)

__all__ = [
    "AdaptorConfig",
    "EncodedAudio",
    "SpeechLMConfig",
    "SpeechLMForConditionalGeneration",
    "SpeechLMModel",
    "SpeechLMProcessor",
    "TrainingInputs",
    "build_speech_lm",
    "check_supervision",
    "find_language_name",
    "load_adaptor",
    "load_speech_lm",
    "make_paper_config",
    "make_training_inputs",
    "pad_training_inputs",
    "save_adaptor",
]

register()
