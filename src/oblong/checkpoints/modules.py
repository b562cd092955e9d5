"""Live `torch.nn.Module`s: their parameters and persistent buffers, read where they are.

A module is a checkpoint without files. Its tensors have the names of its `state_dict`, with what `torch.compile`, DDP
and activation checkpointing wrap around it taken off again. Two names of one parameter are tied. A parameter that
accelerate moved to the CPU or the disk is read through its hooks; one that is not in this process as a whole (meta,
sharded, not initialised) is refused: half a spectrum would look like a whole one.

Imports torch: only `oblong.scan(module)` leads here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn
from torch.utils import _python_dispatch

from oblong.checkpoints.base import Bytes, Checkpoint, TensorInfo
from oblong.checkpoints.layout import describe
from oblong.checkpoints.pickles import DTYPE_NAMES
from oblong.checkpoints.roles import classify_role
from oblong.checkpoints.scales import check_scales
from oblong.errors import UnreadableModuleError

FORMAT: Final = "module"
PARALLEL_WRAPPERS: Final = ("DataParallel", "DistributedDataParallel")
WRAPPED_NAMES: Final = ("_orig_mod.", "_checkpoint_wrapped_module.")
# Tensors that are made of other tensors (torchao's, nested ones). Not as the type guard that it is declared to be.
_is_wrapper: Callable[[torch.Tensor], bool] = _python_dispatch.is_traceable_wrapper_subclass
SAVE_FIRST: Final = "save the gathered model and scan that"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One tensor of a module. `raw_name` is the path from the root, `name` the one without wrappers."""

    name: str
    raw_name: str
    owner: nn.Module
    tensor: torch.Tensor
    is_buffer: bool


class ModuleSource:
    """The tensors of a live module; see `TensorSource`."""

    format = FORMAT
    files: tuple[Path, ...] = ()

    def __init__(self, root: nn.Module, entries: Sequence[Entry]) -> None:
        self.config = read_module_config(root)
        self.tensors = tuple(_make_tensor(root, entry) for entry in entries)
        self._root = root
        self._entries = {entry.name: entry for entry in entries}
        # An expert is a slice of its stack: without this, each would fetch the whole stack from the disk again.
        self._fetched: tuple[str, torch.Tensor] | None = None

    def iter_chunks(self, tensor: TensorInfo, chunk_bytes: int) -> Iterator[Bytes]:
        """Yield the bytes of a tensor, or of a slice of one, wherever it is; see `TensorSource`.

        Raises:
            UnreadableModuleError: it was offloaded, and what it was offloaded to has gone.
        """
        flat = self._get_values(self._entries[tensor.name]).contiguous().reshape(-1).view(torch.uint8)
        end = tensor.offset + tensor.num_bytes
        for start in range(tensor.offset, end, chunk_bytes):
            # A copy: the caller may keep the chunk while the module goes on living.
            yield flat[start : min(start + chunk_bytes, end)].to("cpu", copy=True).numpy()

    def _get_values(self, entry: Entry) -> torch.Tensor:
        if not entry.tensor.is_meta:
            return entry.tensor.detach()
        if self._fetched is None or self._fetched[0] != entry.name:
            self._fetched = (entry.name, self._fetch(entry))
        return self._fetched[1]

    def _fetch(self, entry: Entry) -> torch.Tensor:
        for weights, key in find_offloaded(self._root, entry.raw_name):
            try:
                stored = torch.as_tensor(weights[key])
            except (KeyError, OSError):
                continue
            if stored.shape == entry.tensor.shape:
                # accelerate casts to the parameter's dtype when it brings a weight back.
                return stored.detach().to(entry.tensor.dtype)
        problem = f"{entry.name}: accelerate offloaded it, but it is not where its hook looks; load the model again"
        raise UnreadableModuleError(type(self._root).__name__, [problem])


def open_module(module: nn.Module) -> Checkpoint:
    """Make a live module readable like a checkpoint; nothing is copied and nothing is moved.

    Args:
        module: any module, in evaluation or training mode, on any device. Do not train it while it is being scanned.

    Returns:
        A checkpoint of format `module`, without files. A tied parameter has a row under each of its names, and counts
        once.

    Raises:
        UnreadableModuleError: no parameter at all, or some that are meta, sharded or not initialised (all are named).
    """
    root = unwrap(module)
    entries = tuple(_iter_entries(root))
    kind = type(root).__name__
    if not entries:
        raise UnreadableModuleError(kind, ["(no name): the module has neither parameters nor persistent buffers"])
    if problems := [f"{entry.name}: {why}" for entry in entries if (why := explain_unreadable(root, entry))]:
        raise UnreadableModuleError(kind, problems)
    source = ModuleSource(root, entries)
    check_scales(source.tensors, source.config)
    ties = {**find_declared_ties(root, entries), **find_shared(entries)}
    num_parameters = sum(tensor.num_parameters for tensor in source.tensors if tensor.name not in ties)
    info = describe(source).model_copy(update={"architecture": kind, "num_parameters": num_parameters})
    return Checkpoint(path=Path(kind), info=info, source=source, ties=ties)


def unwrap(module: nn.Module) -> nn.Module:
    """The module inside data-parallel and compiled wrappers."""
    while True:
        if type(module).__name__ in PARALLEL_WRAPPERS:
            inner: Any = module.module
        elif "_orig_mod" in module._modules:
            inner = module._orig_mod
        else:
            return module
        module = inner


