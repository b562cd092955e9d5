"""Small Scans for the tests of `oblong.planning`, and shorthands for rules."""

from __future__ import annotations

import math

from oblong.planning import make_rule, select
from oblong.records import Plan, Scan, Unit
from tests.scan_builders import make_scan, make_unit


def make_matrix(name: str, kappa: float, *, role: str = "v", rows: int = 10, columns: int = 20, layer: int = 0) -> Unit:
    """An eligible matrix with a given condition number."""
    return make_unit(name, role=role, layer=layer, shape=(rows, columns), kappa=kappa, null_kappa=5.0)


def make_part(tensor: str, part: str, kappa: float | None, *, rows: int, columns: int = 20, total_rows: int) -> Unit:
    """A part of a fused tensor of `total_rows` x `columns`."""
    unit = make_unit(f"{tensor}[{part}]", role=part, shape=(rows, columns), kappa=kappa, null_kappa=5.0)
    return unit.model_copy(
        update={"tensor": tensor, "part": part, "tensor_shape": (total_rows, columns), "eligible": True}
    )


def make_column(kappas: list[float]) -> Scan:
    """A Scan of equal v tensors `t0`, `t1`, ... with these condition numbers."""
    return make_scan([make_matrix(f"t{index}", kappa) for index, kappa in enumerate(kappas)])


def plan_with(scan: Scan, budget: str, **rule: object) -> Plan:
    """Select by a rule given in words."""
    return select(scan, make_rule(scan, budget=budget, **rule))  # type: ignore[arg-type]


def names_of(plan: Plan) -> list[str]:
    """Names in the Plan's order."""
    return [tensor.name for tensor in plan.tensors]


def count_parameters(scan: Scan) -> int:
    """Parameters of all eligible units."""
    return sum(math.prod(unit.shape) for unit in scan.eligible)
