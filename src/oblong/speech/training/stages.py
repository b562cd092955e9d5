"""The stages of one training: spelling, alignment, adaptation; from where the checkpoints say to the record."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from torch import nn

from oblong.methods import AnchorData
from oblong.models.causal_lm import TORCH_DTYPES
from oblong.records import (
    Provenance,
    SpeechPoint,
    SpeechRun,
    SpeechRunStatus,
    SpeechStage,
    StageRecord,
)
from oblong.speech.arms import ArmRecipe, apply_arm, write_speech_delta
from oblong.speech.training.alignment import choose_probe_clips, require_partners
from oblong.speech.training.batches import BatchMaker
from oblong.speech.training.describing import describe_arm, describe_best
from oblong.speech.training.forward import SpeechForward
from oblong.speech.training.holding import Held, hold
from oblong.speech.training.measuring import Measurer, reuse_point
from oblong.speech.training.objective import SpeechObjective
from oblong.speech.training.old_text import obtain_old_text
from oblong.speech.training.preparing import Inputs, build_model, hear, pin_recordings, start_from_aligned
from oblong.speech.training.processes import Processes
from oblong.speech.training.progress import OnSpeechProgress
from oblong.speech.training.recipe import SpeechTrainRecipe
from oblong.speech.training.sharding import gathered, shard_frozen
from oblong.speech.training.spelling import Speller, count_spelling_steps
from oblong.speech.training.stage import (
    NotFiniteError,
    ParameterGroup,
    StagePlan,
    StageRunner,
    Workbench,
    describe_stage,
)
from oblong.speech.training.state import CheckpointStore, StageState, TrainingState, append_point, write_points
from oblong.speech.training.stopping import (
    Verdict,
    find_aligned_step,
    find_best,
    judge_adaptation,
    judge_alignment,
    plan_align_end,
)
from oblong.speech.training.workspace import ALIGNED, BEST, LAST, POINTS_FILE
from oblong.tuning.memory import measure_peak_memory
from oblong.tuning.workspace import ANCHOR_FILE, CHECKPOINTS_DIRECTORY, RUN_FILE

ADAPTOR_ONLY: Final = ArmRecipe(adaptor_only=True)
UNDER_WAY: Final = Verdict(status=SpeechRunStatus.RUNNING, reason="under way")


class RunStage(Protocol):
    """A stage as a method."""

    def __call__(self, state: TrainingState, *, resume: bool) -> tuple[TrainingState, Verdict | None]:
        """Run it; returns the state to go on with, and why not to where that is so."""


class SpeechTraining:
    """One run under way: model, data, and the stages."""

    def __init__(
        self,
        recipe: SpeechTrainRecipe,
        inputs: Inputs,
        workspace: Path,
        on_progress: OnSpeechProgress,
        processes: Processes,
    ) -> None:
        self._recipe = recipe
        self._inputs = inputs
        self._workspace = workspace
        self._processes = processes
        langs = [utterance.lang for manifest in inputs.train for utterance in manifest.utterances]
        model, processor, device = processes.agree(lambda: build_model(recipe, langs))
        self._model, self._processor = model, processor
        self._num_parameters = sum(parameter.numel() for parameter in model.parameters())
        # The small sets first: that one cannot be used should not be found out after hours of encoding.
        self._evaluate = {
            name: hear(manifest, model, processor, recipe, on_progress, processes)
            for name, manifest in inputs.evaluate.items()
        }
        if recipe.align.gate is not None and inputs.aligned is None:
            require_partners(
                choose_probe_clips([heard.clips for heard in self._evaluate.values()], recipe.probe_utterances)
            )
        self._train = [hear(manifest, model, processor, recipe, on_progress, processes) for manifest in inputs.train]
        sets = {f"evaluate.{name}": heard for name, heard in self._evaluate.items()}
        sets |= {f"train.{index}": heard for index, heard in enumerate(self._train)}
        processes.first(lambda: pin_recordings(workspace, sets))
        maker = BatchMaker(processor)
        forward = SpeechForward(model, dtype=TORCH_DTYPES[recipe.dtype], share_prefix=recipe.share_prefix)
        self._bench = Workbench(
            recipe=recipe,
            forward=forward,
            maker=maker,
            clips=[clip for heard in self._train for clip in heard.clips],
            device=device,
            store=CheckpointStore(workspace / CHECKPOINTS_DIRECTORY),
            on_progress=on_progress,
            on_point=self._keep,
            processes=processes,
        )
        self._measurer = Measurer(
            model=model,
            processor=processor,
            forward=forward,
            maker=maker,
            sets={name: heard.clips for name, heard in self._evaluate.items()},
            texts=inputs.retention,
            recipe=recipe,
            device=device,
            processes=processes,
        )
        self._old_text: AnchorData | None = None
        self._arm = processes.agree(lambda: apply_arm(model, ADAPTOR_ONLY, language_model=recipe.language_model))

    def run(self) -> SpeechRun:
        """All stages, from where the checkpoints say, to the finished record."""
        first = self._bench.clips[: self._recipe.batch.max_utterances]
        self._bench.maker.check(first)
        self._bench.forward.check_sharing(self._bench.maker.make(first).to(self._bench.device))
        # Before stage A: that a text is too short should not be found out after it.
        self._old_text = self._processes.first(
            lambda: obtain_old_text(self._recipe, self._model, self._processor, self._workspace / ANCHOR_FILE)
        )
        state = self._processes.first(self._read_state)
        resumed = None if state is None else state.current.stage
        state = state or self._begin()
        for stage, run in self._list_stages(state.current.stage):
            state, verdict = run(state, resume=stage is resumed)
            if verdict is not None:
                return self._finish(state, verdict)
        done = f"all {self._recipe.adapt.steps} steps of stage B are done"
        return self._finish(state, Verdict(status=SpeechRunStatus.COMPLETED, reason=done))

    def _read_state(self) -> TrainingState | None:
        """Where an interrupted run stands; the journal is made to say the same."""
        state = self._bench.store.read_state()
        write_points(self._workspace / POINTS_FILE, () if state is None else state.points)
        return state

    def _list_stages(self, first: SpeechStage) -> list[tuple[SpeechStage, RunStage]]:
        """From the first that is not behind; each makes a new state, and gives a reason where it is the last."""
        stages: dict[SpeechStage, RunStage] = {
            SpeechStage.SPELL: self._spell,
            SpeechStage.ALIGN: self._align,
            SpeechStage.ADAPT: self._adapt,
        }
        order = list(stages)
        return [(stage, stages[stage]) for stage in order[order.index(first) :]]

    def _spell(self, state: TrainingState, *, resume: bool) -> tuple[TrainingState, Verdict | None]:
        """Let the adaptor learn to spell."""
        recipe = self._recipe.spell
        assert recipe is not None  # or the stage would not run
        speller = Speller(self._model, self._processor, self._bench.clips, length_weight=recipe.length_weight)
        state, verdict = self._run_stage(self._plan_spell(state, speller), state, resume=resume)
        return (state, verdict) if verdict is not None else (self._put_behind(state, SpeechStage.ALIGN), None)

    def _align(self, state: TrainingState, *, resume: bool) -> tuple[TrainingState, Verdict | None]:
        """Stage A, or the adaptor of an earlier one."""
        if self._inputs.aligned is not None:
            aligned = self._inputs.aligned
            self._processes.agree(lambda: start_from_aligned(self._model, aligned, self._recipe))
            state = state.model_copy(update={"current": StageState(stage=SpeechStage.ADAPT)})
        else:
            state, verdict = self._run_stage(self._plan_align(state), state, resume=resume)
            verdict = verdict or judge_alignment(state.current.points, self._recipe.align)
            if verdict is not None:
                return state, verdict
            state = self._put_behind(state, SpeechStage.ADAPT)
        self._write_delta(ALIGNED)
        return state, None

    def _adapt(self, state: TrainingState, *, resume: bool) -> tuple[TrainingState, Verdict | None]:
        """Stage B."""
        recipe = self._recipe
        self._arm = self._processes.agree(
            lambda: apply_arm(self._model, recipe.adapt.arm, language_model=recipe.language_model, seed=recipe.seed)
        )
        held = hold(self._bench, self._old_text)
        if recipe.shard_frozen and self._processes.count > 1:
            self._shard()
        state, verdict = self._run_stage(self._plan_adapt(state, held), state, resume=resume)
        held.method.finish()
        return state, verdict

    def _shard(self) -> None:
        """From here on every process calls the language model as often as the others."""
        device = self._bench.device
        self._arm = self._processes.agree(lambda: shard_frozen(self._model, self._arm, self._processes, device))
        # Whether prompts have a common beginning may differ between the shares of a batch.
        self._bench.forward.share_prefix = False
        self._measurer.is_sharded = True

    def _run_stage(
        self, plan: StagePlan, state: TrainingState, *, resume: bool
    ) -> tuple[TrainingState, Verdict | None]:
        self._model.train()
        runner = StageRunner(self._bench, plan, state, resume=resume)
        try:
            verdict = runner.run()
        except NotFiniteError as failure:
            advice = "the weights are those before it; lower the learning rate"
            verdict = Verdict(status=SpeechRunStatus.DIVERGED, reason=f"{failure}: {advice}")
        return runner.state, verdict

    def _begin(self) -> TrainingState:
        spells = self._recipe.spell is not None and self._inputs.aligned is None
        first = SpeechStage.SPELL if spells else SpeechStage.ALIGN
        base = self._processes.tell(self._measurer.measure_text())
        return TrainingState(base_retention=base, current=StageState(stage=first))

    def _put_behind(self, state: TrainingState, following: SpeechStage) -> TrainingState:
        """The current stage is finished; another one begins."""
        return state.model_copy(
            update={
                "finished": (*state.finished, self._describe_current(state)),
                "earlier_points": state.points,
                "current": StageState(stage=following),
            }
        )

    def _plan_spell(self, state: TrainingState, speller: Speller) -> StagePlan:
        recipe = self._recipe.spell
        assert recipe is not None  # or the stage would not run
        rule = (recipe.batch or self._recipe.batch).make_rule()
        num_steps = count_spelling_steps(self._bench.clips, rule, epochs=recipe.epochs, seed=self._recipe.seed)
        parameters = {**prefix_names(self._arm.adaptor), **speller.own_parameters}
        return StagePlan(
            stage=SpeechStage.SPELL,
            objective=SpeechObjective(forward=speller),
            batch=rule,
            groups=[ParameterGroup(parameters=parameters, learning_rate=recipe.learning_rate)],
            num_steps=num_steps,
            # Its steps are short and many.
            evaluate_every=math.ceil(num_steps / math.ceil(recipe.epochs)),
            optimizer=recipe,
            plan_end=lambda points: num_steps,
            judge=lambda points: None,
            measure=partial(self._measurer.measure_spell, base=state.base_retention, speller=speller),
            find_best=lambda points: None,
            masking=recipe.masking,
        )

    def _plan_align(self, state: TrainingState) -> StagePlan:
        recipe = self._recipe
        return StagePlan(
            stage=SpeechStage.ALIGN,
            objective=SpeechObjective(forward=self._bench.forward),
            batch=recipe.batch.make_rule(),
            groups=[ParameterGroup(parameters=prefix_names(self._arm.adaptor), learning_rate=recipe.align_rate)],
            num_steps=recipe.align.max_steps,
            evaluate_every=recipe.evaluate_every,
            optimizer=recipe.align,
            plan_end=partial(plan_align_end, recipe=recipe.align),
            judge=lambda points: None,
            measure=partial(self._measurer.measure_align, base=state.base_retention),
            find_best=partial(find_best, rules=recipe.stop),
        )

    def _plan_adapt(self, state: TrainingState, held: Held) -> StagePlan:
        recipe = self._recipe
        rate = recipe.adapt.learning_rate
        earlier = state.earlier_points[-1] if state.earlier_points else None

        def measure(current: StageState, loss: float | None) -> SpeechPoint:
            # A method may begin by changing weights, as PackNet does.
            if current.step == 0 and earlier is not None and earlier.wer and recipe.adapt.method is None:
                return reuse_point(earlier)
            return self._measurer.measure_adapt(current, loss, state.base_retention, self._arm.trained)

        return StagePlan(
            stage=SpeechStage.ADAPT,
            objective=held.objective,
            batch=recipe.batch.make_rule(),
            groups=[
                ParameterGroup(parameters=self._arm.trained, learning_rate=rate),
                ParameterGroup(
                    parameters=prefix_names(self._arm.adaptor), learning_rate=rate * recipe.adapt.adaptor_factor
                ),
            ],
            num_steps=recipe.adapt.steps,
            evaluate_every=recipe.evaluate_every,
            optimizer=recipe.adapt,
            plan_end=lambda points: recipe.adapt.steps,
            judge=partial(judge_adaptation, rules=recipe.stop),
            measure=measure,
            find_best=partial(find_best, rules=recipe.stop),
            method=held.method,
            masking=recipe.adapt.masking,
        )

    def _finish(self, state: TrainingState, verdict: Verdict) -> SpeechRun:
        """Write the last weights, then the best ones, then the record."""
        self._write_delta(LAST)
        best = find_best(state.current.points, self._recipe.stop)
        if best is not None:
            trained = {**self._arm.trained, **prefix_names(self._arm.adaptor)}
            self._processes.first(lambda: self._bench.store.restore_best(best.stage, best.step, trained))
            self._write_delta(BEST)
        return self._processes.first(lambda: self._write_run(state, verdict))

    def _write_run(self, state: TrainingState, verdict: Verdict) -> SpeechRun:
        run = self._describe(state, verdict)
        run.write(self._workspace / RUN_FILE, force=True)
        return run

    def _keep(self, state: TrainingState) -> None:
        """After an evaluation: journal and record."""
        append_point(self._workspace / POINTS_FILE, state.current.points[-1])
        self._write_run(state, UNDER_WAY)

    def _write_delta(self, name: str) -> None:
        recipe = self._recipe
        with gathered(self._model, self._arm, language_model=recipe.language_model) as arm:
            self._processes.first(
                lambda: write_speech_delta(
                    self._workspace / name,
                    self._model,
                    arm,
                    processor=self._processor,
                    encoder=recipe.encoder,
                    language_model=recipe.language_model,
                    replace=True,
                )
            )

    def _describe_current(self, state: TrainingState) -> StageRecord:
        current = state.current
        is_align = current.stage is SpeechStage.ALIGN
        return describe_stage(
            current,
            num_trainable=self._arm.num_trainable,
            log_every=self._recipe.log_every,
            aligned_at=find_aligned_step(current.points, self._recipe.align.gate) if is_align else None,
        )

    def _describe(self, state: TrainingState, verdict: Verdict) -> SpeechRun:
        recipe = self._recipe
        best = find_best(state.current.points, recipe.stop)
        return SpeechRun(
            name=Path(recipe.output).name,
            encoder=recipe.encoder,
            language_model=recipe.language_model,
            arm=describe_arm(self._arm, recipe.adapt.method if self._arm.kind == recipe.adapt.arm.kind else None),
            recipe=recipe.model_dump(mode="json"),
            seed=recipe.seed,
            status=verdict.status,
            reason=verdict.reason,
            num_adaptor=sum(parameter.numel() for parameter in self._arm.adaptor.values()),
            num_parameters=self._num_parameters,
            train=tuple(heard.data for heard in self._train),
            evaluate={name: heard.data for name, heard in self._evaluate.items()},
            base_retention=state.base_retention,
            stages=(*state.finished, self._describe_current(state)),
            points=state.points,
            best=None if best is None else describe_best(best),
            peak_memory_bytes=measure_peak_memory(),
            provenance=Provenance.here(),
        )


def prefix_names(adaptor: Mapping[str, nn.Parameter]) -> Mapping[str, nn.Parameter]:
    """The adaptor's parameters under names that no language model has."""
    return {f"adaptor.{name}": parameter for name, parameter in adaptor.items()}
