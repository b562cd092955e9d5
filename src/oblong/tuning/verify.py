"""`verify`: prove again, from the files alone, that a run changed the Plan's tensors and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from oblong.checkpoints.delta import Delta, digest_tensor, name_dtype, read_delta
from oblong.checkpoints.locate import locate_model
from oblong.errors import ModelNotFoundError, UserError, VerificationError
from oblong.methods import METHODS
from oblong.models.stored_tensors import StoredTensors, open_stored_tensors
from oblong.records import DeltaManifest, Plan, Run, TensorDigest
from oblong.tuning.prove import compute_fraction_moved
from oblong.tuning.workspace import PLAN_FILE, RUN_FILE


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was proved, for `num_tensors` tensors."""

    statement: str
    num_tensors: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """A run that passed every check.

    Attributes:
        checks: what was proved, in order.
        fraction_moved: share of the trained tensors' elements that differ from the base, 0 to 1.
        modules: what was added beside the base, such as `columns`; None if nothing was.
    """

    checks: tuple[Check, ...]
    fraction_moved: float
    modules: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedRun:
    """A finished run as its files tell it."""

    run: Run
    plan: Plan
    delta: Delta


def read_tuned_run(directory: Path) -> TunedRun:
    """Read a run directory.

    Raises:
        RecordError, CorruptCheckpointError: a file is missing or invalid.
        VerificationError: the delta is not what its manifest says.
    """
    run = Run.read(directory / RUN_FILE)
    return TunedRun(run=run, plan=Plan.read(directory / PLAN_FILE), delta=read_delta(directory / run.delta))


def verify_run(directory: Path, *, base: str | None = None, merged: str | None = None) -> Verification:
    """Check a run's files against each other and against the base model.

    Args:
        directory: output of `tune`.
        base: the base model, where it is no longer where the run found it.
        merged: a merged model to check as well: base outside the Plan, delta inside, bit for bit.

    Raises:
        VerificationError: anything is not as it should be; every tensor concerned is named.
        UserError: there can be no merged model, because the run added modules.
        ModelNotFoundError, RecordError, CorruptCheckpointError: a file is missing or invalid.
    """
    tuned = read_tuned_run(directory)
    manifest = tuned.delta.manifest
    stored = open_stored_tensors(locate_base(manifest, base))
    problems = [
        *_compare_records(tuned),
        *compare_with_base(stored, manifest),
        *_find_unmoved(stored, tuned.delta, tuned.run),
        *_find_unlearned(tuned.delta),
    ]
    checks = [
        Check(statement="the delta changes the Plan's tensors and no others", num_tensors=len(manifest.changed)),
        Check(statement="outside the Plan: the base on the disk is what was frozen", num_tensors=len(manifest.frozen)),
        Check(statement="inside the Plan: trained from that base, and moved", num_tensors=len(manifest.changed)),
    ]
    if manifest.modules is not None:
        added = f"added {manifest.modules.kind}: what the manifest says, and trained"
        checks = [
            Check(statement="the base on the disk is what was frozen, whole", num_tensors=len(manifest.frozen)),
            Check(statement=added, num_tensors=len(manifest.modules.tensors)),
        ]
    if merged is not None:
        refuse_merging(directory, tuned.delta)
        problems += _compare_merged(open_stored_tensors(locate_model(merged)), manifest)
        num_tensors = len(manifest.changed) + len(manifest.frozen)
        checks.append(Check(statement="the merged model: delta inside, base outside", num_tensors=num_tensors))
    if problems:
        raise VerificationError(problems)
    modules = None if manifest.modules is None else manifest.modules.kind
    return Verification(checks=tuple(checks), fraction_moved=summarise_moved(manifest), modules=modules)


def refuse_merging(directory: Path, delta: Delta) -> None:
    """Stop where a model is more than weights of its architecture.

    Raises:
        UserError: the run added modules.
    """
    modules = delta.manifest.modules
    if modules is not None:
        raise UserError(
            f"{directory}: its model has {modules.kind} beside the base, more modules than its architecture has, so it "
            f"cannot be merged into a normal model: use base and delta together (`--delta {directory / 'delta'}`)"
        )


