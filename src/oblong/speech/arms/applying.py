"""An arm applied to a speech LLM: what it names trains in float32, with the adaptor; everything else is frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from oblong.checkpoints.delta import digest_tensor
from oblong.checkpoints.locate import locate_model
from oblong.errors import SpeechModelError
from oblong.models.names import match_parameters
from oblong.models.speech_lm import SpeechLMForConditionalGeneration
from oblong.models.stored_tensors import StoredTensors, open_stored_tensors
from oblong.records import Plan
from oblong.records.speech_delta import LoraShape
from oblong.speech.arms.lora import add_lora, shape_lora
from oblong.speech.arms.recipe import ArmKind, ArmRecipe
from oblong.tuning.apply import apply_plan
from oblong.tuning.prove import is_image

# Where a Plan of the composite finds the language model's tensors.
COMPOSITE_PREFIX = "model.language_model."


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedArm:
    """A speech LLM that is ready to be trained.

    Attributes:
        kind: of the arm.
        description: one line: what trains in the language model, and how much.
        trained: float32 parameters that train in the language model: a Plan's by tensor name, LoRA's matrices by
            `MODULE.lora_A.weight`; empty where the adaptor trains alone.
        adaptor: the adaptor's float32 parameters by their names in it; they train in every arm.
        language_model: every parameter of the language model and its head that its file has a tensor for, by tensor
            name, adapters left out.
        unstored: digests from before training of the parameters that no tensor of the file is the image of (experts
            that transformers fuses as it loads).
        plan: the Plan of a plan arm.
        lora: the adapters of a LoRA arm.
    """

    kind: ArmKind
    description: str
    trained: Mapping[str, nn.Parameter]
    adaptor: Mapping[str, nn.Parameter]
    language_model: Mapping[str, nn.Parameter]
    unstored: Mapping[str, str]
    plan: Plan | None = None
    lora: LoraShape | None = None

    @property
    def num_trained(self) -> int:
        """Elements that train in the language model."""
        return sum(parameter.numel() for parameter in self.trained.values())

    @property
    def num_trainable(self) -> int:
        """Elements that train, the adaptor's included."""
        return self.num_trained + sum(parameter.numel() for parameter in self.adaptor.values())


def apply_arm(
    model: SpeechLMForConditionalGeneration, arm: ArmRecipe, *, language_model: Path | str, seed: int = 0
) -> AppliedArm:
    """Freeze a speech LLM but for its adaptor and what an arm names; that trains in float32.

    Args:
        model: as `build_speech_lm` made it, in any floating-point dtype; changed in place.
        arm: what trains in the language model.
        language_model: the one that the model was built with, whose file the masters are read from.
        seed: of LoRA's matrices.

    Raises:
        PlanMismatchError: the Plan was made for another language model.
        SelectionError: a LoRA target that matches nothing.
        SpeechModelError: the model holds another language model than that, or has been given an arm before.
        MissingExtraError: LoRA without PEFT.
        RecordError, ModelNotFoundError, UnsupportedFormatError: a file cannot be read.
    """
    view = model.as_causal_lm()
    path = locate_model(str(language_model))
    stored = open_stored_tensors(path)
    parameters = match_parameters(view, stored.names)
    _refuse_other_language_model(model, parameters, stored, path)
    unstored = digest_unstored(view, parameters)
    model.freeze_towers()
    plan: Plan | None = None
    lora: LoraShape | None = None
    trained: Mapping[str, nn.Parameter] = {}
    if arm.plan is not None:
        stored.refuse_quantised()
        plan = Plan.read(Path(arm.plan))
        renamed = rename_for_language_model(plan, view, stored)
        trained = apply_plan(view, renamed, stored=stored, allow_other_weights=arm.allow_other_weights).trained
    elif arm.lora is not None:
        lora = shape_lora(model, arm.lora)
        trained = add_lora(model, lora, seed=seed)
    applied = AppliedArm(
        kind=arm.kind,
        description=_describe(plan, lora, sum(parameter.numel() for parameter in trained.values())),
        trained=trained,
        adaptor=unfreeze_adaptor(model),
        language_model=parameters,
        unstored=unstored,
        plan=plan,
        lora=lora,
    )
    _check_trainable(model, applied)
    return applied


def rename_for_language_model(plan: Plan, view: Any, stored: StoredTensors) -> Plan:
    """A Plan of the composite's scan as one of the bare language model; any other Plan as it is.

    Args:
        plan: with names such as `model.language_model.layers.0.mlp.up_proj.weight`.
        view: the language model on its own.
        stored: its file, which knows the tensor as `model.layers.0...` or `layers.0...`.
    """

    def rename(name: str) -> str:
        short = name.removeprefix(COMPOSITE_PREFIX)
        candidates = (f"{view.base_model_prefix}.{short}", short)
        return next((candidate for candidate in candidates if candidate in stored), name)

    tensors = tuple(
        tensor.model_copy(update={"name": rename(tensor.name)}) if tensor.name.startswith(COMPOSITE_PREFIX) else tensor
        for tensor in plan.tensors
    )
    return plan.model_copy(update={"tensors": tensors})


def unfreeze_adaptor(model: SpeechLMForConditionalGeneration) -> Mapping[str, nn.Parameter]:
    """Make the adaptor train, in float32."""
    adaptor = model.model.multi_modal_projector
    adaptor.to(torch.float32).requires_grad_(True)
    return dict(adaptor.named_parameters())


def digest_unstored(view: nn.Module, parameters: Mapping[str, nn.Parameter]) -> Mapping[str, str]:
    """Digests of the parameters that are not among those with a tensor of their own in the file."""
    images = {id(parameter) for parameter in parameters.values()}
    return {
        name: digest_tensor(parameter) for name, parameter in view.named_parameters() if id(parameter) not in images
    }


def _refuse_other_language_model(
    model: SpeechLMForConditionalGeneration,
    parameters: Mapping[str, nn.Parameter],
    stored: StoredTensors,
    path: Path,
) -> None:
    if hasattr(model.model.language_model, "peft_config"):
        raise SpeechModelError("the language model has adapters already: apply one arm to a freshly built model")
    different = [name for name, parameter in parameters.items() if not is_image(parameter, stored.read(name))]
    if different or not parameters:
        example = different[0] if different else "none of its tensors is there"
        raise SpeechModelError(
            f"the speech LLM does not hold the language model of {path} as its file has it (for one, {example}): name "
            "the language model that it was built with, and apply one arm to a freshly built model"
        )


def _describe(plan: Plan | None, lora: LoraShape | None, num_trained: int) -> str:
    if plan is not None:
        return f"Plan {plan.name}: {len(plan.tensors)} tensors, {num_trained:,} parameters"
    if lora is not None:
        kind = "audio-gated LoRA" if lora.audio_gated else "LoRA"
        layers = f"{len(lora.modules)} linear layers"
        return f"{kind}, rank {lora.rank}, alpha {lora.alpha:g}, on {layers}: {num_trained:,} parameters"
    return "adaptor only"


def _check_trainable(model: SpeechLMForConditionalGeneration, applied: AppliedArm) -> None:
    meant = {id(parameter) for part in (applied.trained, applied.adaptor) for parameter in part.values()}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad != (id(parameter) in meant):
            verb = "train" if parameter.requires_grad else "be frozen"
            raise SpeechModelError(f"{name}: would {verb}, against the arm: {applied.description}")
        if parameter.requires_grad and parameter.dtype != torch.float32:
            raise SpeechModelError(f"{name}: would train in {parameter.dtype}, not in float32")