def read_module_config(module: nn.Module) -> Mapping[str, Any]:
    """The `config` of a transformers model as `config.json` would have it; empty for any other module."""
    to_dict = getattr(getattr(module, "config", None), "to_dict", None)
    config = to_dict() if callable(to_dict) else {}
    return config if isinstance(config, dict) else {}


def _iter_entries(root: nn.Module) -> Iterator[Entry]:
    """What `state_dict` would hold, in its order, without its copies and hooks."""
    for path, owner in root.named_modules(remove_duplicate=False):
        buffers = {k: v for k, v in owner._buffers.items() if k not in owner._non_persistent_buffers_set}
        for members, is_buffer in ((owner._parameters, False), (buffers, True)):
            for key, tensor in members.items():
                if tensor is not None:
                    raw = f"{path}.{key}" if path else key
                    yield Entry(name=_clean(raw), raw_name=raw, owner=owner, tensor=tensor, is_buffer=is_buffer)


def _clean(name: str) -> str:
    for wrapper in WRAPPED_NAMES:
        name = name.replace(wrapper, "")
    return name


def explain_unreadable(root: nn.Module, entry: Entry) -> str | None:
    """Why a tensor cannot be read in this process, and what to do; None when it can."""
    tensor = entry.tensor
    kinds = {kind.__name__ for kind in type(tensor).__mro__}
    if "UninitializedTensorMixin" in kinds:
        return "a lazy parameter that has no shape yet; run one forward pass first"
    if "DTensor" in kinds or "ShardedTensor" in kinds:
        return f"sharded over several processes ({type(tensor).__name__}); {SAVE_FIRST}"
    if hasattr(tensor, "ds_id") and getattr(getattr(tensor, "ds_status", None), "name", "") != "AVAILABLE":
        return f"partitioned by DeepSpeed ZeRO-3; scan inside deepspeed.zero.GatheredParameters, or {SAVE_FIRST}"
    if getattr(tensor, "_is_flat_param", False) or "FlatParameter" in kinds or "_fsdp_wrapped_module" in entry.raw_name:
        return f"sharded and flattened by FSDP; {SAVE_FIRST}"
    if _is_wrapper(tensor) or tensor.layout != torch.strided:
        return f"a {type(tensor).__name__} of layout {tensor.layout}, not a plain dense tensor; scan the original model"
    if tensor.is_meta and not find_offloaded(root, entry.raw_name):
        return "on the meta device, so it has no weights yet; load the weights first, or scan the checkpoint itself"
    return None


def find_offloaded(root: nn.Module, raw_name: str) -> list[tuple[Mapping[str, Any], str]]:
    """Where accelerate may keep an offloaded tensor: the `weights_map` of each hook above it, and the key in that.

    The hooks are recognised by what they have, not by their class, so that accelerate need not be imported.
    """
    places: list[tuple[Mapping[str, Any], str]] = []
    parts = raw_name.split(".")
    for depth in range(len(parts) - 1, -1, -1):
        hook = getattr(root.get_submodule(".".join(parts[:depth])), "_hf_hook", None)
        for part in getattr(hook, "hooks", (hook,)):
            weights = getattr(part, "weights_map", None)
            if weights is not None:
                places.append((weights, ".".join(parts[depth:])))
    return places


def find_shared(entries: Sequence[Entry]) -> Mapping[str, str]:
    """Map each tensor that shares its memory with an earlier one to that one."""
    first: dict[tuple[object, ...], str] = {}
    ties: dict[str, str] = {}
    for entry in entries:
        kept = first.setdefault(_identify(entry.tensor), entry.name)
        if kept != entry.name:
            ties[entry.name] = kept
    return ties


def find_declared_ties(root: nn.Module, entries: Sequence[Entry]) -> Mapping[str, str]:
    """Ties of offloaded tensors, which accelerate cuts, as a transformers model lists them (copy to original)."""
    declared = getattr(root, "all_tied_weights_keys", None)
    if not isinstance(declared, dict):
        return {}
    offloaded = {entry.raw_name: entry.name for entry in entries if entry.tensor.is_meta}
    return {offloaded[copy]: offloaded[kept] for copy, kept in declared.items() if {copy, kept} <= offloaded.keys()}


def _identify(tensor: torch.Tensor) -> tuple[object, ...]:
    # Offloaded and empty tensors have no address: there only the same object is the same tensor.
    if tensor.is_meta or tensor.numel() == 0:
        return (id(tensor),)
    return (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())


def _make_tensor(root: nn.Module, entry: Entry) -> TensorInfo:
    dtype = str(entry.tensor.dtype).removeprefix("torch.")
    return TensorInfo(
        name=entry.name,
        stored_name=entry.raw_name,
        dtype=DTYPE_NAMES.get(dtype, dtype.upper()),
        shape=tuple(entry.tensor.shape),
        file=Path(type(root).__name__),
        offset=0,
        num_bytes=entry.tensor.numel() * entry.tensor.element_size(),
        role=_choose_role(entry),
    )


def _choose_role(entry: Entry) -> str:
    """The role that the name gives; where it gives none, what the class of the owner says."""
    # PEFT puts the layer it adapts one level deeper.
    role = classify_role(entry.name.replace(".base_layer.", "."), entry.tensor.dim())
    if entry.is_buffer and entry.tensor.is_floating_point() and role != "quantisation":
        return "buffer"
    if isinstance(entry.owner, nn.Embedding | nn.EmbeddingBag) and role != "lm_head":
        return "embedding"
    if role == "other" and "norm" in type(entry.owner).__name__.lower():
        return "norm"
    return role
