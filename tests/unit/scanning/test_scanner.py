from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oblong.errors import SelectionError
from oblong.records import Scan, Status
from oblong.scanning import ScanProgress, scan, scanner
from oblong.scanning.devices import check_accelerator
from tests.checkpoint_builders import LLAMA_CONFIG, llama_tensors, make_weights, write_model
from tests.tolerances import SCAN_AGAINST_SVD


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


def scan_tensors(directory: Path, tensors: dict[str, Any], **options: Any) -> Scan:
    return scan(str(write_model(directory, tensors, options.pop("config", None))), **options)


def test_every_tensor_is_there_once_in_checkpoint_order(model: Path) -> None:
    result = scan(str(model))
    names = [unit.tensor for unit in result]
    assert sorted(names) == sorted(llama_tensors())
    assert result.header.checkpoint.num_tensors == len(names)


def test_the_measures_are_those_of_the_matrix(model: Path) -> None:
    result = scan(str(model), spectrum="full")
    for name, values in llama_tensors().items():
        if values.ndim == 1:
            continue
        s = np.linalg.svd(values.astype(np.float64), compute_uv=False)
        measures = result[name].measures
        assert measures is not None
        assert measures.kappa == pytest.approx(s[0] / s[-1], rel=SCAN_AGAINST_SVD)
        assert measures.log_volume == pytest.approx(np.log(s).sum(), rel=SCAN_AGAINST_SVD)
        assert measures.mutual_information == pytest.approx(0.5 * np.log1p(s**2).sum(), rel=SCAN_AGAINST_SVD)


def test_extremes_leave_out_what_needs_every_singular_value(tmp_path: Path) -> None:
    result = scan_tensors(tmp_path, {"model.layers.0.mlp.up_proj.weight": make_weights(90, 70)})
    measures = result.measured[0].measures
    assert measures is not None
    assert measures.mutual_information is None


def test_the_file_holds_the_scan(model: Path, tmp_path: Path) -> None:
    result = scan(str(model), output=tmp_path / "out" / "s.jsonl")
    assert Scan.read(tmp_path / "out" / "s.jsonl") == result
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["s.jsonl"]


def test_eligible_are_the_projections_and_nothing_else(model: Path) -> None:
    result = scan(str(model))
    assert {unit.role for unit in result.eligible} == {"q", "k", "v", "o", "gate", "up", "down"}
    assert all(unit.reason for unit in result if not unit.eligible)


def test_a_tied_output_layer_counts_once(tmp_path: Path) -> None:
    tensors = llama_tensors() | {"lm_head.weight": llama_tensors()["model.embed_tokens.weight"]}
    result = scan_tensors(tmp_path, tensors, config=LLAMA_CONFIG)
    head, embedding = result["lm_head.weight"], result["model.embed_tokens.weight"]
    assert (head.status, head.tied_to, head.measures) == (Status.TIED, embedding.name, None)
    assert embedding.measures is not None
    assert embedding.note == "also serves as lm_head.weight"


def test_fused_tensors_give_named_parts(tmp_path: Path) -> None:
    values = make_weights(24, 72)
    result = scan_tensors(tmp_path, {"h.0.attn.c_attn.weight": values}, config={})
    assert [unit.name for unit in result] == [f"h.0.attn.c_attn.weight[{part}]" for part in "qkv"]
    assert [(unit.role, unit.shape, unit.tensor_shape) for unit in result][1] == ("k", (24, 24), (24, 72))
    s = np.linalg.svd(values[:, 24:48].astype(np.float64), compute_uv=False)
    assert result["h.0.attn.c_attn.weight[k]"].measures.kappa == pytest.approx(s[0] / s[-1], rel=SCAN_AGAINST_SVD)  # type: ignore[union-attr]
    assert len({unit.digest for unit in result}) == 1


def test_experts_of_a_stack_are_read_one_by_one_and_measured_each(tmp_path: Path) -> None:
    stack = make_weights(3, 12, 20)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    result = scan_tensors(tmp_path, {name: stack}, config={"model_type": "gpt_oss"})
    assert len(result) == 6
    s = np.linalg.svd(stack[2, :, 1::2].astype(np.float64), compute_uv=False)
    measures = result[f"{name}[expert.2.up]"].measures
    assert measures is not None
    assert measures.kappa == pytest.approx(s[0] / s[-1], rel=SCAN_AGAINST_SVD)


SPECIAL = {
    "nan": (np.array([[1.0, np.nan], [0.0, 1.0]], dtype=np.float32), Status.NON_FINITE),
    "infinite": (np.array([[1.0, np.inf], [0.0, 1.0]], dtype=np.float32), Status.NON_FINITE),
    "nan_vector": (np.array([1.0, np.nan], dtype=np.float32), Status.NON_FINITE),
    "zero": (np.zeros((40, 50), dtype=np.float32), Status.ZERO),
    "zero_vector": (np.zeros(5, dtype=np.float32), Status.ZERO),
    "vector": (make_weights(9), Status.VECTOR),
    "one_row": (make_weights(1, 9), Status.VECTOR),
    "one_column": (make_weights(9, 1), Status.VECTOR),
    "scalar": (np.array(3.0, dtype=np.float32), Status.VECTOR),
    "empty": (np.zeros((0, 5), dtype=np.float32), Status.EMPTY),
    "integers": (np.arange(12).reshape(3, 4), Status.NOT_FLOAT),
    "deficient": (np.outer(np.arange(1, 41), np.arange(1, 51)).astype(np.float32), Status.RANK_DEFICIENT),
    "beyond_float64": (np.full((3, 3), 1.7e308), Status.NOT_CONVERGED),
    "fine": (make_weights(5, 6), Status.OK),
}


