"""Which methods against forgetting go with a speech training, and what they act on, told from the recipe alone."""

from __future__ import annotations

from typing import Final

from oblong.errors import MethodError
from oblong.methods import METHODS, AnchorOptions, MethodOptions
from oblong.methods.recipe_fields import explain_missing_anchor, takes_anchor
from oblong.methods.registry import InSpeech
from oblong.speech.arms import ArmRecipe

SPEECH_METHODS: Final = tuple(name for name, spec in METHODS.items() if spec.in_speech is not InSpeech.NOTHING)
WHOLE_BATCH: Final = ("stm",)  # what they do to a sequence depends on the others of its batch


def find_use(method: MethodOptions | None, anchor: AnchorOptions | None) -> InSpeech:
    """What a method acts on in stage B; comparisons without old text are made on the transcripts."""
    use = InSpeech.TENSORS if method is None else METHODS[method.name].in_speech
    return InSpeech.TRANSCRIPTS if use is InSpeech.COMPARISON and anchor is None else use


def reads_old_text(method: MethodOptions | None, anchor: AnchorOptions | None) -> bool:
    """Whether there is old text and a method that takes it."""
    compares = anchor is not None and find_use(method, anchor) is InSpeech.COMPARISON
    return compares or takes_anchor(method, anchor)


def explain_misfit(arm: ArmRecipe, method: MethodOptions | None, anchor: AnchorOptions | None) -> str | None:
    """Why a method does not go with stage B; None if it does."""
    if method is None or method.name == "plain":
        return None
    spec = METHODS[method.name]
    if spec.in_speech is InSpeech.NOTHING:
        return f"method {spec.name} {spec.not_in_speech}. In speech training there are {', '.join(SPEECH_METHODS)}"
    if arm.adaptor_only or (arm.lora is not None and arm.lora.audio_gated):
        return (
            f"with the arm {arm.kind} the language model reads text as before, bit for bit: there is nothing that "
            f"method {spec.name} could keep from being forgotten; leave it out, or give arm: {{plan: PATH}}"
        )
    if arm.plan is None and not spec.on_outputs:
        return (
            f"method {spec.name} works on tensors of the language model, and the arm {arm.kind} trains none of them: "
            f"give arm: {{plan: PATH}}, or take one that works on predictions: {', '.join(_list_on_outputs())}"
        )
    return explain_missing_anchor(method, anchor)


def refuse_processes(method: MethodOptions | None, count: int) -> None:
    """Stop where several processes would not do together what one does.

    Raises:
        MethodError: more than one process, and a method that sees parameters or gradients, or a batch as a whole.
    """
    if count == 1 or method is None:
        return
    if not METHODS[method.name].on_outputs:
        reason = "holds the weights by estimates that each process would make for itself"
    elif method.name in WHOLE_BATCH:
        reason = "must see a batch as a whole, and each process has a share of it"
    else:
        return
    others = ", ".join(name for name in _list_on_outputs() if name not in WHOLE_BATCH)
    raise MethodError(
        f"method {method.name} {reason}, and {count} processes were started: start one, take one of {others}, or leave "
        "adapt.method out"
    )


def _list_on_outputs() -> list[str]:
    return [name for name in SPEECH_METHODS if METHODS[name].on_outputs and name != "plain"]
