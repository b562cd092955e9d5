"""Every method by name: its options, what it needs, what it cannot be combined with, and where its code is.

Read without torch; the code of a method is imported when it is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from oblong.methods import options as opt
from oblong.methods.options import MethodOptions
from oblong.records.base import describe_validation_error

if TYPE_CHECKING:
    from oblong.methods.protocol import Method


class InSpeech(StrEnum):
    """What a method acts on while a language model learns to hear."""

    TENSORS = "tensors"  # the language model's tensors, gradients and steps, with old text beside them
    REPLAY = "replay"  # batches that old text is added to
    COMPARISON = "comparison"  # predictions beside the base's: of old text, without an anchor of the transcripts
    TRANSCRIPTS = "transcripts"  # the tokens of the transcripts that are learned
    NOTHING = "nothing"  # it does not go with speech


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodSpec:
    """One row of the registry.

    Attributes:
        options: the class of its options; their `name` is the method's.
        code: `module:class` under `oblong.methods`.
        summary: one line for tables.
        needs_anchor: it cannot do without old data.
        on_outputs: it acts on batches, predictions and losses alone, whatever parameters train.
        in_speech: what it acts on in a speech training.
        not_in_speech: why it does not go with speech; empty where it does.
        can_use_anchor: it works without, and does more with it.
        measures_anchor: it reads all of the old data through, once, before training.
        may_leave_unmoved: tensors of the Plan may rightly end where they began.
        adds_modules: the tuned model has modules that the base lacks, so a delta checkpoint cannot hold it.
        old_data_once: in a sequence of tasks, old data is read at the first of them alone.
    """

    options: type[MethodOptions]
    code: str
    summary: str
    needs_anchor: bool = False
    on_outputs: bool = False
    in_speech: InSpeech = InSpeech.TENSORS
    not_in_speech: str = ""
    can_use_anchor: bool = False
    measures_anchor: bool = False
    may_leave_unmoved: bool = False
    adds_modules: bool = False
    old_data_once: bool = False

    @property
    def uses_anchor(self) -> bool:
        """Whether old data goes in where there is some."""
        return self.needs_anchor or self.can_use_anchor

    @property
    def name(self) -> str:
        """The name in recipes."""
        return str(self.options.model_fields["name"].default)


_SPECS: Final = (
    MethodSpec(
        options=opt.PlainOptions,
        code="protocol:PlainFineTuning",
        summary="plain fine-tuning",
        on_outputs=True,
    ),
    MethodSpec(options=opt.L2SpOptions, code="l2_sp:L2Sp", summary="half squared distance from the base"),
    MethodSpec(
        options=opt.EwcOptions,
        code="ewc:ElasticWeightConsolidation",
        summary="distance from the base, weighted by the Fisher information of old data",
        needs_anchor=True,
        measures_anchor=True,
    ),
    MethodSpec(
        options=opt.MasOptions,
        code="mas:MemoryAwareSynapses",
        summary="distance from the base, weighted by the output's sensitivity on unlabelled old data",
        needs_anchor=True,
        measures_anchor=True,
    ),
    MethodSpec(
        options=opt.SiOptions,
        code="si:SynapticIntelligence",
        summary="distance from the base, weighted by what each weight did for the loss on its way",
        needs_anchor=True,
        old_data_once=True,
    ),
    MethodSpec(
        options=opt.ReplayOptions,
        code="replay:ExperienceReplay",
        summary="old blocks beside the new ones",
        needs_anchor=True,
        on_outputs=True,
        in_speech=InSpeech.REPLAY,
    ),
    MethodSpec(
        options=opt.KlToBaseOptions,
        code="kl_to_base:KlToBase",
        summary="KL divergence to the base's predictions on the new data",
        on_outputs=True,
        in_speech=InSpeech.COMPARISON,
    ),
    MethodSpec(
        options=opt.LwfOptions,
        code="lwf:LearningWithoutForgetting",
        summary="distillation from the base, softened, on the new data",
        on_outputs=True,
        in_speech=InSpeech.COMPARISON,
    ),
    MethodSpec(
        options=opt.GemOptions,
        code="gem:GradientEpisodicMemory",
        summary="the gradient projected so that no old task's loss rises",
        needs_anchor=True,
    ),
    MethodSpec(
        options=opt.AGemOptions,
        code="a_gem:AveragedGem",
        summary="the gradient projected so that the old tasks' mean loss does not rise",
        needs_anchor=True,
    ),
    MethodSpec(
        options=opt.PackNetOptions,
        code="packnet:PackNet",
        summary="the base keeps its largest weights, the new task gets the others",
        can_use_anchor=True,
    ),
    MethodSpec(
        options=opt.EvolutionaryPruningOptions,
        code="evolutionary_pruning:EvolutionaryPruning",
        summary="the new task gets the feed-forward units that old data misses least, found by a genetic algorithm",
        needs_anchor=True,
        measures_anchor=True,
        may_leave_unmoved=True,
    ),
    MethodSpec(
        options=opt.ClasspOptions,
        code="classp:ClasspMethod",
        summary="an optimizer that moves weights with large gradients only, less the more they have moved",
        in_speech=InSpeech.NOTHING,
        not_in_speech="is the optimizer of all that trains, and the adaptor, which is new, needs AdamW: take mofo, "
        "which also moves few weights, or l2_sp, which also holds back what has moved",
        can_use_anchor=True,
        may_leave_unmoved=True,
    ),
    MethodSpec(
        options=opt.SvbOptions,
        code="svb:SingularValueBounding",
        summary="singular values held in a band",
    ),
    MethodSpec(
        options=opt.EigenvalueDecayOptions,
        code="eigenvalue_decay:EigenvalueDecay",
        summary="the largest singular value of the weights, or of their update, as a penalty",
    ),
    MethodSpec(
        options=opt.NullSpaceOptions,
        code="null_space:NullSpace",
        summary="updates damped along the inputs that old data uses",
        needs_anchor=True,
        measures_anchor=True,
    ),
    MethodSpec(
        options=opt.KfacDampingOptions,
        code="kfac_damping:KfacDamping",
        summary="updates damped along what the base's answers depend on",
        needs_anchor=True,
    ),
    MethodSpec(
        options=opt.SubspaceOptions,
        code="subspace_projection:SubspaceProjection",
        summary="updates orthogonal to the leading singular subspaces",
    ),
    MethodSpec(
        options=opt.InformationBottleneckOptions,
        code="information_bottleneck:InformationBottleneck",
        summary="a noisy channel before the output layer, its rate as a penalty",
        in_speech=InSpeech.NOTHING,
        not_in_speech="adds a module to the language model, and a speech delta holds tensors of the adaptor and the "
        "language model alone: take kl_to_base or eaft, which also act on predictions",
        adds_modules=True,
    ),
    MethodSpec(
        options=opt.MaskTheTargetOptions,
        code="mask_the_target:MaskTheTarget",
        summary="KL divergence to the base over all tokens but the right one",
        on_outputs=True,
        in_speech=InSpeech.COMPARISON,
    ),
    MethodSpec(
        options=opt.EaftOptions,
        code="eaft:EntropyAdaptive",
        summary="tokens weighted by the entropy of the prediction",
        on_outputs=True,
        in_speech=InSpeech.TRANSCRIPTS,
    ),
    MethodSpec(
        options=opt.FlowOptions,
        code="flow:Flow",
        summary="samples that the base finds hard weigh less",
        on_outputs=True,
        in_speech=InSpeech.TRANSCRIPTS,
    ),
    MethodSpec(
        options=opt.StmOptions,
        code="stm:SelectiveTokenMasking",
        summary="tokens that surprise the base are not learned",
        on_outputs=True,
        in_speech=InSpeech.TRANSCRIPTS,
    ),
    MethodSpec(
        options=opt.MofoOptions,
        code="mofo:Mofo",
        summary="only the weights with the largest momentum move",
    ),
    MethodSpec(
        options=opt.HalfFineTuningOptions,
        code="half_fine_tuning:HalfFineTuning",
        summary="a random half of the tensors is frozen",
        may_leave_unmoved=True,
    ),
    MethodSpec(
        options=opt.FreezeBottomOptions,
        code="freeze_bottom:FreezeBottom",
        summary="the layers next to the input are frozen",
        may_leave_unmoved=True,
    ),
    MethodSpec(
        options=opt.WiseFtOptions,
        code="wise_ft:WiseFt",
        summary="after training, part of the way back to the base",
        may_leave_unmoved=True,
    ),
)

METHODS: Final[Mapping[str, MethodSpec]] = MappingProxyType({spec.name: spec for spec in _SPECS})

_ARCHITECTURES: Final[Mapping[str, str]] = {
    "progressive_columns": "{columns: {rank: 16}}",
    "pnn": "{columns: {rank: 16}}",
    "lora_experts": "{experts: {rank: 8, routing: gate}}",
    "routing": "{experts: {rank: 8, routing: softmax}}",
    "expert_gate": "{experts: {rank: 8, routing: gate}}",
}
"""Methods that are adapters in a recipe: by each name that they go by, what to write there."""


def parse_method(data: Any) -> MethodOptions:
    """Check a recipe's `method`: a bare name, or a mapping with `name` and options.

    Raises:
        ValueError: no such method or option, or a value out of range; the message lists what there is.
    """
    if isinstance(data, MethodOptions):
        return data
    given = {"name": data} if isinstance(data, str) else data
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        raise ValueError("give a name and options, such as {name: l2_sp, strength: 0.1}")
    if given["name"] in _ARCHITECTURES:
        raise ValueError(
            f"{given['name']} adds modules to the model and must be told which task a text is of, or have a gate or "
            "router (without either the base answers): in a recipe of tune or compare it is an adapter, write "
            f"adapter: {_ARCHITECTURES[given['name']]}; in speech training take LoRA with audio_gated: true, which "
            "also leaves text to the base"
        )
    if given["name"] not in METHODS:
        raise ValueError(f"no method is called {given['name']!r}; there are {', '.join(METHODS)}")
    options = METHODS[given["name"]].options
    try:
        return options.model_validate(given)
    except ValidationError as error:
        known = ", ".join(name for name in options.model_fields if name != "name")
        problems = "; ".join(describe_validation_error(error))
        problems = problems.replace("Value error, ", "").replace("Extra inputs are not permitted", "no such option")
        raise ValueError(f"{given['name']}: {problems}; its options are {known}") from error


def build_method(options: MethodOptions) -> Method:
    """The method that the options describe."""
    module, _, name = METHODS[options.name].code.partition(":")
    method: Method = getattr(import_module(f"oblong.methods.{module}"), name)(options)
    return method
