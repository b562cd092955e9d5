from __future__ import annotations

import json
from pathlib import Path

import pytest

from oblong.cli.main import run
from oblong.records import Plan, Scan
from tests.scan_builders import make_scan, make_unit


@pytest.fixture
def scan_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "demo.scan.jsonl"
    make_scan().write(path)
    return path


def test_writes_a_plan_that_reads_back(scan_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", str(scan_file), "--budget", "8%", "-o", "out/plan.yaml"]) == 0
    plan = Plan.read(Path("out/plan.yaml"))
    assert plan.scan_digest == Scan.read(scan_file).digest()
    output = capsys.readouterr()
    assert f"plan kappa-lowest: {plan.totals.num_tensors} tensors, {plan.totals.num_parameters:,}" in output.out
    assert "wrote out/plan.yaml" in output.out
    assert "passed over" in output.err


def test_controls_lie_beside_the_plan(scan_file: Path) -> None:
    assert run(["plan", str(scan_file), "--budget", "8%", "--controls", "--seed", "3", "-o", "p.yaml"]) == 0
    names = ["p.inverse.yaml", "p.random-parameters-s3.yaml", "p.random-role-shape-s3.yaml", "p.yaml"]
    assert sorted(path.name for path in Path.cwd().glob("*.yaml")) == names
    assert {Plan.read(Path(name)).totals.num_parameters for name in names} == {10_727_424}


def test_random_controls_can_be_drawn_several_times(scan_file: Path) -> None:
    assert run(["plan", str(scan_file), "--budget", "8%", "--controls", "--draws", "3", "-o", "p.yaml"]) == 0
    drawn = [Plan.read(Path(f"p.random-role-shape-s{seed}.yaml")) for seed in range(3)]
    assert len({plan.tensor_names for plan in drawn}) == 3
    assert len(list(Path.cwd().glob("*.yaml"))) == 2 + 2 * 3


def test_the_default_output_is_named_after_the_rule(scan_file: Path) -> None:
    assert run(["plan", str(scan_file), "--budget", "10", "--within", "role", "--order", "highest"]) == 0
    assert Plan.read(Path("kappa-highest-within-role.plan.yaml")).totals.num_tensors == 10


def test_json_is_one_document_and_nothing_else(scan_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", str(scan_file), "--budget", "10", "--controls", "--json", "-o", "p.yaml"]) == 0
    plans = json.loads(capsys.readouterr().out)["plans"]
    assert [entry["path"] for entry in plans][:2] == ["p.yaml", "p.inverse.yaml"]
    assert plans[0]["plan"]["totals"]["num_tensors"] == 10


def test_nothing_is_written_when_any_output_exists(scan_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("p.random-parameters-s0.yaml").write_text("mine")
    assert run(["plan", str(scan_file), "--budget", "10", "--controls", "-o", "p.yaml"]) == 2
    assert "p.random-parameters-s0.yaml exists already" in capsys.readouterr().err
    assert [path.read_text() for path in Path.cwd().glob("*.yaml")] == ["mine"]
    assert run(["plan", str(scan_file), "--budget", "10", "--controls", "-o", "p.yaml", "--force"]) == 0
    assert Plan.read(Path("p.random-parameters-s0.yaml")).rule.match == "parameters"


def test_unresolved_choices_are_warned_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    units = [make_unit(f"w{index}", role="q", resolved=index > 0) for index in range(3)]
    make_scan(units).write(tmp_path / "s.jsonl")
    assert run(["plan", "s.jsonl", "--budget", "2"]) == 0
    assert "1 of 2 choices rest on a kappa" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--criterion", "kapa"], "unknown criterion 'kapa'"),
        (["--budget", "1T"], "cannot read the budget '1T'"),
        (["--budget", "200M"], "200,000,000 parameters, but only 106,168,320"),
        (["--within", "layer"], "'layer'"),
    ],
)
def test_a_bad_request_names_the_mistake_and_writes_nothing(
    scan_file: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(["plan", str(scan_file), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert list(Path.cwd().glob("*.yaml")) == []


def test_a_missing_scan_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", str(tmp_path / "none.jsonl")]) == 2
    assert "none.jsonl: no such file" in capsys.readouterr().err.replace("\n", "")
