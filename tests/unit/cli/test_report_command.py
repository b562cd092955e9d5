from __future__ import annotations

from pathlib import Path

import pytest

from oblong.cli.main import run
from tests.report_builders import make_demo_comparison
from tests.scan_builders import make_plan, make_scan


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    scan = make_scan()
    scan.write(Path("scan.jsonl"))
    make_demo_comparison(scan).write(Path("comparison.json"))
    make_plan("extra", scan).write(Path("plan.yaml"))
    return tmp_path


def test_all_records_and_figures(records: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--scan", "scan.jsonl", "--comparison", "comparison.json", "--plan", "plan.yaml", "--png", "figures"]
    assert run(["report", *arguments]) == 0
    page = Path("report.html").read_text()
    assert "extra" in page
    assert len(list((records / "figures").glob("*.png"))) == 6
    assert capsys.readouterr().out == "wrote report.html\n"


def test_a_scan_is_enough(records: Path) -> None:
    assert run(["report", "--scan", "scan.jsonl", "-o", "out/page.html", "--title", "Mine"]) == 0
    assert "<title>Mine</title>" in Path("out/page.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to report"),
        (["--scan", "absent.jsonl"], "absent.jsonl: no such file"),
        (["--comparison", "plan.yaml"], "not 'oblong.comparison'"),
        (["--scan", "scan.jsonl", "-o", "plan.yaml"], "plan.yaml exists already"),
    ],
)
def test_mistakes_exit_2_and_write_nothing(
    records: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    before = {path.name: path.read_bytes() for path in records.iterdir()}
    assert run(["report", *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert {path.name: path.read_bytes() for path in records.iterdir()} == before
