from __future__ import annotations

import pytest

from oblong.errors import SelectionError
from oblong.planning import CRITERIA, find_criterion
from oblong.planning.criteria import compute_draw
from oblong.records import Status
from tests.scan_builders import make_scan, make_unit

MEASURED = [name for name, criterion in CRITERIA.items() if not criterion.needs_spectrum]


def test_reads_the_measures_of_a_unit() -> None:
    unit = make_unit("w", shape=(10, 20), kappa=40.0, null_kappa=10.0, layer=3)
    assert unit.measures is not None
    scan = make_scan([unit])
    values = {name: CRITERIA[name].compute(scan, unit, 0) for name in MEASURED}
    assert values["kappa"] == 40.0
    assert values["kappa_excess"] == unit.measures.kappa_excess
    assert values["entropy_gap"] == unit.measures.entropy_gap
    assert values["entropy_gap_per_rank"] == unit.measures.entropy_gap / 10
    assert values["stable_rank"] == unit.measures.stable_rank
    assert values["depth"] == 3.0


def test_has_no_value_where_nothing_was_measured() -> None:
    vector = make_unit("norm", role="norm", layer=None, shape=(20,), kappa=None, status=Status.VECTOR)
    scan = make_scan([vector])
    missing = [name for name, criterion in CRITERIA.items() if criterion.compute(scan, vector, 0) is None]
    assert missing == [name for name in CRITERIA if name != "random"]


def test_an_unknown_criterion_lists_those_that_exist() -> None:
    with pytest.raises(SelectionError, match="unknown criterion 'kapa'") as caught:
        find_criterion("kapa")
    lines = str(caught.value).splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(CRITERIA)


def test_draws_depend_on_name_seed_and_purpose_and_are_uniform() -> None:
    assert compute_draw("a", 0) == compute_draw("a", 0)
    assert len({compute_draw("a", 0), compute_draw("b", 0), compute_draw("a", 1), compute_draw("a", 0, "x")}) == 4
    draws = [compute_draw(f"layer.{index}", 7) for index in range(2000)]
    assert all(0 <= draw < 1 for draw in draws)
    # The mean of 2000 uniform draws has standard error 0.0065.
    assert abs(sum(draws) / len(draws) - 0.5) < 4 * 0.0065
