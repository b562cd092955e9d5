"""LoRA, full fine-tuning, LISA and OSF: what trains, how it ends as weights, resuming, and what is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file, save_file
from scipy.stats import chisquare
from torch import Tensor

from oblong.errors import MissingExtraError, PlanMismatchError, RecipeError, SelectionError
from oblong.methods import METHODS
from oblong.models.causal_lm import load_causal_lm
from oblong.models.stored_tensors import open_stored_tensors
from oblong.records import Plan, Run
from oblong.tuning import merge_run, tune, verify_run
from oblong.tuning.adapters.applying import apply_recipe, obtain_plan
from oblong.tuning.adapters.protocol import Adapter
from oblong.tuning.adapters.sampled_layers import draw_layers
from oblong.tuning.data import build_training_blocks
from oblong.tuning.recipe import TuneRecipe
from tests.tuning_builders import TEXTS, list_tensor_names, make_plan, make_recipe, save_tiny_llama

WIDTH, HIDDEN, KEYS, VOCABULARY, LAYERS = 32, 48, 16, 257, 2
# Rows and columns of the matrices of one layer: q, k, v, o, gate, up, down.
SHAPES = [(WIDTH, WIDTH), (KEYS, WIDTH), (KEYS, WIDTH), (WIDTH, WIDTH), *[(HIDDEN, WIDTH)] * 2, (WIDTH, HIDDEN)]
MATRICES = LAYERS * sum(rows * columns for rows, columns in SHAPES)
NORMS = (2 * LAYERS + 1) * WIDTH
EMBEDDING = VOCABULARY * WIDTH
QUIET_PEFT = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # of transformers, in PEFT
TOKENS = torch.arange(40).reshape(2, 20)


def make_adapter_recipe(folder: Path, adapter: Any, **fields: Any) -> TuneRecipe:
    return make_recipe(folder, **({"adapter": adapter, "plan": None} | fields))


def apply(folder: Path, adapter: Any, **fields: Any) -> Adapter:
    """A tiny model with an adapter, float32, nothing trained yet."""
    recipe = make_adapter_recipe(folder, adapter, **({"dtype": "float32"} | fields))
    loaded = load_causal_lm(recipe.model, dtype=recipe.dtype)
    stored = open_stored_tensors(folder / "model")
    return apply_recipe(loaded.model, obtain_plan(recipe), recipe, stored=stored)


def disturb(adapter: Adapter) -> None:
    """Move everything that trains, reproducibly."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapter.applied.trained.values():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


@torch.no_grad()
def compute_logits(model: Any) -> Tensor:
    logits: Tensor = model.eval()(TOKENS).logits
    return logits


def read_delta(run: Path) -> Mapping[str, Tensor]:
    return load_file(run / "delta" / "delta.safetensors")


class KilledError(Exception):
    """Stands for the end of the process."""


def kill(step: int, total: int, loss: float) -> None:
    if step == 4:
        raise KilledError


