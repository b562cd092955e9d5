"""Training a speech LLM: recipe, stages, evaluations, checkpoints. See design/055."""

from oblong.speech.training.progress import SpeechProgress
from oblong.speech.training.recipe import SpeechTrainRecipe, read_speech_recipe
from oblong.speech.training.run import train_speech

__all__ = ["SpeechProgress", "SpeechTrainRecipe", "read_speech_recipe", "train_speech"]
