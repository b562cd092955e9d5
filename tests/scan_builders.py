"""Seeded synthetic Scans and Plans of them: shaped like the demo model, but nobody's result."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from oblong.records import (
    Budget,
    CheckpointFile,
    CheckpointInfo,
    Measures,
    Plan,
    PlannedTensor,
    Provenance,
    Rule,
    Scan,
    ScanConfig,
    ScanHeader,
    Status,
    Totals,
    Unit,
)

NUM_LAYERS = 30
HIDDEN = 576
ROLE_SHAPES: Mapping[str, tuple[int, int]] = {
    "q": (HIDDEN, HIDDEN),
    "k": (192, HIDDEN),
    "v": (192, HIDDEN),
    "o": (HIDDEN, HIDDEN),
    "gate": (1536, HIDDEN),
    "up": (1536, HIDDEN),
    "down": (HIDDEN, 1536),
}
NULL_KAPPA: Mapping[str, float] = {
    "q": 2110.0,
    "k": 3.73,
    "v": 3.73,
    "o": 2110.0,
    "gate": 4.16,
    "up": 4.16,
    "down": 4.16,
}
MEAN_EXCESS: Mapping[str, float] = {"q": 1.4, "k": 1.9, "v": 0.25, "o": 0.5, "gate": 1.1, "up": 0.6, "down": 0.4}
LAYOUT_DIGEST = "sha256:" + "1a" * 32


def make_provenance(*command: str) -> Provenance:
    """A provenance that is the same on every machine."""
    return Provenance(
        oblong_version="0.1.0",
        python_version="3.11.9",
        platform="Linux x86_64",
        packages={"torch": "2.13.0", "transformers": "5.23.0", "numpy": "2.4.0"},
        created="2026-11-22T12:00:00+00:00",
        command=command or ("oblong", "demo"),
    )


def make_measures(shape: tuple[int, int], *, kappa: float, null_kappa: float, resolved: bool = True) -> Measures:
    """Measures that agree with one another for a geometric spectrum between kappa and 1."""
    rank = min(shape)
    return Measures(
        rank=rank,
        sigma_max=kappa,
        sigma_min=1.0,
        frobenius_norm=math.sqrt(rank * kappa),
        kappa=kappa,
        kappa_full=kappa,
        kappa_error=1e-12,
        log_volume=rank * math.log(kappa) / 2,
        entropy=rank * math.log(kappa) / 2 + 1.4189 * rank,
        max_entropy=rank * math.log(kappa) / 2 + 1.4189 * rank + 0.1 * rank,
        entropy_gap=0.1 * rank,
        mutual_information=rank * math.log1p(kappa) / 2,
        stable_rank=rank / kappa if kappa < rank else 1.5,
        participation_ratio=rank / 3,
        effective_rank=None,
        sigma_ratio_95=None,
        null_kappa=null_kappa,
        null_quantile=0.99,
        kappa_excess=math.log(kappa / null_kappa),
        noise_floor=0.01 if resolved else 2.0,
        resolved=resolved,
        kappa_low=kappa / 3 if not resolved else kappa * 0.99,
        kappa_high=None if not resolved else kappa * 1.01,
        method="gram",
    )


def make_unit(
    name: str,
    *,
    role: str = "q",
    layer: int | None = 0,
    shape: tuple[int, ...] = (HIDDEN, HIDDEN),
    kappa: float | None = 100.0,
    null_kappa: float = 2110.0,
    resolved: bool = True,
    status: Status = Status.OK,
) -> Unit:
    """One row; `kappa=None` leaves it unmeasured."""
    matrix_shape = (shape[0], shape[1]) if len(shape) == 2 else None
    measures = (
        make_measures(matrix_shape, kappa=kappa, null_kappa=null_kappa, resolved=resolved)
        if kappa is not None and matrix_shape is not None
        else None
    )
    return Unit(
        name=name,
        tensor=name,
        role=role,
        layer=layer,
        shape=shape,
        matrix_shape=matrix_shape,
        dtype="BF16",
        num_parameters=math.prod(shape),
        digest="sha256:" + "2b" * 32,
        status=status,
        eligible=role in ROLE_SHAPES and measures is not None,
        reason=None if role in ROLE_SHAPES else f"{role} tensors are not eligible by default",
        measures=measures,
    )


def make_scan(units: Sequence[Unit] | None = None, *, seed: int = 0) -> Scan:
    """A Scan of 30 layers x 7 roles with embedding and norms, or of the given units."""
    chosen = tuple(units) if units is not None else _demo_like_units(seed)
    info = CheckpointInfo(
        format="safetensors",
        files=(CheckpointFile(name="model.safetensors", num_bytes=269_060_552),),
        layout_digest=LAYOUT_DIGEST,
        num_tensors=len({unit.tensor for unit in chosen}),
        num_parameters=sum(unit.num_parameters for unit in chosen),
        architecture="LlamaForCausalLM",
    )
    header = ScanHeader(
        model="demo",
        checkpoint=info,
        config=ScanConfig(),
        provenance=make_provenance("oblong", "scan", "demo"),
    )
    return Scan(header=header, units=chosen)


def _demo_like_units(seed: int) -> tuple[Unit, ...]:
    generator = np.random.default_rng(seed)
    embedding = make_unit(
        "model.embed_tokens.weight",
        role="embedding",
        layer=None,
        shape=(49152, HIDDEN),
        kappa=17.0,
        null_kappa=1.24,
    )
    units = [embedding]
    for layer in range(NUM_LAYERS):
        for role, shape in ROLE_SHAPES.items():
            excess = MEAN_EXCESS[role] * (1 + layer / NUM_LAYERS) / 1.5 + 0.25 * generator.normal()
            block = "self_attn" if role in "qkvo" else "mlp"
            units.append(
                make_unit(
                    f"model.layers.{layer}.{block}.{role}_proj.weight",
                    role=role,
                    layer=layer,
                    shape=shape,
                    kappa=float(NULL_KAPPA[role] * np.exp(excess)),
                    null_kappa=NULL_KAPPA[role],
                    resolved=not (role in "qo" and excess > 2.0),
                )
            )
        norm = f"model.layers.{layer}.input_layernorm.weight"
        units.append(make_unit(norm, role="norm", layer=layer, shape=(HIDDEN,), kappa=None, status=Status.VECTOR))
    return tuple(units)


def make_plan(
    name: str,
    scan: Scan,
    *,
    criterion: str = "kappa",
    order: str = "lowest",
    within: str = "model",
    num_parameters: int = 10_600_000,
    seed: int = 0,
) -> Plan:
    """A Plan filled greedily to a parameter budget; `random` draws, the other criteria sort."""
    chosen = _choose(scan, criterion=criterion, order=order, within=within, budget=num_parameters, seed=seed)
    total = sum(unit.num_parameters for unit in chosen)
    by_role: dict[str, int] = {}
    for unit in chosen:
        by_role[unit.role] = by_role.get(unit.role, 0) + 1
    return Plan(
        name=name,
        model=scan.header.model,
        layout_digest=scan.header.checkpoint.layout_digest,
        scan_digest=scan.digest(),
        rule=Rule(
            criterion=criterion,
            order=order,
            within=within,
            budget=Budget(text="10.6M", unit="parameters", amount=num_parameters),
            seed=seed,
        ),
        totals=Totals(
            num_tensors=len(chosen),
            num_parameters=total,
            share=total / scan.header.checkpoint.num_parameters,
            by_role=by_role,
        ),
        tensors=tuple(_planned(unit, criterion) for unit in chosen),
        provenance=make_provenance("oblong", "plan"),
    )


def _choose(scan: Scan, *, criterion: str, order: str, within: str, budget: int, seed: int) -> list[Unit]:
    generator = np.random.default_rng(seed)
    units = list(scan.eligible)
    if criterion == "random":
        units = [units[index] for index in generator.permutation(len(units))]
    else:
        sign = 1 if order == "lowest" else -1
        units.sort(key=lambda unit: sign * (unit.measures.kappa if unit.measures else 0.0))
    if within == "role":
        places: dict[str, int] = {}
        rank: dict[str, int] = {}
        for unit in units:
            rank[unit.name] = places.setdefault(unit.role, 0)
            places[unit.role] += 1
        units.sort(key=lambda unit: rank[unit.name])
    chosen: list[Unit] = []
    for unit in units:
        if sum(other.num_parameters for other in chosen) + unit.num_parameters <= budget:
            chosen.append(unit)
    return chosen


def _planned(unit: Unit, criterion: str) -> PlannedTensor:
    kappa = unit.measures.kappa if unit.measures else None
    return PlannedTensor(
        name=unit.tensor,
        role=unit.role,
        layer=unit.layer,
        shape=unit.shape,
        num_parameters=unit.num_parameters,
        digest=unit.digest,
        value=kappa if criterion == "kappa" else None,
        measures={"kappa": kappa},
        reason=f"chosen by {criterion}",
    )
