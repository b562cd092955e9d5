"""A live module scans to what its saved file scans to; what is not here as a whole is refused by name."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from accelerate.hooks import attach_align_device_hook
from safetensors.torch import save_file
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM
from transformers.pytorch_utils import Conv1D

from oblong.checkpoints import Checkpoint
from oblong.checkpoints.modules import open_module
from oblong.errors import SelectionError, UnreadableModuleError
from oblong.planning import plan
from oblong.records import Scan, Status
from oblong.scanning import ScanProgress, scan
from oblong.tuning.apply import apply_plan
from tests.tiny_configs import make_llama_config


def make_llama(*, tied: bool = True) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = make_llama_config(vocab_size=64, hidden_size=16, intermediate_size=40, tie_word_embeddings=tied)
    return LlamaForCausalLM(config)


def make_small_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(50, 16), nn.Linear(16, 32), nn.Conv2d(3, 4, 3), nn.BatchNorm1d(8))


def drop_seconds(result: Scan) -> list[dict[str, Any]]:
    return [unit.model_dump(exclude={"seconds"}) for unit in result]


def test_a_live_model_scans_like_its_saved_file(tmp_path: Path) -> None:
    model = make_llama(tied=False)
    nn.Module.to(model, torch.bfloat16)
    model.save_pretrained(tmp_path)
    live, stored = scan(model), scan(tmp_path)
    assert {unit.name for unit in live} == {unit.name for unit in stored}
    for unit in stored:
        assert live[unit.name].model_dump(exclude={"seconds"}) == unit.model_dump(exclude={"seconds"})


def test_the_header_says_what_was_scanned() -> None:
    model = make_llama()
    header = scan(model).header
    assert header.model == header.checkpoint.architecture == "LlamaForCausalLM"
    assert header.checkpoint.format == "module"
    assert header.checkpoint.files == ()
    assert header.checkpoint.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert header.checkpoint.layout_digest != scan(nn.Module.half(model)).header.checkpoint.layout_digest


def test_a_tied_parameter_is_measured_once() -> None:
    result = scan(make_llama())
    copy = result["lm_head.weight"]
    assert (copy.status, copy.tied_to) == (Status.TIED, "model.embed_tokens.weight")
    assert "also serves as lm_head.weight" in (result["model.embed_tokens.weight"].note or "")


def test_two_views_of_one_storage_are_tied_and_two_equal_tensors_are_not() -> None:
    net = nn.ModuleDict({"a": nn.Linear(4, 6, bias=False), "b": nn.Linear(4, 6, bias=False)})
    b: Any = net["b"]
    b.weight = nn.Parameter(net["a"].get_parameter("weight").detach())
    assert scan(net)["b.weight"].status is Status.TIED
    b.weight = nn.Parameter(b.weight.detach().clone())
    assert scan(net)["b.weight"].status is Status.OK


def test_classes_decide_where_names_say_nothing() -> None:
    result = scan(make_small_net())
    assert [(unit.name, unit.role, unit.eligible) for unit in result if unit.status is Status.OK] == [
        ("0.weight", "embedding", False),
        ("1.weight", "other", True),
        ("2.weight", "conv", True),
    ]
    assert result["2.weight"].matrix_shape == (4, 27)
    assert result["3.weight"].role == "norm"
    # What cannot train is listed all the same.
    assert result["3.running_var"].role == "buffer"
    assert result["3.num_batches_tracked"].status is Status.NOT_FLOAT


def test_a_square_buffer_is_no_weight() -> None:
    net = nn.Linear(4, 4, bias=False)
    net.register_buffer("mask", torch.ones(4, 4).tril())
    net.register_buffer("scratch", torch.ones(4, 4), persistent=False)
    result = scan(net)
    assert [unit.name for unit in result] == ["weight", "mask"]
    assert not result["mask"].eligible
    assert result["mask"].role == "buffer"


def test_conv1d_is_split_into_q_k_v() -> None:
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=32, n_positions=16))
    result = scan(model)
    assert isinstance(model.get_submodule("transformer.h.0.attn.c_attn"), Conv1D)
    assert [result[f"transformer.h.0.attn.c_attn.weight[{part}]"].shape for part in "qkv"] == [(8, 8)] * 3


def test_fused_experts_are_units_also_when_offloaded(tmp_path: Path) -> None:
    config = MixtralConfig(
        vocab_size=32,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=3,
    )
    model = MixtralForCausalLM(config)
    here = scan(model)
    experts = [unit for unit in here if unit.tensor.endswith("experts.down_proj")]
    assert [unit.part for unit in experts] == ["expert.0", "expert.1", "expert.2"]
    assert {unit.shape for unit in experts} == {(8, 12)}
    disk_offload(model, str(tmp_path), execution_device=torch.device("cpu"))
    assert drop_seconds(scan(model)) == drop_seconds(here)


@pytest.mark.parametrize("how", ["cpu", "disk", "blocks"])
def test_offloaded_weights_are_read_through_their_hooks(how: str, tmp_path: Path) -> None:
    model = make_llama(tied=False)
    here = scan(model)
    if how == "cpu":
        cpu_offload(model, execution_device=torch.device("cpu"))
    elif how == "disk":
        disk_offload(model, str(tmp_path), execution_device=torch.device("cpu"))
    else:
        weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        attach_align_device_hook(
            model, torch.device("cpu"), offload=True, weights_map=weights, preload_module_classes=["LlamaDecoderLayer"]
        )
    assert all(parameter.is_meta for parameter in model.parameters())
    assert scan(model).digest() == here.digest()
    assert all(parameter.is_meta for parameter in model.parameters())


def test_an_offloaded_tied_parameter_stays_tied() -> None:
    model = make_llama()
    here = scan(model)
    cpu_offload(model, execution_device=torch.device("cpu"))
    assert scan(model).digest() == here.digest()


def test_weights_that_vanished_from_the_disk_are_named(tmp_path: Path) -> None:
    model = make_llama(tied=False)
    disk_offload(model, str(tmp_path), execution_device=torch.device("cpu"))
    (tmp_path / "model.layers.1.mlp.up_proj.weight.dat").unlink()
    with pytest.raises(UnreadableModuleError, match=r"layers\.1\.mlp\.up_proj\.weight: accelerate offloaded it"):
        scan(model)


def test_meta_parameters_are_refused_and_all_counted() -> None:
    with torch.device("meta"):
        model = make_llama()
    with pytest.raises(UnreadableModuleError, match=r"embed_tokens\.weight: on the meta device.*load the weights") as e:
        scan(model)
    assert len(e.value.problems) == len(dict(model.named_parameters(remove_duplicate=False)))
    assert "and 16 more" in str(e.value)


def test_a_lazy_module_is_refused() -> None:
    with pytest.raises(UnreadableModuleError, match=r"weight: a lazy parameter .* one forward pass first"):
        scan(nn.LazyLinear(3))


def test_a_zero_partitioned_parameter_is_refused_until_it_is_gathered() -> None:
    net = nn.Linear(4, 4, bias=False)
    weight: Any = net.weight
    weight.ds_id, weight.ds_status = 7, SimpleNamespace(name="NOT_AVAILABLE")
    with pytest.raises(UnreadableModuleError, match=r"weight: partitioned by DeepSpeed ZeRO-3"):
        scan(net)
    weight.ds_status = SimpleNamespace(name="AVAILABLE")
    assert len(scan(net)) == 1


def test_sparse_weights_are_refused() -> None:
    net = nn.Linear(4, 4, bias=False)
    net.weight = nn.Parameter(torch.eye(4).to_sparse())
    with pytest.raises(UnreadableModuleError, match=r"weight: a Parameter of layout torch\.sparse_coo"):
        scan(net)


@pytest.fixture
def process_group() -> Iterator[None]:
    distributed: Any = torch.distributed
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
@pytest.mark.filterwarnings("ignore")  # torch's own, about the single process
def test_sharded_parameters_are_refused() -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    mesh = init_device_mesh("cpu", (1,))
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    fully_shard(net, mesh=mesh)
    with pytest.raises(UnreadableModuleError, match=r"0\.weight: sharded over several processes .* save the gathered"):
        scan(net)
    for use_orig_params in (False, True):
        flat = FullyShardedDataParallel(nn.Linear(4, 4), device_id=torch.device("cpu"), use_orig_params=use_orig_params)
        with pytest.raises(UnreadableModuleError, match="flattened by FSDP"):
            scan(flat)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, when it imports its compiler
def test_data_parallel_and_compiled_wrappers_leave_no_trace() -> None:
    model = make_llama()
    digest = scan(model).digest()
    assert scan(nn.DataParallel(model)).digest() == digest
    compiled: Any = torch.compile(model)
    assert scan(compiled).digest() == digest
    part: Any = make_llama()
    part.model.layers[0].mlp = torch.compile(part.model.layers[0].mlp)
    assert scan(part).digest() == digest


def test_peft_base_layers_keep_their_role() -> None:
    model = make_llama(tied=False)
    attention = model.model.layers[0].self_attn
    attention.q_proj = nn.ModuleDict({"base_layer": attention.q_proj})
    assert scan(model)["model.layers.0.self_attn.q_proj.base_layer.weight"].role == "q"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_any_dtype_and_any_strides_give_the_bytes_of_the_saved_tensor(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(0)
    values = torch.randn(6, 10).to(dtype)
    net = nn.Module()
    net.weight = nn.Parameter(values.t(), requires_grad=False)
    assert not net.weight.is_contiguous()
    save_file({"weight": values.t().contiguous()}, tmp_path / "model.safetensors")
    assert drop_seconds(scan(net)) == drop_seconds(scan(tmp_path))


def test_reading_leaves_the_module_as_it_was() -> None:
    net = make_small_net().train()
    before = copy.deepcopy(net.state_dict())
    checkpoint: Checkpoint = open_module(net)
    values = checkpoint.read(checkpoint.tensors[1])
    assert values is not None
    values[:] = 0
    assert net.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_a_plan_made_from_a_live_model_applies_to_it() -> None:
    model = make_llama()
    chosen = plan(scan(model), budget="3")
    applied = apply_plan(model, chosen)
    assert set(applied.trained) == chosen.tensor_names


def test_an_interrupted_scan_of_a_module_is_continued(tmp_path: Path) -> None:
    model = make_llama()
    messages: list[str] = []

    def stop(progress: ScanProgress) -> None:
        messages.append(progress.message or "")
        if progress.done == 5 and len(messages) < 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan(model, output=tmp_path / "s.jsonl", on_progress=stop)
    result = scan(model, output=tmp_path / "s.jsonl", on_progress=stop)
    assert any("resuming: 5 of" in message for message in messages)
    assert Scan.read(tmp_path / "s.jsonl").digest() == result.digest() == scan(model).digest()


@pytest.mark.parametrize(
    ("thing", "kind"), [({"weight": torch.ones(2, 2)}, "dict"), (torch.ones(2, 2), "Tensor"), (None, "NoneType")]
)
def test_what_is_neither_path_nor_module_is_named(thing: Any, kind: str) -> None:
    with pytest.raises(SelectionError, match=f"takes a path, a Hub id, `demo` or a torch.nn.Module, not a {kind}"):
        scan(thing)


def test_a_module_without_tensors_is_refused() -> None:
    with pytest.raises(UnreadableModuleError, match="neither parameters nor persistent buffers"):
        scan(nn.Identity())


def test_a_module_is_not_streamed() -> None:
    with pytest.raises(SelectionError, match="a live module is already here"):
        scan(make_small_net(), stream=True)
