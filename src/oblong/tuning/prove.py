"""After training, in memory: what was frozen is what the file holds, bit for bit, and what trained has moved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from oblong.checkpoints.delta import digest_tensor, name_dtype
from oblong.errors import VerificationError
from oblong.models.names import match_parameters
from oblong.models.stored_tensors import StoredTensors
from oblong.records import DeltaManifest, Provenance, TensorDigest
from oblong.tuning.apply import AppliedPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """The outcome of a training that left the frozen tensors alone.

    Attributes:
        tensors: the trained tensors by checkpoint name, rounded to the base's storage dtype.
        manifest: digests of every tensor of the base.
    """

    tensors: Mapping[str, torch.Tensor]
    manifest: DeltaManifest


def prove_frozen(applied: AppliedPlan, stored: StoredTensors, *, model_name: str, unstored: Mapping[str, str]) -> Proof:
    """Compare every parameter with the base's file and collect what changed.

    Args:
        applied: the model after training.
        stored: the base model's tensors.
        model_name: the base, as the user calls it.
        unstored: digests from before training of the parameters that no tensor of the file is the image of.

    Raises:
        VerificationError: a tensor outside the Plan is not what it was; all of them are named.
    """
    parameters = match_parameters(applied.model, stored.names)
    problems = _find_moved_unstored(applied, stored, unstored)
    tensors, changed, frozen = {}, {}, {}
    for name, base in stored.iterate():
        if name in applied.trained:
            tensors[name] = applied.trained[name].detach().to("cpu", base.dtype)
            changed[name] = describe_change(base, tensors[name])
            continue
        frozen[name] = TensorDigest(shape=tuple(base.shape), dtype=name_dtype(base.dtype), base=digest_tensor(base))
        if name in parameters and not is_image(parameters[name], base):
            problems.append(f"{name}: is outside the Plan, and moved")
    if problems:
        raise VerificationError(problems)
    manifest = DeltaManifest(
        model=model_name,
        plan_digest=applied.plan.digest(),
        changed=changed,
        frozen=frozen,
        provenance=Provenance.here(),
    )
    return Proof(tensors=tensors, manifest=manifest)


def describe_change(base: torch.Tensor, tuned: torch.Tensor) -> TensorDigest:
    """A tensor before and after; both of the same shape and storage dtype."""
    return TensorDigest(
        shape=tuple(base.shape),
        dtype=name_dtype(base.dtype),
        base=digest_tensor(base),
        tuned=digest_tensor(tuned),
        fraction_moved=compute_fraction_moved(base, tuned),
    )


def compute_fraction_moved(base: torch.Tensor, tuned: torch.Tensor) -> float:
    """Share of elements that differ, 0 to 1; both tensors of the same shape and storage dtype."""
    return float((base != tuned).sum()) / max(1, base.numel())


def is_image(parameter: torch.Tensor, base: torch.Tensor) -> bool:
    """Whether a parameter is, bit for bit, the stored tensor in the parameter's own dtype."""
    if parameter.shape != base.shape:
        return False
    image = base.to(parameter.dtype).contiguous().reshape(-1)
    return torch.equal(parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8), image.view(torch.uint8))


def digest_unstored(model: PreTrainedModel, stored: StoredTensors) -> Mapping[str, str]:
    """Digests of the frozen parameters that transformers assembled from several stored tensors, as it does for experts.

    They cannot be compared with the file one to one, so they are compared with themselves before training.
    """
    images = {id(parameter) for parameter in match_parameters(model, stored.names).values()}
    return {
        name: digest_tensor(parameter) for name, parameter in model.named_parameters() if id(parameter) not in images
    }


def _find_moved_unstored(applied: AppliedPlan, stored: StoredTensors, before: Mapping[str, str]) -> list[str]:
    after = digest_unstored(applied.model, stored)
    return [f"{name}: is outside the Plan, and moved" for name in after if after[name] != before.get(name)]
