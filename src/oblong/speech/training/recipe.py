"""The recipe of a speech training: everything that decides its outcome, in one YAML file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Final, Literal, Self

import yaml
from pydantic import Field, field_validator, model_validator

from oblong.checkpoints.locate import cache_dir
from oblong.corpora.speech import BucketRule
from oblong.errors import RecipeError
from oblong.methods.recipe_fields import AnchorField, MethodField
from oblong.models.speech_lm import AdaptorConfig
from oblong.records.base import Part
from oblong.records.recipe import check_recipe, load_recipe_data
from oblong.speech.arms import ArmRecipe
from oblong.speech.training.method_fit import explain_misfit

FETCHED_PREFIX: Final = "speech:"
DEFAULT_RETENTION: Final[Mapping[str, str]] = {"english": "bundled:english-prose", "code": "bundled:python-code"}
# Measured nowhere, agreed everywhere: plain projections bear 1e-3 (Ultravox 2e-3), attention layers a third of it.
ALIGN_RATES: Final[Mapping[str, float]] = {"linear": 1e-3, "attention": 3e-4}

ANCHOR_TOKENS: Final = 512  # as `oblong tune` has them


class DataLimits(Part):
    """What of the manifests is used."""

    train: int | None = Field(default=None, gt=0, description="utterances of each training manifest, spread over it")
    evaluate: int | None = Field(default=None, gt=0, description="utterances of each test set, spread over it")
    max_seconds: float = Field(default=30.0, gt=0, description="longer audio is skipped and counted")


class SpeechDataRecipe(Part):
    """Manifests; `speech:NAME` is NAME.jsonl as `oblong speech fetch-data` built it."""

    train: tuple[str, ...] = Field(min_length=1, description="manifests to train on")
    evaluate: Mapping[str, str] = Field(min_length=1, description="test sets: a name and a manifest each")
    limits: DataLimits = DataLimits()

    @field_validator("train", mode="before")
    @classmethod
    def _accept_one(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class RetentionText(Part):
    """A text that the language model could read before: how much worse does it predict it now?"""

    source: str = Field(min_length=1, description="file, folder, Hub dataset or bundled:NAME")
    text_field: str = "text"
    documents: int = Field(default=8, gt=0, description="the first so many documents")
    characters: int = Field(default=1200, gt=0, description="of each document, the first so many characters")


class AdaptorRecipe(Part):
    """What joins encoder and language model; see `AdaptorConfig`."""

    kind: Literal["attention", "linear"] = "attention"
    downsampling: int = Field(default=4, gt=0, description="encoder frames per audio token")
    bottleneck: int | None = Field(default=None, gt=0, description="width inside; default: the language model's")
    num_heads: int = Field(default=8, gt=0)
    num_attention_layers: int = Field(default=2, ge=0)

    def make_config(self) -> AdaptorConfig:
        """As the model takes it."""
        config: Any = AdaptorConfig
        made: AdaptorConfig = config(**self.model_dump())
        return made


class OptimizerRecipe(Part):
    """AdamW and its schedule: a linear warm-up, then a cosine down to a share of the peak."""

    warmup_share: float = Field(default=0.08, ge=0, lt=1, description="of the stage's steps")
    final_share: float = Field(default=0.1, ge=0, le=1, description="of the peak rate, at the stage's last step")
    beta2: float = Field(default=0.99, gt=0, lt=1, description="beta1 is 0.9")
    max_gradient_norm: float = Field(default=1.0, gt=0, description="gradients are clipped to this global norm")


class BatchRecipe(Part):
    """Batches of utterances of similar length."""

    max_seconds: float = Field(default=60.0, gt=0, description="padded length of a batch")
    max_utterances: int = Field(default=16, gt=0)
    num_buckets: int = Field(default=8, gt=0)

    def make_rule(self) -> BucketRule:
        """As the batches are made by."""
        return BucketRule(**self.model_dump())


class MaskingRecipe(Part):
    """What training hides of each utterance, drawn anew each time; see `masking`. Evaluations hear everything."""

    time_share: float = Field(default=0.1, ge=0, lt=1, description="of the encoder's frames")
    time_length: int = Field(default=10, gt=0, description="frames in a row, 20 ms each")
    feature_share: float = Field(default=0.0, ge=0, lt=1, description="of a frame's features, the same in all frames")
    feature_length: int = Field(default=16, gt=0, description="features in a row")


class SpellRecipe(OptimizerRecipe):
    """Before stage A: the adaptor learns to spell with the language model's embeddings, by CTC; see `spelling`."""

    epochs: float = Field(default=6, gt=0, description="passes over the training utterances")
    learning_rate: float = Field(default=1e-3, gt=0, description="peak")
    length_weight: float = Field(
        default=1.0, ge=0, description="of the term that keeps audio tokens as long as the model's embeddings"
    )
    masking: MaskingRecipe | None = Field(default=None, description="SpecAugment in this stage; default: none")
    batch: BatchRecipe | None = Field(default=None, description="default: that of the other stages")


