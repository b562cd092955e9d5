"""What trains in a speech LLM: an arm of a study, applied, written as a delta, loaded and merged again."""

from oblong.speech.arms.applying import AppliedArm, apply_arm
from oblong.speech.arms.delta_file import is_speech_delta, read_speech_delta, write_speech_delta
from oblong.speech.arms.loading import load_speech_delta
from oblong.speech.arms.lora import choose_lora_rank, count_lora_parameters
from oblong.speech.arms.merging import merge_speech_delta, verify_speech_delta
from oblong.speech.arms.recipe import ArmKind, ArmRecipe, LoraRecipe

__all__ = [
    "AppliedArm",
    "ArmKind",
    "ArmRecipe",
    "LoraRecipe",
    "apply_arm",
    "choose_lora_rank",
    "count_lora_parameters",
    "is_speech_delta",
    "load_speech_delta",
    "merge_speech_delta",
    "read_speech_delta",
    "verify_speech_delta",
    "write_speech_delta",
]
