"""The method against forgetting of stage B, prepared, and the loss that it makes of a step.

A method sees the language model and its trained tensors. The adaptor is not its business: it is new, so it has nothing
to forget, and text does not pass through it. Where a method asks what the base would say of speech, it is the base
that listens through the adaptor as it is at that moment.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from oblong.methods import AnchorData, Method, Training, build_method
from oblong.methods.memory import forecast_sizes, refuse_if_too_large
from oblong.methods.protocol import Batch, PlainFineTuning
from oblong.methods.registry import InSpeech
from oblong.methods.replay import ExperienceReplay
from oblong.speech.training.method_fit import find_use
from oblong.speech.training.method_sizes import complete_sizes
from oblong.speech.training.objective import (
    ComparisonObjective,
    Objective,
    ReplayObjective,
    SpeechObjective,
    TranscriptObjective,
)
from oblong.speech.training.old_text import make_autocast
from oblong.speech.training.stage import Workbench
from oblong.speech.training.transcripts import TranscriptModel, make_method_batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A method, and what a step minimises under it."""

    method: Method
    objective: Objective


def hold(bench: Workbench, anchor: AnchorData | None) -> Held:
    """The recipe's method, prepared at the base's weights.

    Args:
        bench: its model with the arm applied; what of the language model requires a gradient is what the method holds.
        anchor: old text, for methods that take it.

    Raises:
        MethodError: it does not fit in memory, or finds nothing among the trained tensors that it could act on.
    """
    recipe = bench.recipe
    if recipe.adapt.method is None:
        return Held(method=PlainFineTuning(), objective=SpeechObjective(forward=bench.forward))
    method = build_method(recipe.adapt.method)
    use = find_use(recipe.adapt.method, recipe.adapt.anchor)
    training = describe_listening(bench) if use is InSpeech.TRANSCRIPTS else describe_reading(bench, anchor)
    sizes = complete_sizes(forecast_sizes(training, None), recipe)
    refuse_if_too_large(method.forecast_bytes(sizes), training.device)
    method.prepare(training)
    return Held(method=method, objective=make_objective(bench, use, method, training))


def make_objective(bench: Workbench, use: InSpeech, method: Method, training: Training) -> Objective:
    """What a step minimises under a method that was prepared with `training`."""
    if use is InSpeech.TRANSCRIPTS:
        return TranscriptObjective(method=method, training=training)
    if use is InSpeech.COMPARISON:
        return ComparisonObjective(
            forward=bench.forward,
            method=method,
            training=training,
            num_blocks=bench.recipe.adapt.anchor_blocks,
            processes=bench.processes,
        )
    if isinstance(method, ExperienceReplay):
        return ReplayObjective(forward=bench.forward, method=method, training=training, processes=bench.processes)
    return SpeechObjective(forward=bench.forward)


def describe_reading(bench: Workbench, anchor: AnchorData | None) -> Training:
    """Stage B as a training of the causal language model, which reads one block of old text per pass."""
    view = bench.forward.model.as_causal_lm()
    return Training(
        model=view,
        trained={name: parameter for name, parameter in view.named_parameters() if parameter.requires_grad},
        anchor=anchor,
        autocast=make_autocast(bench.recipe, view.device),
        learning_rate=bench.recipe.adapt.learning_rate,
        seed=bench.recipe.seed,
    )


def describe_listening(bench: Workbench) -> Training:
    """Stage B as a training of a model that predicts transcripts; the language model's tensors alone count."""
    model = TranscriptModel(bench.forward)
    held = {id(parameter) for parameter in describe_reading(bench, None).trained.values()}

    def read_items(count: int) -> Iterator[Batch]:
        for clip in islice(bench.clips, count):
            yield make_method_batch(bench.maker.make([clip]).to(bench.device))

    return Training(
        model=model,
        trained={name: parameter for name, parameter in model.named_parameters() if id(parameter) in held},
        autocast=make_autocast(bench.recipe, bench.device),
        read_items=read_items,
        batch_size=bench.recipe.batch.max_utterances,
        learning_rate=bench.recipe.adapt.learning_rate,
        seed=bench.recipe.seed,
    )
