from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from oblong.cli.main import run
from oblong.cli.scan import make_slug
from oblong.records import Scan
from tests.checkpoint_builders import llama_tensors, write_model


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    write_model(tmp_path / "tiny-llama")
    monkeypatch.chdir(tmp_path)
    return "tiny-llama"


def test_it_prints_a_summary_and_names_the_file(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["scan", model]) == 0
    output = capsys.readouterr().out
    assert "LlamaForCausalLM, 20 tensors" in output
    assert "wrote tiny-llama.scan.jsonl (20 units" in output
    assert len(Scan.read(Path("tiny-llama.scan.jsonl"))) == 20


def test_json_is_one_document_and_nothing_else(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["scan", model, "--json", "-o", "out.jsonl"]) == 0
    summary = json.loads(capsys.readouterr().out)
    scan = Scan.read(Path("out.jsonl"))
    assert summary["digest"] == scan.digest()
    assert summary["output"] == "out.jsonl"
    assert sum(row["num_units"] for row in [*summary["roles"], *summary["not_measured"]]) == len(llama_tensors())


def test_force_and_filters(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["scan", model]) == 0
    assert run(["scan", model]) == 2
    assert run(["scan", model, "--force", "--include", "mlp", "--exclude", "down"]) == 0
    names = {unit.role for unit in Scan.read(Path("tiny-llama.scan.jsonl")).measured}
    assert names == {"gate", "up"}


@pytest.mark.parametrize(
    ("model", "slug"),
    [
        ("demo", "demo"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "SmolLM2-135M-Instruct"),
        ("weights/model.safetensors", "model"),
        ("a b/c:d.gguf", "c-d"),
        ("models/llama/", "llama"),
        ("?", "model"),
    ],
)
def test_the_default_output_is_named_after_the_model(model: str, slug: str) -> None:
    assert make_slug(model) == slug


def test_a_scan_needs_neither_torch_nor_transformers(model: str) -> None:
    code = "import sys, oblong; oblong.scan(sys.argv[1]); print({'torch', 'transformers'} & {*sys.modules})"
    command = [sys.executable, "-c", code, model]
    finished = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert finished.stdout.strip() == "set()"


class TestShow:
    @pytest.fixture
    def file(self, model: str, capsys: pytest.CaptureFixture[str]) -> str:
        assert run(["scan", model, "-o", "s.jsonl"]) == 0
        capsys.readouterr()
        return "s.jsonl"

    def test_without_options_it_is_the_summary(self, file: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["show", file]) == 0
        output = capsys.readouterr().out
        assert "by role" in output
        assert "not measured" in output

    def test_top_and_bottom(self, file: str, capsys: pytest.CaptureFixture[str]) -> None:
        options = ["--role", "up", "--sort", "entropy_gap", "--top", "1", "--bottom", "1", "--json"]
        assert run(["show", file, *options]) == 0
        shown = [unit["name"] for unit in json.loads(capsys.readouterr().out)["units"]]
        gaps = {u.name: u.measures.entropy_gap for u in Scan.read(Path(file)).measured if u.role == "up" and u.measures}
        assert shown == [max(gaps, key=gaps.__getitem__), min(gaps, key=gaps.__getitem__)]

    def test_layers_and_status(self, file: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["show", file, "--layer", "1-7", "--status", "vector", "--json"]) == 0
        units = json.loads(capsys.readouterr().out)["units"]
        assert [(unit["layer"], unit["role"]) for unit in units] == [(1, "norm"), (1, "norm")]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--sort", "roundness"], "choose one of: name, role"),
            (["--layer", "x"], "give one layer such as 3"),
            (["--layer", "7-3"], "give one layer such as 3"),
            (["--status", "good"], "choose one of: ok, rank_deficient"),
            (["--role", "nose"], "this Scan has the roles"),
        ],
    )
    def test_a_bad_option_says_what_there_is(
        self, file: str, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["show", file, *options]) == 2
        assert message in " ".join(capsys.readouterr().err.split())

    def test_a_plan_is_shown_too(self, file: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["plan", file, "--budget", "3", "-o", "p.yaml"]) == 0
        capsys.readouterr()
        assert run(["show", "p.yaml"]) == 0
        assert "plan kappa-lowest: 3 tensors" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (None, "no such file"),
            ('{"a": 1}', "names no `kind`"),
            ('{"kind": "other"}', "is a 'other' record"),
            ("not json", "is not valid"),
        ],
    )
    def test_what_is_no_record_is_named(
        self, tmp_path: Path, content: str | None, message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = tmp_path / "thing.json"
        if content is not None:
            file.write_text(content)
        assert run(["show", str(file)]) == 2
        error = capsys.readouterr().err
        assert "thing.json" in error
        assert message in error

    def test_an_unfinished_scan_is_named_for_what_it_is(self, file: str, capsys: pytest.CaptureFixture[str]) -> None:
        lines = Path(file).read_text().splitlines(keepends=True)
        Path("cut.jsonl").write_text("".join(lines[:5]))
        assert run(["show", "cut.jsonl"]) == 2
        assert "is cut off" in capsys.readouterr().err