def locate_base(manifest: DeltaManifest, base: str | None) -> Path:
    """The base model of a delta, or the place that the user names for it.

    Raises:
        ModelNotFoundError: it is not where the run found it.
    """
    if base is not None:
        return locate_model(base)
    try:
        return locate_model(manifest.model)
    except ModelNotFoundError as error:
        advice = "the run was made from it; if it lies elsewhere now, name the place with --base"
        raise ModelNotFoundError(manifest.model, advice) from error


def compare_with_base(stored: StoredTensors, manifest: DeltaManifest) -> Iterator[str]:
    """What of a base model is not what a manifest says it was."""
    expected = {**manifest.frozen, **manifest.changed}
    yield from _compare_names(stored, expected, "the base model")
    for name, digest in expected.items():
        if name in stored and digest_tensor(stored.read(name)) != digest.base:
            yield f"{name}: the base model's weights are not those of the manifest"


def summarise_moved(manifest: DeltaManifest) -> float:
    """Share of the changed tensors' elements that differ from the base, 0 to 1."""
    sizes = [torch.Size(digest.shape).numel() for digest in manifest.changed.values()]
    moved = [digest.fraction_moved or 0.0 for digest in manifest.changed.values()]
    return sum(size * share for size, share in zip(sizes, moved, strict=True)) / max(1, sum(sizes))


def _compare_records(tuned: TunedRun) -> Iterator[str]:
    manifest = tuned.delta.manifest
    for record, digest in (("the Run", tuned.run.plan_digest), ("the manifest", manifest.plan_digest)):
        if digest != tuned.plan.digest():
            yield f"{record} was made with another Plan than {PLAN_FILE}"
    for name in sorted(manifest.changed.keys() - tuned.plan.tensor_names):
        yield f"{name}: changed, but not in the Plan"
    for name in sorted(tuned.plan.tensor_names - manifest.changed.keys()):
        yield f"{name}: in the Plan, but not in the delta"


def may_leave_unmoved(run: Run) -> bool:
    """Whether a run's method or adapter may rightly leave tensors of the Plan as they were."""
    method, adapter = run.recipe.get("method"), run.recipe.get("adapter")
    spec = METHODS.get(method["name"]) if isinstance(method, Mapping) else None
    draws_layers = isinstance(adapter, Mapping) and adapter.get("lisa") is not None
    return draws_layers or (spec is not None and spec.may_leave_unmoved)


def _find_unmoved(stored: StoredTensors, delta: Delta, run: Run) -> Iterator[str]:
    for name, tuned in delta.tensors.items():
        if name not in stored:
            continue
        base = stored.read(name)
        if base.shape != tuned.shape or name_dtype(base.dtype) != name_dtype(tuned.dtype):
            yield f"{name}: another shape or dtype than the base model's"
        elif (share := compute_fraction_moved(base, tuned)) == 0.0 and not may_leave_unmoved(run):
            yield f"{name}: in the Plan, but no element of it moved"
        elif share != delta.manifest.changed[name].fraction_moved:
            yield f"{name}: {share:.4%} of it moved, the manifest says otherwise"


def _find_unlearned(delta: Delta) -> Iterator[str]:
    """A part that says nothing: what it would add is still zero, as it began."""
    if delta.manifest.modules is None:
        return
    newest = len(delta.manifest.modules.tasks) - 1
    columns = [name for name in delta.modules if name.startswith(f"columns.{newest}.") and name.endswith(".writer")]
    experts = [name for name in delta.modules if name.startswith("updates.") and name.endswith(f".writers.{newest}")]
    if not any(bool(delta.modules[name].any()) for name in (*columns, *experts)):
        yield f"added {delta.manifest.modules.kind}: the newest has learned nothing, all that it adds is zero"


def _compare_merged(merged: StoredTensors, manifest: DeltaManifest) -> Iterator[str]:
    expected = {**manifest.frozen, **manifest.changed}
    yield from _compare_names(merged, expected, "the merged model")
    for name, digest in expected.items():
        if name in merged and digest_tensor(merged.read(name)) != (digest.tuned or digest.base):
            origin = "delta" if digest.tuned else "base"
            yield f"{name}: the merged model's is not the {origin}'s"


def _compare_names(stored: StoredTensors, expected: Mapping[str, TensorDigest], owner: str) -> Iterator[str]:
    for name in sorted(expected.keys() - set(stored.names)):
        yield f"{name}: {owner} has no such tensor"
    for name in sorted(set(stored.names) - expected.keys()):
        yield f"{name}: {owner} has it, the manifest does not"
