"""The configuration of a speech LLM: a Whisper encoder, an adaptor and a causal language model.

Without `from __future__ import annotations`: transformers validates the fields by their annotations at run time.
"""

from typing import Any, Final, Literal

from transformers import AutoConfig, LlamaConfig, PreTrainedConfig, VoxtralEncoderConfig
from transformers.configuration_utils import SubConfigSpec

from oblong.errors import SpeechModelError

KINDS: Final = ("attention", "linear")


class AdaptorConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]  # transformers' own hook
    """What stands between the encoder and the language model.

    Attributes:
        kind: `attention`, the paper's (frame concatenation, linear, layer norm, multi-head self-attention with
            positional encoding), or `linear`, the control (frame concatenation, linear, layer norm).
        downsampling: encoder frames per audio token; 4 makes 12.5 tokens per second.
        bottleneck: width inside the adaptor; None for the language model's.
        num_heads: of each attention layer.
        num_attention_layers: the paper has two.
        keep_float32: keep the adaptor in float32 when the model is loaded in a narrower dtype.
    """

    model_type = "speech_lm_adaptor"

    kind: Literal["attention", "linear"] = "attention"
    downsampling: int = 4
    bottleneck: int | None = None
    num_heads: int = 8
    num_attention_layers: int = 2
    keep_float32: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        """Refuse what no adaptor can be.

        Raises:
            SpeechModelError: an unknown kind, or a size below 1.
        """
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]
        if self.kind not in KINDS:
            raise SpeechModelError(f"there is no adaptor of kind {self.kind!r}: choose one of {', '.join(KINDS)}")
        sizes = {"downsampling": self.downsampling, "num_heads": self.num_heads, "bottleneck": self.bottleneck}
        for name, size in sizes.items():
            if size is not None and size < 1:
                raise SpeechModelError(f"the adaptor's {name} is {size}: it must be 1 or more")

    def get_width(self, text_width: int) -> int:
        """Width inside the adaptor."""
        return self.bottleneck or text_width


class SpeechLMConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]  # transformers' own hook
    """A speech LLM.

    Attributes:
        audio_config: the encoder's, a `VoxtralEncoderConfig`: transformers' name for Whisper's encoder on its own.
        text_config: the language model's, of any causal LM of transformers.
        adaptor_config: what joins them.
        audio_token_id: stands in the prompt where an audio token goes; never looked up in the embedding table.
        default_prompt_ids: the transcription prompt with one placeholder, used where `generate` gets audio alone.
        trailing_silence: seconds of silence that the encoder hears after a recording; None for as many as fill its
            window, which is how Whisper was trained. One second costs a short recording a fraction of the time.
        audio_gated_adapters: switch PEFT adapters off wherever no audio is heard, so that text behaves as before.
        lm_head_bias: whether the language model's head has a bias.
        tie_word_embeddings: follows `text_config`.
    """

    model_type = "speech_lm"
    sub_configs_defaults = {
        "audio_config": SubConfigSpec(config_class=AutoConfig, model_type="voxtral_encoder"),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama"),
        "adaptor_config": SubConfigSpec(config_class=AdaptorConfig),
    }

    audio_config: Any = None
    text_config: Any = None
    adaptor_config: Any = None
    audio_token_id: int = 128_256
    default_prompt_ids: list[int] | None = None
    trailing_silence: float | None = None
    audio_gated_adapters: bool = False
    lm_head_bias: bool = False
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        """Make the parts and check that they fit.

        Raises:
            SpeechModelError: the adaptor's width cannot be split into its heads, or a negative time of silence.
        """
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]
        adaptor, text = self.adaptor_config, self.text_config
        self.tie_word_embeddings = bool(getattr(text, "tie_word_embeddings", False))
        width = adaptor.get_width(text.hidden_size)
        if adaptor.kind == "attention" and width % adaptor.num_heads:
            raise SpeechModelError(
                f"the adaptor is {width} wide, which {adaptor.num_heads} attention heads cannot share equally: set "
                "num_heads to a divisor, or a bottleneck that is a multiple of it"
            )
        if self.trailing_silence is not None and not 0 <= self.trailing_silence < float("inf"):
            raise SpeechModelError(f"trailing_silence is {self.trailing_silence} s: it must be 0 or more, or null")


def make_paper_config() -> SpeechLMConfig:
    """The paper's own scale: Whisper-large-v3's encoder, Llama-3.1-8B-Instruct, its adaptor.

    Source: section 4 of the paper, which writes "Llama-3.2-8B-Instruct"; there is no such model, and 8B is 3.1's.
    Sizes from the `config.json` of openai/whisper-large-v3 and meta-llama/Llama-3.1-8B-Instruct.
    """
    audio = VoxtralEncoderConfig(
        hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20, num_mel_bins=128
    )
    text = LlamaConfig(
        vocab_size=128_256,
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=131_072,
        rms_norm_eps=1e-5,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500_000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        bos_token_id=128_000,
        eos_token_id=128_009,
        tie_word_embeddings=False,
    )
    return SpeechLMConfig(audio_config=audio, text_config=text, audio_token_id=128_256)
