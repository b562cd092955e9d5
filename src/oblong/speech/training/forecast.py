"""What a training would take, before it is started: parameters, memory, tokens, and a few timed steps.

Models that are on this disk are read by their configurations and built without memory; of the pair that the paper used
the sizes are known, so that its recipe can be checked on any machine.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

import torch
from pydantic import Field
from transformers import AutoConfig

from oblong.checkpoints.locate import locate_model
from oblong.errors import ModelNotFoundError, UserError
from oblong.methods import build_method
from oblong.methods.protocol import Sizes
from oblong.models.causal_lm import model_directory
from oblong.models.quiet import quiet_transformers
from oblong.models.speech_lm import SpeechLMConfig, SpeechLMForConditionalGeneration, make_paper_config
from oblong.models.speech_lm.whisper_encoder import read_encoder_config
from oblong.records import Plan
from oblong.records.base import Part
from oblong.speech.training.method_fit import reads_old_text, refuse_processes
from oblong.speech.training.method_sizes import complete_sizes, count_old_tokens
from oblong.speech.training.processes import refuse_idle_processes
from oblong.speech.training.recipe import SpeechTrainRecipe
from oblong.speech.training.sharding import find_layers
from oblong.speech.training.timing import time_training_steps

PAPER_MODELS: Final = ("openai/whisper-large-v3", "meta-llama/Llama-3.1-8B-Instruct")
FRAMES_PER_SECOND: Final = 50
TEXT_TOKENS: Final = 96  # of an utterance: template, instruction and transcript; an estimate
# Source: Korthikanti et al. 2022, equation 1, without the attention scores that fused kernels do not keep.
ACTIVATION_BYTES: Final = 34
PAPER_TENSORS: Final = 100
MASTER_BYTES: Final = 4
STATE_BYTES: Final = 12  # float32 gradient and two moments
MATRIX_DIMENSIONS: Final = 2


class SpeechForecast(Part):
    """What a training would take."""

    num_encoder: int
    num_adaptor: int
    num_language_model: int = Field(description="the head included; a tied one counts once")
    num_arm: int = Field(description="parameters of the language model that train")
    weight_bytes: int = Field(description="of all weights in stage B, trained ones in float32")
    num_processes: int = Field(default=1, description="GPUs; bytes and tokens are those of one of them")
    sharded_bytes: int = Field(default=0, description="of the frozen layers, that stage B divides among the GPUs")
    optimizer_bytes: int = Field(description="gradients and AdamW's moments")
    activation_bytes: int = Field(description="estimate for the largest batch, nothing recomputed")
    method_bytes: int = Field(default=0, description="of the method against forgetting, in stage B")
    tokens_per_step: int = Field(description="estimate for the largest batch")
    method_tokens: int = Field(default=0, description="of old text that a step of stage B reads beside its batch")
    align_steps: int
    adapt_steps: int
    seconds_per_step: float | None = Field(description="measured on a few batches; null where the models are not here")
    method_seconds: float | None = Field(
        default=None, description="that the method adds to a step of stage B; null where it was not timed"
    )
    notes: tuple[str, ...] = ()

    @property
    def memory_bytes(self) -> int:
        """All of it, on one GPU; in stage B, but for a language model that fits only when it is divided."""
        return self.weight_bytes + self.optimizer_bytes + self.activation_bytes + self.method_bytes


def forecast_training(recipe: SpeechTrainRecipe, path: Path, *, num_processes: int = 1) -> SpeechForecast:
    """Forecast a training.

    Args:
        recipe: what would be done.
        path: of the recipe, for messages.
        num_processes: GPUs that share each batch.

    Raises:
        UserError: more processes than a batch has utterances.
        MethodError: a method that several processes cannot share.
        RecipeError: data that cannot be read, where the models are here.
        ModelNotFoundError: models that are neither here nor the paper's.
        SpeechModelError: parts that do not fit together.
    """
    refuse_idle_processes(recipe, num_processes)
    refuse_processes(recipe.adapt.method, num_processes)
    config, is_here = read_config(recipe)
    with torch.device("meta"), quiet_transformers():
        model = SpeechLMForConditionalGeneration(config)
    num_encoder, num_adaptor, num_language_model = count_towers(model, config)
    num_arm, notes = count_arm(recipe, model)
    width = 2 if recipe.dtype == "bfloat16" else 4
    tokens = estimate_tokens(recipe, num_processes)
    text = config.text_config
    weights = (num_encoder + num_language_model - num_arm) * width + (num_arm + num_adaptor) * MASTER_BYTES
    layers = count_parameters(find_layers(model.model.language_model))
    frozen = max(0, layers - (0 if recipe.adapt.arm.lora else num_arm))
    sharded = frozen * width if recipe.shard_frozen and num_processes > 1 else 0
    times = time_training_steps(recipe, path) if is_here and not notes else None
    old_tokens = math.ceil(count_old_tokens(recipe) / num_processes)
    longest = max(tokens, recipe.adapt.block_tokens if reads_old_text(recipe.adapt.method, recipe.adapt.anchor) else 0)
    if not is_here:
        notes.append("the models are not on this disk: sizes are those of the paper's, and nothing was timed")
    return SpeechForecast(
        num_encoder=num_encoder,
        num_adaptor=num_adaptor,
        num_language_model=num_language_model,
        num_arm=num_arm,
        weight_bytes=weights - sharded + sharded // num_processes,
        num_processes=num_processes,
        sharded_bytes=sharded,
        optimizer_bytes=(num_arm + num_adaptor) * STATE_BYTES,
        activation_bytes=longest * text.hidden_size * text.num_hidden_layers * ACTIVATION_BYTES * width // 2,
        method_bytes=forecast_method(recipe, model, num_arm),
        tokens_per_step=tokens,
        method_tokens=old_tokens,
        align_steps=0 if recipe.align.start_from else recipe.align.max_steps,
        adapt_steps=recipe.adapt.steps,
        seconds_per_step=None if times is None else times.plain,
        method_seconds=None if times is None or times.held is None else max(0.0, times.held - times.plain),
        notes=tuple(notes),
    )


def read_config(recipe: SpeechTrainRecipe) -> tuple[SpeechLMConfig, bool]:
    """The configuration of the recipe's speech LLM, and whether its models are on this disk."""
    adaptor = recipe.adaptor.make_config()
    try:
        audio = read_encoder_config(locate_model(recipe.encoder))
        factory: Any = AutoConfig
        text = factory.from_pretrained(model_directory(locate_model(recipe.language_model)), trust_remote_code=False)
    except ModelNotFoundError:
        if (recipe.encoder, recipe.language_model) != PAPER_MODELS:
            raise
        paper = make_paper_config()
        audio, text, is_here = paper.audio_config, paper.text_config, False
    else:
        is_here = True
    factory = SpeechLMConfig
    config: SpeechLMConfig = factory(audio_config=audio, text_config=text, adaptor_config=adaptor)
    return config, is_here