class AlignRecipe(OptimizerRecipe):
    """Stage A: the adaptor alone, until the language model listens to the audio."""

    learning_rate: float | None = Field(default=None, gt=0, description="default: 1e-3 linear, 3e-4 attention")
    max_steps: int = Field(default=1000, gt=0, description="at most so many steps")
    min_steps: int = Field(default=0, ge=0, description="at least so many")
    gate: float | None = Field(
        default=0.15,
        gt=0,
        lt=1,
        description="token accuracy with true minus with shuffled audio that ends the stage; null: max_steps end it",
    )
    after_gate_steps: int = Field(default=0, ge=0, description="train on for so many steps once the gate is open")
    start_from: str | None = Field(
        default=None, description="a finished run, or its aligned/: take its adaptor and skip the stage"
    )

    @model_validator(mode="after")
    def _check_steps(self) -> Self:
        if self.min_steps > self.max_steps:
            raise ValueError(f"min_steps ({self.min_steps}) is more than max_steps ({self.max_steps})")
        return self


class AdaptRecipe(OptimizerRecipe):
    """Stage B: the arm's tensors of the language model, and the adaptor at a smaller rate."""

    arm: ArmRecipe
    steps: int = Field(gt=0)
    learning_rate: float = Field(default=3e-5, gt=0, description="peak, of the language model's tensors")
    adaptor_factor: float = Field(default=0.3, ge=0, description="times the arm's learning rate is the adaptor's")
    masking: MaskingRecipe | None = Field(default=None, description="SpecAugment in this stage; default: none")
    method: MethodField = Field(
        default=None, description="what to do against forgetting: a name, or name, strength and other options"
    )
    anchor: AnchorField = Field(
        default=None, description="old text, for methods that take it: self_generated, bundled:NAME, a file, ..."
    )
    anchor_blocks: int = Field(
        default=1,
        gt=0,
        description="blocks of the anchor per step, where a method compares predictions with the base's",
    )
    sequence_length: int | None = Field(
        default=None, ge=2, description=f"tokens per block of the anchor; default: {ANCHOR_TOKENS}"
    )

    @property
    def block_tokens(self) -> int:
        """Tokens per block of old text."""
        return self.sequence_length or ANCHOR_TOKENS

    @model_validator(mode="after")
    def _check_method_fits(self) -> Self:
        if (misfit := explain_misfit(self.arm, self.method, self.anchor)) is not None:
            raise ValueError(misfit)
        return self


class StopRecipe(Part):
    """When stage B ends before its steps are done. What is not given does not stop it."""

    wer: float | None = Field(default=None, ge=0, description="macro-averaged word error rate that is good enough")
    patience: int | None = Field(default=None, gt=0, description="evaluations in a row without a better WER")
    max_perplexity_ratio: float | None = Field(
        default=None, ge=1, description="of any text to the untouched model; checkpoints beyond it are never the best"
    )


