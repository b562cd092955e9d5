"""Progressive columns: a column of its own for every task, which reads the hidden states of all older ones.

    column 0   the base:  h_l^0 = B_l(h_(l-1)^0)
    column k   h_l^k = B_l(h_(l-1)^k) + U_l^k relu(V_l^k [a_l^(k,0) h_(l-1)^0, ..., a_l^(k,k-1) h_(l-1)^(k-1)])

B_l are the base's frozen layers, shared by all columns. U starts at zero (ours), so a new column starts as the base bit
for bit. Only the newest column trains; what an older column says never changes again.

Source: Rusu et al. 2016, "Progressive neural networks", Eq. 2. There every column has layers of its own; here it has a
bottleneck of width r per layer, as an adapter has. Running column k costs k + 1 forward passes, without a cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from oblong.errors import MethodError
from oblong.models.added_modules.attached import BASE, AddedModules, Hook, find_layers
from oblong.records.run import ModulesKind, Routing


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


class Running(NamedTuple):
    """The column that a forward pass is of, and the inputs of every layer in the columns before it."""

    column: int
    streams: Sequence[Sequence[Tensor]]


class Columns(AddedModules):
    """A column per task; see `AddedModules`.

    A batch whose sequences are of several columns runs all of them up to the newest, and each sequence takes its own.
    """

    kind: ClassVar[ModulesKind] = "columns"
    state: Running | None

    def __init__(self, model: Any, *, routing: Routing = "base") -> None:
        super().__init__(model, routing=routing)
        self.columns = nn.ModuleList()
        self._layers = list(find_layers(model))
        self._recording: list[Tensor] | None = None
        self._older: dict[int, Tensor] = {}

    def has_learned(self) -> bool:
        """Whether the newest column's U is no longer zero."""
        laterals: Any = self.columns[-1]
        return any(bool(lateral.writer.any()) for lateral in laterals)

    def _add_part(self, rank: int, generator: torch.Generator) -> None:
        width = self.model.get_input_embeddings().weight.shape[1]
        num_sources = 1 + len(self.columns)
        self.columns.append(nn.ModuleList(Lateral(width, rank, num_sources, generator) for _ in self._layers))

    def _hook_layers(self) -> list[Any]:
        handles: list[Any] = []
        for index, layer in enumerate(self._layers):
            handles.append(layer.register_forward_pre_hook(self._record_input, with_kwargs=True))
            handles.append(layer.register_forward_hook(self._make_contribution(index)))
        return handles

    def _record_input(self, layer: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        if self._recording is not None:
            self._recording.append(arguments[0] if arguments else options["hidden_states"])

    def _make_contribution(self, index: int) -> Hook:
        def hook(layer: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
            if self.state is None:
                return None
            column: Any = self.columns[self.state.column - 1]
            lateral = column[index]([stream[index] for stream in self.state.streams])
            if isinstance(output, tuple):
                return (output[0] + lateral.to(output[0].dtype), *output[1:])
            return output + lateral.to(output.dtype)

        return hook

    def _prepare(self, choice_BE: Tensor, inputs: dict[str, Any]) -> tuple[Running | None, dict[str, Any]]:
        column_B = choice_BE.argmax(-1)
        wanted = int(column_B.max())
        self._older = {}
        if wanted == BASE:
            return None, inputs
        if inputs.get("past_key_values") is not None:
            raise MethodError("progressive columns run without a cache: call the model with use_cache=False")
        inputs = {**inputs, "use_cache": False}
        streams: list[Sequence[Tensor]] = []
        for older in range(wanted):
            logits, stream = self._run_older(older, tuple(streams), inputs)
            streams.append(stream)
            if bool((column_B == older).any()):
                self._older[older] = logits
        return Running(wanted, streams), inputs

    def _run_older(
        self, column: int, streams: Sequence[Sequence[Tensor]], inputs: Mapping[str, Any]
    ) -> tuple[Tensor, list[Tensor]]:
        """One older column's logits and the inputs of its layers."""
        unlabelled = {name: value for name, value in inputs.items() if name not in ("labels", "num_items_in_batch")}
        with torch.no_grad(), self._running(Running(column, streams) if column else None) as states:
            logits: Tensor = self.model(**unlabelled).logits
        return logits, states

    @contextmanager
    def _running(self, state: Running | None) -> Iterator[list[Tensor]]:
        """Inside the block the model is one column; the yielded list fills with the input of every layer."""
        before = self.state
        states: list[Tensor] = []
        self._is_inside, self._recording, self.state = True, states, state
        try:
            yield states
        finally:
            self._is_inside, self._recording, self.state = False, None, before

    def _finish(self, output: Any, inputs: Mapping[str, Any]) -> Any:
        if not self._older or self.choice_BE is None:
            return output
        column_B11 = self.choice_BE.argmax(-1)[:, None, None]
        for column, logits_BTV in self._older.items():
            output.logits = torch.where(column_B11 == column, logits_BTV, output.logits)
        self._older = {}
        if inputs.get("labels") is not None:
            config = self.model.config.get_text_config()
            output.loss = self.model.loss_function(
                logits=output.logits, labels=inputs["labels"], vocab_size=config.vocab_size
            )
        return output

    def _adapt_generation(self, options: dict[str, Any]) -> dict[str, Any]:
        return options if self.told == BASE else {**options, "use_cache": False}