def count_arm(recipe: SpeechTrainRecipe, model: SpeechLMForConditionalGeneration) -> tuple[int, list[str]]:
    """Parameters of the language model that would train, and what had to be assumed."""
    arm = recipe.adapt.arm
    if arm.adaptor_only:
        return 0, []
    matrices = list_matrices(model)
    if arm.lora is not None:
        return sum(arm.lora.rank * sum(parameter.shape) for parameter in matrices), []
    try:
        plan = Plan.read(Path(arm.plan or ""))
    except UserError as error:
        assumed = PAPER_TENSORS * sum(parameter.numel() for parameter in matrices) // len(matrices)
        return assumed, [f"{error}: {PAPER_TENSORS} matrices of average size are assumed, as many as in the paper"]
    return plan.totals.num_parameters, []


def list_matrices(model: SpeechLMForConditionalGeneration) -> list[torch.nn.Parameter]:
    """The language model's matrices but for its embeddings."""
    return [
        parameter
        for parameter in model.model.language_model.parameters()
        if parameter.dim() == MATRIX_DIMENSIONS and parameter.shape[0] != model.config.text_config.vocab_size
    ]


def forecast_method(recipe: SpeechTrainRecipe, model: SpeechLMForConditionalGeneration, num_arm: int) -> int:
    """Bytes that the method needs beside the training, as if the largest matrix of the model were among the trained."""
    method, anchor = recipe.adapt.method, recipe.adapt.anchor
    if method is None:
        return 0
    sizes = Sizes(
        num_trained=num_arm,
        num_tokens=0,
        vocabulary=model.config.text_config.vocab_size,
        num_anchor_tasks=1 if anchor is None else len(anchor.sources),
        largest_matrix=max(parameter.numel() for parameter in list_matrices(model)),
    )
    return build_method(method).forecast_bytes(complete_sizes(sizes, recipe))


def count_towers(model: SpeechLMForConditionalGeneration, config: SpeechLMConfig) -> tuple[int, int, int]:
    """Parameters of the encoder, the adaptor and the language model; tied embeddings count once."""
    num_encoder = count_parameters(model.model.audio_tower)
    num_adaptor = count_parameters(model.model.multi_modal_projector)
    num_language_model = count_parameters(model) - num_encoder - num_adaptor
    table: Any = model.get_input_embeddings()
    if config.tie_word_embeddings and table.weight is not model.lm_head.weight:  # one tensor once it is loaded
        num_language_model -= model.lm_head.weight.numel()
    return num_encoder, num_adaptor, num_language_model


def count_parameters(module: torch.nn.Module) -> int:
    """Elements of a module's parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def estimate_tokens(recipe: SpeechTrainRecipe, num_processes: int = 1) -> int:
    """Positions of a process's share of the largest batch that the rule allows."""
    audio = math.ceil(recipe.batch.max_seconds * FRAMES_PER_SECOND / recipe.adaptor.downsampling)
    return math.ceil((audio + recipe.batch.max_utterances * TEXT_TOKENS) / num_processes)
