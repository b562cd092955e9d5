"""The commands tune, verify and merge: exit codes, messages, and a merged model that transformers loads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from oblong.checkpoints.delta import digest_tensor
from oblong.cli.main import run
from oblong.models.causal_lm import load_causal_lm
from oblong.models.quiet import quiet_transformers
from oblong.records import Run
from tests.tuning_builders import SELECTED, make_recipe


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model, Plan, text, recipe.yaml and a finished run."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "recipe.yaml").write_text(make_recipe(folder).to_yaml())
    assert run(["tune", str(folder / "recipe.yaml")]) == 0
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """The same, free to be damaged; the run still names the base in `finished`."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def merge(folder: Path, output: Path, *options: str) -> int:
    return run(["merge", str(folder / "run"), "-o", str(output), *options])


def test_flags_alone_make_the_same_run(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = f"""--model {finished}/model --plan {finished}/plan.yaml --data {finished}/text.jsonl --steps 6
        --sequence-length 32 --batch-size 2 --learning-rate 1e-2 --save-every 0 --log-every 2 -o {tmp_path}/run"""
    assert run(["tune", *flags.split(), "--json"]) == 0
    printed = Run.model_validate_json(capsys.readouterr().out)
    assert printed == Run.read(tmp_path / "run/run.json")
    assert printed.history == Run.read(finished / "run/run.json").history


def test_summary_names_the_result_and_the_next_commands(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    assert run(["tune", str(finished / "recipe.yaml"), "-o", str(output), "--steps", "2"]) == 0
    text = capsys.readouterr().out
    for part in ("completed", "3 of 3 tensors", "bit-identical", "tokens/s", f"oblong verify {output}", "oblong merge"):
        assert part in text


def test_old_data_that_nothing_takes_is_named(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for method, holder in (((), "no method"), (("--method", "mofo"), "method mofo")):
        output = tmp_path / f"run{len(method)}"
        flags = ("-o", str(output), "--steps", "2", "--anchor", "self_generated", *method)
        assert run(["tune", str(finished / "recipe.yaml"), *flags]) == 0
        assert f"the anchor is not used: {holder} takes no old data" in " ".join(capsys.readouterr().err.split())


def test_existing_run_exits_2_and_is_untouched(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (finished / "run/run.json").read_bytes()
    assert run(["tune", str(finished / "recipe.yaml")]) == 2
    assert "exists already" in capsys.readouterr().err
    assert (finished / "run/run.json").read_bytes() == before


def test_all_recipe_mistakes_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.yaml").write_text("model: demo\nplan: p\ndata: d\nsteps: 0\nlearning_rate: -1\nsede: 3\n")
    assert run(["tune", str(tmp_path / "bad.yaml"), "-o", str(tmp_path / "run")]) == 2
    message = capsys.readouterr().err
    for part in ("3 mistakes", "steps: ", "learning_rate: ", "sede: no such option"):
        assert part in message


def test_verify_proves_a_run_and_its_merged_model(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert merge(finished, tmp_path / "merged") == 0
    assert run(["verify", str(finished / "run"), "--model", str(tmp_path / "merged")]) == 0
    text = capsys.readouterr().out
    assert "verified" in text
    assert "the merged model: delta inside, base outside" in text


def test_merged_model_is_base_plus_delta_and_loads_in_transformers(finished: Path, tmp_path: Path) -> None:
    assert merge(finished, tmp_path / "merged") == 0
    base = load_file(finished / "model/model.safetensors")
    delta = load_file(finished / "run/delta/delta.safetensors")
    merged = load_file(tmp_path / "merged/model.safetensors")
    assert {name: digest_tensor(tensor) for name, tensor in merged.items()} == {
        name: digest_tensor(tensor) for name, tensor in (base | delta).items()
    }
    with quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.bfloat16)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    tokens = torch.tensor([tokenizer("the quick brown fox")["input_ids"]])
    tuned = load_causal_lm(str(finished / "model"), delta=finished / "run/delta").model
    untuned = load_causal_lm(str(finished / "model")).model
    with torch.no_grad():
        assert torch.equal(model(tokens).logits, tuned(tokens).logits)
        assert not torch.equal(model(tokens).logits, untuned(tokens).logits)


def test_merge_keeps_shards_and_side_files(copy: Path, tmp_path: Path) -> None:
    model = copy / "model"
    with quiet_transformers():
        loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
        (model / "model.safetensors").unlink()
        loaded.save_pretrained(model, max_shard_size="20KB")
    assert len(list(model.glob("model-*.safetensors"))) > 1
    expected = {path.name for path in model.iterdir()}
    (model / "oblong-demo-model.json").write_text("{}")  # where the base came from; not true of the merged model
    assert merge(copy, tmp_path / "merged", "--base", str(model)) == 0
    assert {path.name for path in (tmp_path / "merged").iterdir()} == expected
    assert run(["verify", str(copy / "run"), "--base", str(model), "--model", str(tmp_path / "merged")]) == 0


def test_merge_does_not_overwrite_without_force(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "merged"
    target.mkdir()
    (target / "notes.txt").write_text("mine")
    assert merge(finished, target) == 2
    assert merge(finished, target, "--force") == 2
    assert "no model directory" in capsys.readouterr().err
    assert (target / "notes.txt").read_text() == "mine"
    (target / "config.json").write_text("{}")
    assert merge(finished, target, "--force") == 0
    assert not (target / "notes.txt").exists()


def change_delta(folder: Path) -> None:
    path = folder / "run/delta/delta.safetensors"
    tensors = load_file(path)
    tensors[SELECTED[0]][0, 0] += 1
    save_file(tensors, path)


def change_plan(folder: Path) -> None:
    path = folder / "run/plan.yaml"
    path.write_text(path.read_text().replace(SELECTED[0], "model.layers.0.mlp.up_proj.weight"))


def change_base(folder: Path) -> None:
    path = folder / "model/model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, path, metadata={"format": "pt"})


def change_manifest(folder: Path) -> None:
    """Claim that a tensor is frozen which the base does not have."""
    path = folder / "run/delta/manifest.json"
    manifest = json.loads(path.read_text())
    manifest["frozen"]["invented.weight"] = manifest["frozen"]["model.norm.weight"]
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (change_delta, SELECTED[0]),
        (change_plan, SELECTED[0]),
        (change_base, "model.norm.weight"),
        (change_manifest, "invented.weight"),
    ],
)
def test_verify_names_what_was_tampered_with(
    copy: Path, damage: Callable[[Path], None], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["verify", str(copy / "run"), "--base", str(copy / "model")]
    assert run(arguments) == 0
    damage(copy)
    capsys.readouterr()
    assert run(arguments) == 1
    assert f"{named}: " in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(("name", "origin"), [(SELECTED[0], "delta"), ("model.norm.weight", "base")])
def test_verify_names_what_differs_in_a_merged_model(
    finished: Path, tmp_path: Path, name: str, origin: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert merge(finished, tmp_path / "merged") == 0
    path = tmp_path / "merged/model.safetensors"
    tensors = load_file(path)
    tensors[name].view(-1)[0] += 1
    save_file(tensors, path, metadata={"format": "pt"})
    assert run(["verify", str(finished / "run"), "--model", str(tmp_path / "merged")]) == 1
    assert f"{name}: the merged model's is not the {origin}'s" in " ".join(capsys.readouterr().err.split())


def test_verify_refuses_a_run_in_which_nothing_moved(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(tmp_path / "still")
    assert run(["tune", str(finished / "recipe.yaml"), "-o", output, "--learning-rate", "1e-12"]) == 0
    assert "0 of 3 tensors" in capsys.readouterr().out
    assert run(["verify", output]) == 1
    assert f"{SELECTED[0]}: in the Plan, but no element of it moved" in " ".join(capsys.readouterr().err.split())


def test_verify_of_nothing_exits_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", str(tmp_path)]) == 2
    assert "run.json" in capsys.readouterr().err


def test_a_base_that_moved_is_asked_for(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = copy / "run/delta/manifest.json"
    manifest.write_text(manifest.read_text().replace(json.loads(manifest.read_text())["model"], "./moved"))
    assert run(["verify", str(copy / "run")]) == 2
    assert "--base" in capsys.readouterr().err
    assert run(["verify", str(copy / "run"), "--base", str(copy / "model")]) == 0
