"""Which methods against forgetting go with a speech training, told from the recipe alone."""

from __future__ import annotations

from typing import Final

from oblong.errors import MethodError
from oblong.methods import METHODS, AnchorOptions, MethodOptions
from oblong.methods.recipe_fields import explain_missing_anchor
from oblong.speech.arms import ArmRecipe

SPEECH_METHODS: Final = tuple(name for name, spec in METHODS.items() if not spec.text_only)


def explain_misfit(arm: ArmRecipe, method: MethodOptions | None, anchor: AnchorOptions | None) -> str | None:
    """Why a method does not go with stage B; None if it does.

    A method holds the language model's own tensors, by their gradients, their steps and old text. What it would have
    to ask of a batch of text, a batch of speech does not answer; LoRA trains other numbers than the model's weights.
    """
    if method is None:
        return None
    spec = METHODS[method.name]
    if spec.text_only:
        return (
            f"method {spec.name} works on batches and predictions of text, or brings its own optimizer, which is not "
            f"defined for speech: take one of {', '.join(SPEECH_METHODS)}"
        )
    if arm.plan is None and not spec.on_outputs:
        return (
            f"method {spec.name} works on tensors of the language model, and the arm {arm.kind} trains none of them: "
            "give arm: {plan: PATH}, or leave the method out"
        )
    return explain_missing_anchor(method, anchor)


def refuse_processes(method: MethodOptions | None, count: int) -> None:
    """Stop where several processes would each hold the weights by estimates of their own.

    Raises:
        MethodError: more than one process, and a method that sees parameters or gradients.
    """
    if count > 1 and method is not None and not METHODS[method.name].on_outputs:
        raise MethodError(
            f"method {method.name} needs whole tensors in one process, and {count} processes were started: start one, "
            "or leave adapt.method out"
        )
