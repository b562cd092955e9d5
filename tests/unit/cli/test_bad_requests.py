"""Bad requests from the command line: exit code 2, the culprit named, nothing written, no traceback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from oblong.cli.main import run
from tests.checkpoint_builders import make_weights, write_model, write_sharded, write_typed
from tests.packed_builders import build_gptq
from tests.tuning_builders import make_plan, save_tiny_llama, write_text

Request = Callable[[Path], list[str]]


def unknown_command(folder: Path) -> list[str]:
    return ["scam", "demo"]


def unknown_option(folder: Path) -> list[str]:
    return ["scan", "demo", "--colour", "red"]


def fetch_something_else(folder: Path) -> list[str]:
    return ["fetch", "gpt-5"]


def both_demos(folder: Path) -> list[str]:
    return ["demo", "--quick", "--full"]


def no_such_recipe(folder: Path) -> list[str]:
    return ["compare", str(folder / "gone.yaml")]


def scan_flags(folder: Path, *options: str) -> list[str]:
    write_model(folder / "scanned")
    return ["scan", str(folder / "scanned"), *options]


def scan_of_nothing(folder: Path) -> list[str]:
    return ["scan", str(folder / "gone")]


def scan_of_a_folder_without_weights(folder: Path) -> list[str]:
    (folder / "bare").mkdir()
    (folder / "bare" / "README.md").touch()
    return ["scan", str(folder / "bare")]


def scan_of_an_empty_file(folder: Path) -> list[str]:
    (folder / "empty.safetensors").touch()
    return ["scan", str(folder / "empty.safetensors")]


def scan_without_a_shard(folder: Path) -> list[str]:
    shards = {name: {name: make_weights(2, 2)} for name in ("one.safetensors", "two.safetensors")}
    (write_sharded(folder / "lost", shards) / "two.safetensors").unlink()
    return ["scan", str(folder / "lost")]


def scan_without_a_tensor(folder: Path) -> list[str]:
    write_sharded(folder / "short", {"one.safetensors": {"v": make_weights(2, 2)}})
    index = '{"weight_map": {"v": "one.safetensors", "w": "one.safetensors"}}'
    (folder / "short" / "model.safetensors.index.json").write_text(index)
    return ["scan", str(folder / "short")]


def scan_of_a_dead_link(folder: Path) -> list[str]:
    (folder / "linked").mkdir()
    (folder / "linked" / "model.safetensors").symlink_to("gone")
    return ["scan", str(folder / "linked")]


def scan_on_an_unknown_device(folder: Path) -> list[str]:
    return scan_flags(folder, "--device", "abacus")


def scan_with_no_thread(folder: Path) -> list[str]:
    return scan_flags(folder, "--threads", "0")


def scan_of_no_tensor(folder: Path) -> list[str]:
    return scan_flags(folder, "--include", "nothing like it")


def scan_into_a_file(folder: Path) -> list[str]:
    return scan_flags(folder, "-o", str(folder / "text.jsonl" / "s.jsonl"))


def scan_streams_what_is_here(folder: Path) -> list[str]:
    return scan_flags(folder, "--stream")


def tune_flags(folder: Path, **changes: str) -> list[str]:
    flags = {
        "model": str(folder / "model"),
        "plan": str(folder / "plan.yaml"),
        "data": str(folder / "text.jsonl"),
        "steps": "1",
        "sequence-length": "16",
        "output": str(folder / "run"),
    }
    return ["tune", *(part for name, value in (flags | changes).items() for part in (f"--{name}", value))]


def plan_for_another_model(folder: Path) -> list[str]:
    other = save_tiny_llama(folder / "other", seed=1)
    make_plan(other).write(folder / "other.yaml")
    return tune_flags(folder, plan=str(folder / "other.yaml"))


def plan_for_another_architecture(folder: Path) -> list[str]:
    other = save_tiny_llama(folder / "wide", hidden_size=64)
    make_plan(other).write(folder / "wide.yaml")
    return tune_flags(folder, plan=str(folder / "wide.yaml"))


def quantised_model(folder: Path) -> list[str]:
    stored, _ = build_gptq(4, act=True)
    model = folder / "packed"
    model.mkdir()
    write_typed(model / "model.safetensors", stored)
    (model / "config.json").write_text('{"quantization_config": {"quant_method": "gptq"}}')
    return tune_flags(folder, model=str(model))


def model_of_scaled_codes(folder: Path) -> list[str]:
    codes, scale = ("m.weight", "F8_E4M3", (4, 4), bytes(16)), ("m.weight_scale", "F32", (), bytes(4))
    write_typed(folder / "fp8.safetensors", [codes, scale])
    return tune_flags(folder, model=str(folder / "fp8.safetensors"))


def no_training_text(folder: Path) -> list[str]:
    (folder / "empty.txt").write_text("\n")
    return tune_flags(folder, data=str(folder / "empty.txt"))


def too_little_training_text(folder: Path) -> list[str]:
    (folder / "short.txt").write_text("ab")
    return tune_flags(folder, data=str(folder / "short.txt"))


def missing_training_text(folder: Path) -> list[str]:
    return tune_flags(folder, data=str(folder / "gone.jsonl"))


def missing_plan(folder: Path) -> list[str]:
    return tune_flags(folder, plan=str(folder / "gone.yaml"))


def missing_model(folder: Path) -> list[str]:
    return tune_flags(folder, model=str(folder / "gone"))


def steps_and_epochs(folder: Path) -> list[str]:
    return [*tune_flags(folder), "--epochs", "2"]


REQUESTS: dict[Request, str] = {
    scan_of_nothing: "gone': there is no such file or directory; check the path",
    scan_of_a_folder_without_weights: "bare: the directory holds no weights: expected *.safetensors",
    scan_of_an_empty_file: "empty.safetensors: corrupt checkpoint: it has 0 bytes, too few for a header; fetch",
    scan_without_a_shard: "1 of 2 shards that are missing: two.safetensors; fetch the model again",
    scan_without_a_tensor: "tensor w is not in one.safetensors, where the index says it is; fetch the model again",
    scan_of_a_dead_link: "model.safetensors: corrupt checkpoint: cannot be read: No such file or directory; make it",
    scan_on_an_unknown_device: "--device 'abacus' is unknown; choose one of cpu, cuda, mps",
    scan_with_no_thread: "--threads 0: at least 1 is needed; leave the option out to use all cores",
    scan_of_no_tensor: "--include 'nothing like it' left none of the 20 tensors; change it to match names such as",
    scan_into_a_file: "s.jsonl: File exists; choose another -o",
    scan_streams_what_is_here: "scanned is on this disk: leave --stream out",
    unknown_command: "scam",
    unknown_option: "--colour",
    fetch_something_else: "'gpt-5'",
    both_demos: "--quick and --full exclude each other",
    no_such_recipe: "gone.yaml",
    plan_for_another_model: "model.layers.0.mlp.down_proj.weight",
    plan_for_another_architecture: "model.layers.0.mlp.down_proj.weight",
    quantised_model: "packed: its m.weight is quantised (GPTQ4, by gptq) and cannot be trained: tune the original",
    model_of_scaled_codes: "fp8.safetensors: its m.weight is quantised (F8_E4M3) and cannot be trained",
    no_training_text: "empty.txt: contains no text",
    too_little_training_text: "short.txt",
    missing_training_text: "gone.jsonl: no such file",
    missing_plan: "gone.yaml: no such file",
    missing_model: "gone",
    steps_and_epochs: "give either steps or epochs",
}


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: request.__name__)
def test_it_is_named_and_nothing_is_written(
    request_: Request, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_plan(save_tiny_llama(tmp_path / "model")).write(tmp_path / "plan.yaml")
    write_text(tmp_path / "text.jsonl")
    arguments = request_(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}
    capsys.readouterr()
    assert run(arguments) == 2
    errors = " ".join(capsys.readouterr().err.split())
    assert REQUESTS[request_] in errors
    assert "Traceback" not in errors
    assert {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_the_right_request_would_have_worked(tmp_path: Path) -> None:
    make_plan(save_tiny_llama(tmp_path / "model")).write(tmp_path / "plan.yaml")
    write_text(tmp_path / "text.jsonl")
    assert run(tune_flags(tmp_path)) == 0


def test_help_of_every_command_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    listing = capsys.readouterr().out
    commands = ("fetch", "scan", "show", "plan", "tune", "verify", "merge", "evaluate", "compare", "report", "demo")
    for command in commands:
        assert command in listing
        assert run([command, "--help"]) == 0
        assert f"Example: oblong {command}" in " ".join(capsys.readouterr().out.split())