@pytest.fixture(scope="module")
def special(tmp_path_factory: pytest.TempPathFactory) -> Scan:
    tensors = {f"{name}.weight": values for name, (values, _) in SPECIAL.items()}
    return scan_tensors(tmp_path_factory.mktemp("special"), tensors, config={})


@pytest.mark.parametrize("name", SPECIAL)
def test_a_bad_number_is_a_status_with_a_reason(special: Scan, name: str) -> None:
    unit, expected = special[f"{name}.weight"], SPECIAL[name][1]
    assert unit.status is expected
    assert (unit.measures is None) is (expected not in (Status.OK, Status.RANK_DEFICIENT))
    assert unit.eligible is (unit.measures is not None)
    assert bool(unit.reason) is (unit.measures is None)
    assert unit.digest is not None


def test_a_scan_with_bad_numbers_is_strict_json(special: Scan, tmp_path: Path) -> None:
    special.write(tmp_path / "s.jsonl")
    for line in (tmp_path / "s.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda constant: pytest.fail(f"{constant} in a record"))
    assert Scan.read(tmp_path / "s.jsonl").digest() == special.digest()


def test_weights_of_an_unknown_quantiser_name_it(tmp_path: Path) -> None:
    tensors = {"model.layers.0.mlp.up_proj.codes": np.zeros((4, 4), dtype=np.int32)}
    result = scan_tensors(tmp_path, tensors, config={"quantization_config": {"quant_method": "aqlm"}})
    assert "aqlm" in str(result.units[0].reason)
    assert "scan the original" in str(result.units[0].reason)


def test_filters_leave_rows_that_were_not_read(model: Path) -> None:
    result = scan(str(model), include=r"layers\.1\.", exclude="mlp")
    measured = {unit.name for unit in result.measured}
    assert measured == {f"model.layers.1.self_attn.{x}_proj.weight" for x in "qkvo"}
    excluded = [unit for unit in result if unit.status is Status.EXCLUDED]
    assert len(result) == len(llama_tensors())
    assert excluded
    assert all(unit.digest is None and not unit.eligible for unit in excluded)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"include": "("}, r"--include '\(' is not a valid regular expression"),
        ({"exclude": "*"}, r"--exclude '\*' is not a valid regular expression"),
        ({"include": "nothing like it"}, "left none of the 20 tensors.*model"),
        ({"device": "abacus"}, "'abacus' is unknown; choose one of cpu, cuda, mps"),
        ({"device": "cuda:99"}, "choose --device cpu"),
        ({"spectrum": "most"}, "'most' is unknown; choose one of extremes, full"),
        ({"num_threads": 0}, "at least 1"),
    ],
)
def test_a_bad_request_says_what_is_wrong_and_writes_nothing(
    model: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(SelectionError, match=message):
        scan(str(model), output=tmp_path / "out" / "s.jsonl", **options)
    assert not (tmp_path / "out").exists()


def test_mps_falls_back_to_the_cpu_with_a_message_and_the_record_says_so(model: Path) -> None:
    messages: list[str] = []
    fallen = scan(str(model), device="mps", on_progress=lambda p: messages.append(p.message or ""))
    assert messages[0] == ("--device mps has no float64, which condition numbers need; computing on the CPU instead")
    assert fallen.header.config.device == "cpu"
    assert fallen.digest() == scan(str(model)).digest()
    with pytest.warns(UserWarning, match="--device mps:0 has no float64"):
        scan(str(model), device="mps:0")


def test_an_unknown_index_of_a_device_is_refused() -> None:
    with pytest.raises(SelectionError, match="'cuda:x' is unknown"):
        check_accelerator("cuda:x")


def test_progress_counts_every_unit_and_all_work(model: Path) -> None:
    seen: list[ScanProgress] = []
    result = scan(str(model), on_progress=seen.append)
    assert [state.done for state in seen] == list(range(1, len(result) + 1))
    assert [state.detail for state in seen] == [unit.name for unit in result]
    assert math.isclose(seen[-1].done_work, seen[-1].total_work)
    work = [state.done_work for state in seen]
    assert work == sorted(work)


def test_windows_and_threads_do_not_change_what_is_found(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = scan(str(model), num_threads=1).digest()
    monkeypatch.setattr(scanner, "WINDOW_BYTES", 1)
    assert scan(str(model), num_threads=3).digest() == expected


def test_a_directory_and_its_single_file_give_the_same_units(model: Path) -> None:
    whole, single = scan(str(model)), scan(str(model / "model.safetensors"))
    assert [u.model_dump(exclude={"seconds"}) for u in whole] == [u.model_dump(exclude={"seconds"}) for u in single]