class SpeechTrainRecipe(Part):
    """One training of a speech LLM. Paths are relative to the current directory."""

    encoder: str = Field(min_length=1, description="a Whisper model: directory, Hub id or name such as whisper-base")
    language_model: str = Field(min_length=1, description="a causal language model, the same way")
    output: str = Field(min_length=1, description="directory of the run; must not exist yet")
    data: SpeechDataRecipe
    retention: Mapping[str, RetentionText] = Field(
        default_factory=lambda: {name: RetentionText(source=text) for name, text in DEFAULT_RETENTION.items()},
        description="texts to watch, a name and a source each",
    )
    adaptor: AdaptorRecipe = AdaptorRecipe()
    trailing_silence: float | None = Field(
        default=None, ge=0, le=30, description="seconds the encoder hears after a recording; default: up to 30 s in all"
    )
    spell: SpellRecipe | None = Field(default=None, description="a short lesson before stage A; default: none")
    align: AlignRecipe = AlignRecipe()
    adapt: AdaptRecipe
    stop: StopRecipe = StopRecipe()
    batch: BatchRecipe = BatchRecipe()
    evaluate_every: int = Field(
        default=100, gt=0, description="steps between evaluations in stages A and B; spelling is after each epoch"
    )
    probe_utterances: int = Field(default=32, ge=2, description="test utterances that the alignment gap is measured on")
    decode_batch: int = Field(default=8, gt=0, description="utterances decoded at a time; does not change the result")
    save_every: int = Field(default=50, gt=0, description="steps between resume checkpoints")
    log_every: int = Field(default=10, gt=0, description="steps per point of the loss curve")
    seed: int = Field(default=0, ge=0, lt=2**32, description="adaptor, LoRA, order of the utterances")
    dtype: Literal["bfloat16", "float32"] = Field(
        default="bfloat16", description="of frozen weights and arithmetic; what trains is float32 either way"
    )
    share_prefix: bool = Field(
        default=True, description="compute what the prompts have in common before the audio once a batch: faster"
    )
    shard_frozen: bool = Field(
        default=False, description="with several GPUs: divide the frozen layers among them in stage B (FSDP2)"
    )
    cache: bool = Field(default=True, description="keep the encoder's output on the disk for other runs")
    threads: int | None = Field(default=None, gt=0, description="CPU threads; default: torch's, one per core")

    @model_validator(mode="after")
    def _check_stop(self) -> Self:
        if self.stop.max_perplexity_ratio is not None and not self.retention:
            raise ValueError("stop.max_perplexity_ratio needs a text to watch: name one in retention, or leave it out")
        return self

    @field_validator("retention", mode="before")
    @classmethod
    def _accept_bare_sources(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {name: {"source": text} if isinstance(text, str) else text for name, text in value.items()}

    @field_validator("spell", mode="before")
    @classmethod
    def _accept_yes(cls, value: Any) -> Any:
        return {} if value is True else None if value is False else value

    @property
    def align_rate(self) -> float:
        """Peak learning rate of stage A."""
        return self.align.learning_rate or ALIGN_RATES[self.adaptor.kind]

    def to_yaml(self) -> str:
        """The recipe as resolved, every field written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)


def read_speech_recipe(path: Path, *, settings: Sequence[str] = ()) -> SpeechTrainRecipe:
    """Read a recipe, with some of its fields replaced.

    Args:
        path: the YAML file.
        settings: `KEY=VALUE`, the key with dots (`adapt.steps=200`), the value in YAML.

    Raises:
        RecipeError: unreadable, or with mistakes; all of them are listed, each with its place.
    """
    return check_recipe(SpeechTrainRecipe, apply_settings(load_recipe_data(path), settings, path), path)


def apply_settings(data: Mapping[str, Any], settings: Sequence[str], path: Path) -> dict[str, Any]:
    """Parsed data with `KEY=VALUE` settings put in; setting one kind of arm takes out the others.

    Raises:
        RecipeError: settings that cannot be read; all of them are listed.
    """
    merged = deepcopy(dict(data))
    problems = []
    for setting in settings:
        key, equals, text = setting.partition("=")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            problems.append(f"--set {setting}: the value is not YAML")
            continue
        if not equals or not key:
            problems.append(f"--set {setting}: write KEY=VALUE, such as adapt.steps=200")
        elif (problem := _put(merged, key.split("."), value)) is not None:
            problems.append(f"--set {setting}: {problem}")
    if problems:
        raise RecipeError(path, problems)
    return merged


def _put(data: dict[str, Any], keys: Sequence[str], value: Any) -> str | None:
    """Set a nested field; returns what is wrong, if anything."""
    place: Any = data
    for number, key in enumerate(keys[:-1]):
        place = place.setdefault(key, {})
        if not isinstance(place, dict):
            return f"{'.'.join(keys[: number + 1])} has no fields"
    if keys[:-1] == ["adapt", "arm"] and value is not None:
        # An arm is exactly one thing.
        place.clear()
    place[keys[-1]] = value
    return None


def resolve_manifest(name: str) -> Path:
    """The file behind a manifest's name; it need not exist."""
    if name.startswith(FETCHED_PREFIX):
        return cache_dir() / "speech" / f"{name.removeprefix(FETCHED_PREFIX)}.jsonl"
    return Path(name).expanduser()


def count_warmup(recipe: OptimizerRecipe, num_steps: int) -> int:
    """Steps over which the rate rises; at least one that is not the last."""
    return min(max(1, math.ceil(recipe.warmup_share * num_steps)), max(1, num_steps - 1))
