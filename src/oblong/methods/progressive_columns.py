"""Progressive neural networks on a frozen language model: a column of its own for every task.

    column 0   the base:  h_l^0 = B_l(h_(l-1)^0)
    column k   h_l^k = B_l(h_(l-1)^k) + U_l^k relu(V_l^k [a_l^(k,0) h_(l-1)^0, ..., a_l^(k,k-1) h_(l-1)^(k-1)])

B_l are the base's frozen layers, shared by all columns. Column k reads the hidden states of all older columns (the
lateral connections), scaled by learned a. U starts at zero (ours), so a new column starts as the base bit for bit. Only
the newest column trains; what an older column says never changes again.

Source: Rusu et al. 2016, "Progressive neural networks", Eq. 2. There every column has layers of its own; here it has a
bottleneck of width r per layer, as an adapter has. Running column k costs k + 1 forward passes. The task must be known
when the model is used: `task=None` falls back to the base, and `last_column` says which column answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from oblong.errors import MethodError


class Lateral(nn.Module):
    """One layer of a column: U relu(V [a_j h_j]).

    Args:
        width: of the hidden states.
        rank: of the bottleneck, r.
        num_sources: older columns, the base included.
        generator: draws V and nothing else.
    """

    def __init__(self, width: int, rank: int, num_sources: int, generator: torch.Generator) -> None:
        super().__init__()
        size = num_sources * width
        self.scales = nn.Parameter(torch.ones(num_sources))
        self.reader = nn.Parameter(torch.randn(rank, size, generator=generator) / size**0.5)
        self.writer = nn.Parameter(torch.zeros(width, rank))

    def forward(self, sources: Sequence[Tensor]) -> Tensor:
        """Older columns' hidden states, each batch x sequence_length x width, to a contribution of that shape."""
        scaled = [scale * source.float() for scale, source in zip(self.scales, sources, strict=True)]
        return torch.relu(torch.cat(scaled, dim=-1) @ self.reader.T) @ self.writer.T


class ProgressiveColumns(nn.Module):
    """A frozen causal language model with a column per task.

    Args:
        base: the model; frozen in place.
        rank: bottleneck width of every column.

    Attributes:
        columns: task 1 is `columns[0]`; task 0 is the base.
        last_column: the task whose column answered the last call.
    """

    def __init__(self, base: Any, *, rank: int = 16) -> None:
        super().__init__()
        self.base = base
        self.base.requires_grad_(False)
        self.columns = nn.ModuleList()
        self.last_column = 0
        self._rank = rank
        self._layers = find_layers(base)

    def add_column(self, *, seed: int = 0) -> nn.ModuleList:
        """Freeze all columns and add one that trains; returns its layers."""
        self.columns.requires_grad_(False)
        generator = torch.Generator().manual_seed(seed)
        width = self.base.get_input_embeddings().weight.shape[1]
        num_sources = 1 + len(self.columns)
        device = self.base.get_input_embeddings().weight.device
        column = nn.ModuleList(Lateral(width, self._rank, num_sources, generator) for _ in self._layers).to(device)
        self.columns.append(column)
        return column

    def forward(self, input_ids: Tensor, task: int | None = None, **inputs: Any) -> Any:
        """Run one task's column.

        Args:
            input_ids: batch x sequence_length.
            task: 0 is the base, 1 the first column; None where it is not known, which is answered by the base.
            inputs: further inputs of the base model.

        Raises:
            MethodError: no such task.
        """
        wanted = 0 if task is None else task
        if not 0 <= wanted <= len(self.columns):
            raise MethodError(f"there is no column for task {task}: tasks are 0 (the base) to {len(self.columns)}")
        self.last_column = wanted
        streams: list[list[Tensor]] = []
        for index in range(wanted + 1):
            laterals = None if index == 0 else self.columns[index - 1]
            with self._running(laterals, streams) as states:
                output = self.base(input_ids=input_ids, use_cache=False, **inputs)
            streams.append(states)
        return output

    @contextmanager
    def _running(self, laterals: Any, streams: Sequence[Sequence[Tensor]]) -> Iterator[list[Tensor]]:
        """Inside the block the base runs as one column; the yielded list fills with the input of every layer."""
        states: list[Tensor] = []
        handles = []
        for index, layer in enumerate(self._layers):
            handles.append(layer.register_forward_pre_hook(_record_input(states), with_kwargs=True))
            if laterals is not None:
                sources = [stream[index] for stream in streams]
                handles.append(layer.register_forward_hook(_add_lateral(laterals[index], sources)))
        try:
            yield states
        finally:
            for handle in handles:
                handle.remove()


def find_layers(model: Any) -> nn.ModuleList:
    """The decoder layers of a causal language model: its longest list of modules.

    Raises:
        MethodError: it has none.
    """
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module)]
    if not lists:
        raise MethodError("progressive columns need a model with a list of layers, and this one has none")
    return max(lists, key=len)


def _record_input(states: list[Tensor]) -> Callable[..., None]:
    def hook(module: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        states.append(arguments[0] if arguments else options["hidden_states"])

    return hook


def _add_lateral(lateral: nn.Module, sources: Sequence[Tensor]) -> Callable[..., Any]:
    def hook(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            return (output[0] + lateral(sources).to(output[0].dtype), *output[1:])
        return output + lateral(sources).to(output.dtype)

    return hook