@pytest.mark.parametrize(
    ("adapter", "expected"),
    [
        ("lora", 16 * LAYERS * sum(rows + columns for rows, columns in SHAPES)),
        ({"lora": {"rank": 3, "targets": ["q_proj", "v_proj"]}}, 3 * LAYERS * (WIDTH + WIDTH + KEYS + WIDTH)),
        ({"lora": {"rank": 1, "targets": "model.layers.1.mlp.up_proj"}}, HIDDEN + WIDTH),
        ("full", MATRICES + NORMS),
        ({"full": {"embeddings": True}}, MATRICES + NORMS + EMBEDDING),
        ({"lisa": {"layers": 1}}, MATRICES + NORMS + EMBEDDING),
        ({"lisa": {"layers": 2, "embeddings": False}}, MATRICES + NORMS - WIDTH),
        (
            {"osf": {"kept": 0.25}},
            LAYERS * sum((min(shape) - min(shape) // 4) * (sum(shape) + 1) for shape in SHAPES),
        ),
    ],
    ids=str,
)
def test_the_number_of_trained_parameters_is_what_it_is_by_hand(tmp_path: Path, adapter: Any, expected: int) -> None:
    applied = apply(tmp_path, adapter).applied
    assert applied.num_trainable == expected
    assert sum(p.numel() for p in applied.model.parameters() if p.requires_grad) == expected
    assert applied.num_parameters == MATRICES + NORMS + EMBEDDING
    assert all(p.dtype == torch.float32 for p in applied.trained.values())


def test_a_budget_picks_the_rank_that_comes_closest(tmp_path: Path) -> None:
    """Rank 1 costs 928 parameters here; 3,000 is nearer to rank 3, 3,300 to rank 4."""
    cost = LAYERS * sum(map(sum, SHAPES))
    assert cost == 928
    for budget, rank in (("3000p", 3), ("3.3k", 4), ("1p", 1)):
        adapter = apply(tmp_path, {"lora": {"budget": budget}})
        assert adapter.applied.num_trainable == rank * cost
        assert f"rank {rank} (closest to {budget})" in str(adapter.describe())
    share = apply(tmp_path, {"lora": {"budget": "10%"}}).applied.num_trainable
    assert share == round(0.1 * (MATRICES + NORMS + EMBEDDING) / cost) * cost


@pytest.mark.parametrize("adapter", ["lora", "osf"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_an_adapter_that_learned_nothing_is_the_base_bit_for_bit(tmp_path: Path, adapter: str, dtype: str) -> None:
    """Also where the base has a negative zero, to which adding zero would give a positive one."""
    save_tiny_llama(tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    base = load_file(file)
    base["model.layers.0.self_attn.q_proj.weight"][0, 0] = -0.0
    save_file(base, file, metadata={"format": "pt"})
    folded = apply(tmp_path, adapter, dtype=dtype).fold()
    assert len(folded.trained) == LAYERS * len(SHAPES)
    for name, parameter in folded.trained.items():
        assert torch.equal(parameter.view(torch.int16), base[name].view(torch.int16)), name


@pytest.mark.parametrize("adapter", [{"lora": {"rank": 3, "alpha": 5}}, "osf"])
def test_what_is_folded_computes_what_the_live_adapter_computes(tmp_path: Path, adapter: Any) -> None:
    save_tiny_llama(tmp_path / "model", dtype=torch.float32)
    live = apply(tmp_path, adapter)
    model = live.applied.model
    before = compute_logits(model)
    disturb(live)
    expected = compute_logits(model)
    assert float((expected - before).abs().max()) > 1e-2
    folded = live.fold()
    torch.testing.assert_close(compute_logits(model), expected, atol=2e-6, rtol=2e-5)
    assert {type(module).__name__ for module in model.modules()} >= {"Linear"}
    assert set(dict(folded.model.named_parameters())) == set(list_tensor_names(tmp_path / "model"))


@QUIET_PEFT
def test_the_saved_adapter_is_peft_s_and_is_the_live_one(tmp_path: Path) -> None:
    save_tiny_llama(tmp_path / "model", dtype=torch.float32)
    live = apply(tmp_path, {"lora": {"rank": 3, "dropout": 0.2}})
    disturb(live)
    live.save(tmp_path / "adapter")
    base = load_causal_lm(str(tmp_path / "model"), dtype="float32").model
    loaded = PeftModel.from_pretrained(base, tmp_path / "adapter")
    assert torch.equal(compute_logits(loaded), compute_logits(live.applied.model))


@QUIET_PEFT
def test_a_lora_run_is_verified_and_merged_like_any_other(tmp_path: Path) -> None:
    save_tiny_llama(tmp_path / "model", dtype=torch.float32)
    run = tune(make_adapter_recipe(tmp_path, {"lora": {"rank": 2}}, dtype="float32"))
    assert run == Run.read(tmp_path / "run" / "run.json")
    assert run.adapter == "LoRA, rank 2, alpha 4, on 14 linear layers: 1,856 parameters"
    assert run.num_trainable == 1856
    assert run.plan_digest == Plan.read(tmp_path / "run" / "plan.yaml").digest()
    merge_run(tmp_path / "run", tmp_path / "merged")
    verification = verify_run(tmp_path / "run", merged=str(tmp_path / "merged"))
    assert verification.fraction_moved > 0.9
    base = load_causal_lm(str(tmp_path / "model"), dtype="float32").model
    live = PeftModel.from_pretrained(base, tmp_path / "run" / "adapter")
    merged = load_causal_lm(str(tmp_path / "merged"), dtype="float32").model
    torch.testing.assert_close(compute_logits(merged), compute_logits(live), atol=2e-6, rtol=2e-5)


def test_full_fine_tuning_is_the_plan_of_everything(tmp_path: Path) -> None:
    """Bit for bit what a Plan that names every tensor gives."""
    full = tune(make_adapter_recipe(tmp_path, {"full": {"embeddings": True}}))
    assert full.adapter is None
    make_plan(tmp_path / "model", list_tensor_names(tmp_path / "model")).write(tmp_path / "every.yaml")
    recipe = make_recipe(tmp_path, plan=str(tmp_path / "every.yaml"), output=str(tmp_path / "every"))
    assert tune(recipe).history == full.history
    expected = read_delta(tmp_path / "every")
    assert read_delta(tmp_path / "run").keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in read_delta(tmp_path / "run").items())


def test_lora_on_the_tensors_of_a_plan_changes_these_alone(tmp_path: Path) -> None:
    names = ("model.layers.0.mlp.down_proj.weight", "model.layers.1.self_attn.v_proj.weight")
    save_tiny_llama(tmp_path / "model")
    make_plan(tmp_path / "model", names).write(tmp_path / "two.yaml")
    run = tune(make_adapter_recipe(tmp_path, {"lora": {"rank": 2}}, plan=str(tmp_path / "two.yaml")))
    assert run.num_trainable == 2 * (WIDTH + HIDDEN + KEYS + WIDTH)
    assert read_delta(tmp_path / "run").keys() == set(names)
    verify_run(tmp_path / "run")


@pytest.mark.parametrize(
    "adapter", [{"lora": {"dropout": 0.3}}, "full", {"lisa": {"layers": 1, "every": 2}}, "osf"], ids=str
)
def test_a_killed_run_ends_in_the_same_delta(tmp_path: Path, adapter: Any) -> None:
    fields = {"save_every": 3, "output": str(tmp_path / "straight")}
    straight = tune(make_adapter_recipe(tmp_path, adapter, **fields))
    cut = make_adapter_recipe(tmp_path, adapter, **(fields | {"output": str(tmp_path / "cut")}))
    with pytest.raises(KilledError):
        tune(cut, on_progress=kill)
    assert tune(cut).history == straight.history
    expected = read_delta(tmp_path / "straight")
    for name, tensor in read_delta(tmp_path / "cut").items():
        assert torch.equal(tensor, expected[name]), name
    verify_run(tmp_path / "cut")


def test_a_resumed_osf_run_does_not_trust_a_second_decomposition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the signs of all singular vectors turned on resuming, the run still ends in the same delta."""
    fields: dict[str, Any] = {"save_every": 3, "dtype": "float32"}
    tune(make_adapter_recipe(tmp_path, "osf", **fields, output=str(tmp_path / "straight")))
    cut = make_adapter_recipe(tmp_path, "osf", **fields, output=str(tmp_path / "cut"))
    with pytest.raises(KilledError):
        tune(cut, on_progress=kill)
    svd = torch.linalg.svd

    def turned(*args: Any, **kwargs: Any) -> Any:
        U, S, Vt = svd(*args, **kwargs)
        return -U, S, -Vt

    monkeypatch.setattr(torch.linalg, "svd", turned)
    tune(cut)
    expected = read_delta(tmp_path / "straight")
    for name, tensor in read_delta(tmp_path / "cut").items():
        assert torch.equal(tensor, expected[name]), name


def test_lisa_draws_uniformly_without_replacement_and_anew_for_every_draw_and_seed() -> None:
    layers = (3, 5, 8, 13, 21)
    draws = [draw_layers(layers, 2, seed=7, draw=index) for index in range(2000)]
    assert all(len(drawn) == 2 and drawn <= set(layers) for drawn in draws)
    pairs = Counter(tuple(sorted(drawn)) for drawn in draws)
    assert len(pairs) == 10
    assert chisquare(list(pairs.values())).pvalue > 1e-3
    assert draws == [draw_layers(layers, 2, seed=7, draw=index) for index in range(2000)]
    assert draws != [draw_layers(layers, 2, seed=8, draw=index) for index in range(2000)]


def test_lisa_is_adamw_on_the_layers_that_were_drawn(tmp_path: Path) -> None:
    """Against a plain loop with torch's AdamW in which resting layers have no gradient."""
    save_tiny_llama(tmp_path / "model", dtype=torch.float32, num_hidden_layers=4)
    fields: dict[str, Any] = {"dtype": "float32", "schedule": "constant", "max_gradient_norm": 0.5, "seed": 5}
    recipe = make_adapter_recipe(tmp_path, {"lisa": {"layers": 2, "every": 2}}, **fields)
    tune(recipe)
    loaded = load_causal_lm(recipe.model, dtype="float32")
    blocks, num_steps = build_training_blocks(TEXTS, loaded.tokenizer, recipe)
    optimizer = torch.optim.AdamW(loaded.model.parameters(), lr=recipe.learning_rate, weight_decay=0.0)
    for step in range(num_steps):
        ids = torch.stack([blocks[2 * step + row]["input_ids"] for row in range(2)])
        loaded.model(input_ids=ids, labels=ids).loss.backward()
        drawn = draw_layers((0, 1, 2, 3), 2, seed=5, draw=step // 2)
        for name, parameter in loaded.model.named_parameters():
            layer = int(name.split(".")[2]) if name.startswith("model.layers.") else None
            if layer is not None and layer not in drawn:
                parameter.grad = None
        torch.nn.utils.clip_grad_norm_(loaded.model.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
    expected = dict(loaded.model.named_parameters())
    for name, tensor in read_delta(tmp_path / "run").items():
        torch.testing.assert_close(tensor, expected[name].detach(), atol=1e-5, rtol=1e-4)


def test_a_layer_that_lisa_never_drew_is_the_base_s_and_the_run_verifies(tmp_path: Path) -> None:
    tune(make_adapter_recipe(tmp_path, {"lisa": {"layers": 1, "every": 100}}))
    base, delta = load_file(tmp_path / "model" / "model.safetensors"), read_delta(tmp_path / "run")
    still = {name for name, tensor in delta.items() if torch.equal(tensor, base[name])}
    (resting,) = {0, 1} - draw_layers((0, 1), 1, seed=0, draw=0)
    assert still == {name for name in base if name.startswith(f"model.layers.{resting}.")}
    verify_run(tmp_path / "run")


ANCHORED: dict[str, Any] = {"steps": 2, "anchor": {"sources": "self_generated", "blocks": 2}}


@pytest.fixture(scope="module")
def plain_lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run of LoRA without any method."""
    folder = tmp_path_factory.mktemp("plain")
    tune(make_adapter_recipe(folder, "lora", **ANCHORED))
    return folder


@pytest.mark.parametrize("name", sorted(name for name, spec in METHODS.items() if spec.on_outputs))
def test_methods_on_outputs_at_strength_0_are_plain_lora(plain_lora: Path, name: str) -> None:
    method = name if name == "plain" else {"name": name, "strength": 0.0}
    output = plain_lora / name
    tune(make_adapter_recipe(plain_lora, "lora", method=method, output=str(output), **ANCHORED))
    expected = read_delta(plain_lora / "run")
    assert all(torch.equal(tensor, expected[key]) for key, tensor in read_delta(output).items())


def test_a_method_on_outputs_changes_what_lora_learns(plain_lora: Path) -> None:
    """The base that it holds on to is the model with B = 0: in the first step nothing pulls, in the second it does."""
    output = plain_lora / "held"
    held = tune(
        make_adapter_recipe(plain_lora, "lora", method="kl_to_base", output=str(output), log_every=1, **ANCHORED)
    )
    plain = Run.read(plain_lora / "run" / "run.json")
    assert held.history[0].loss == plain.history[0].loss
    assert held.history[1].loss is not None
    assert plain.history[-1].loss is not None
    assert held.history[1].loss > plain.history[-1].loss
    verify_run(output)


@pytest.mark.parametrize("adapter", ["lora", "lisa", "osf"])
@pytest.mark.parametrize("method", ["l2_sp", "subspace_projection", "half_fine_tuning", "wise_ft", "mofo"])
def test_methods_on_weights_are_refused_with_an_adapter(tmp_path: Path, adapter: str, method: str) -> None:
    with pytest.raises(RecipeError, match=f"method {method} works on the model's weights.*the adapter {adapter}: take"):
        make_adapter_recipe(tmp_path, adapter, method=method)
    make_adapter_recipe(tmp_path, "full", method=method)


@pytest.mark.parametrize("adapter", ["lora", "full", "lisa", "osf", {"lora": {"targets": "q_proj", "budget": "1M"}}])
def test_a_recipe_written_out_is_the_same_recipe(tmp_path: Path, adapter: Any) -> None:
    recipe = make_adapter_recipe(tmp_path, adapter)
    assert TuneRecipe.model_validate(recipe.model_dump(mode="json")) == recipe
    assert TuneRecipe.model_validate(yaml.safe_load(recipe.to_yaml())) == recipe


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"adapter": None}, "give a plan, from `oblong plan`, or an adapter"),
        ({"adapter": "full", "plan": "plan.yaml"}, "full trains every tensor, a plan some"),
        ({"adapter": "dora"}, "no adapter is called 'dora'; there are lora, full, lisa, osf"),
        ({"adapter": {}}, "give exactly one of lora, full, lisa, osf"),
        ({"adapter": {"lora": {}, "lisa": {}}}, "give exactly one of"),
        ({"adapter": {"lora": {"rank": 4, "budget": "10M"}}}, "give either rank or budget"),
        ({"adapter": {"lora": {"rank": 0}}}, "adapter.lora.rank"),
        ({"adapter": {"lora": {"targets": []}}}, "name at least one layer"),
        ({"adapter": {"osf": {"kept": 1.0}}}, "adapter.osf.kept"),
        ({"adapter": {"lora": {"r": 4}}}, "adapter.lora.r: no such option"),
    ],
)
def test_mistakes_in_a_recipe_are_explained(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        make_recipe(tmp_path, **({"plan": None} | fields))


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ({"lora": {"budget": "20"}}, "counts tensors, which says nothing about a rank"),
        ({"lora": {"targets": ["q_proj", "c_attn"]}}, "is called 'c_attn'; this model has down_proj, gate_proj"),
        ({"lora": {"targets": "embed_tokens"}}, "is called 'embed_tokens'"),
        ({"lisa": {"layers": 3}}, "3 are to be drawn, but the Plan has tensors of 2"),
        ({"osf": {"kept": 0.01}}, "is none: raise it"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(tmp_path: Path, adapter: Any, message: str) -> None:
    with pytest.raises(SelectionError, match=message):
        apply(tmp_path, adapter)


def test_a_peft_without_osf_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("peft.OSFConfig")
    with pytest.raises(MissingExtraError, match=r"OSF \(a newer PEFT\) needs .* pip install 'oblong\[adapters\]'"):
        apply(tmp_path, "osf")


@pytest.mark.parametrize("adapter", ["lora", "osf"])
def test_only_linear_layers_can_be_adapted(tmp_path: Path, adapter: str) -> None:
    save_tiny_llama(tmp_path / "model")
    make_plan(tmp_path / "model", ["model.norm.weight", "model.embed_tokens.weight"]).write(tmp_path / "odd.yaml")
    with pytest.raises(PlanMismatchError, match=r"linear layers.*model\.embed_tokens\.weight, model\.norm\.weight"):
        apply(tmp_path, adapter, plan=str(tmp_path / "odd.yaml"))
