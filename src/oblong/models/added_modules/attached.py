"""What columns and experts have in common: hooks on a frozen model, and the choice of who answers a sequence.

Before each forward pass of the model one of its tasks is chosen for each sequence, 0 being the base:

    told          `telling(task)`: that task, for all sequences
    held          while `model.generate` adds tokens, the prompt's choice
    by the cache  what was chosen when the cache was begun, for loops that bring their own
    routed        a gate, a router, or the base where there is neither

Hooks stay on the layers between the forward and the backward pass, with what was chosen, because gradient checkpointing
runs layers again in the backward pass. A pass without gradients in between (a teacher's) puts the choice back.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Cache

from oblong.errors import MethodError
from oblong.models.added_modules.gate import ExpertGate, pool_embedded
from oblong.records.run import BASE_TASK, ModulesKind, Routing

ATTRIBUTE: Final = "added_modules"
GATE_PREFIX: Final = "gate."
BASE: Final = 0

Hook = Callable[..., Any]


class Tally:
    """Counts who answered: shares of sequences, summed up."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._totals = torch.zeros(len(self._names), dtype=torch.float64)

    def add(self, choice_BE: Tensor) -> None:
        """Count a batch: batch x (1 + tasks), rows that sum to 1."""
        self._totals += choice_BE.detach().double().sum(0).cpu()

    def compute_shares(self) -> dict[str, float]:
        """The share of sequences by task name, the base's first; empty where none was seen."""
        total = float(self._totals.sum())
        return {} if total == 0 else {n: float(t) / total for n, t in zip(self._names, self._totals, strict=True)}


class AddedModules(nn.Module):
    """Modules beside a frozen causal language model, a part of them for each task.

    Args:
        model: the base; frozen, and hooked into, in place.
        routing: who decides where no task is told; `base`: it answers.

    Attributes:
        kind: which sort of modules.
        tasks: names of what was learned, in order: task k is `tasks[k - 1]`, task 0 the base.
        ranks: of each task's part.
        gate: for `gate` routing.
        seed: of the newest part.
        told: the task that all sequences are of; None where nobody tells.
        choice_BE: the shares of the last pass, batch x (1 + tasks).
    """

    kind: ClassVar[ModulesKind]

    def __init__(self, model: Any, *, routing: Routing) -> None:
        super().__init__()
        model.requires_grad_(False)
        self._models = (model,)  # in a tuple, so that it is no submodule of its own submodule
        self.routing: Routing = routing
        self.tasks: list[str] = []
        self.ranks: list[int] = []
        self.gate = ExpertGate(model) if routing == "gate" else None
        self.seed = 0
        self.told: int | None = None
        self.choice_BE: Tensor | None = None
        self.state: Any = None
        self._outer_state: Any = None
        self._is_inside = False
        self._tally: Tally | None = None
        self._is_holding = False
        self._held_BE: Tensor | None = None
        self._by_cache: WeakKeyDictionary[Any, Tensor] = WeakKeyDictionary()
        self._handles: list[Any] = []

    @property
    def model(self) -> Any:
        """The base."""
        return self._models[0]

    @property
    def names(self) -> tuple[str, ...]:
        """The base's name and the tasks'."""
        return (BASE_TASK, *self.tasks)

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the layers that have parts; empty where every layer has."""
        return ()

    def add(self, task: str, *, rank: int, seed: int = 0) -> int:
        """Freeze what there is and add a part for a new task, which trains; returns the task's number."""
        self.requires_grad_(False)
        self.seed = seed
        generator = torch.Generator().manual_seed(seed)
        self._add_part(rank, generator)
        self.tasks.append(make_unique(task, self.names))
        self.ranks.append(rank)
        self.to(self.model.get_input_embeddings().weight.device)
        return len(self.tasks)

    def route_by(self, routing: Routing) -> None:
        """Let the base answer where no task is told, in place of a gate, or leave it at what it is.

        Raises:
            ValueError: another routing.
        """
        if routing not in (self.routing, "base"):
            raise ValueError(f"modules with routing {self.routing} cannot have {routing}")
        self.routing = routing
        self.gate = self.gate if routing == "gate" else None

    def hook(self) -> None:
        """Take part in the model's forward passes."""
        self._handles = [
            self.model.register_forward_pre_hook(self._before_forward, with_kwargs=True),
            self.model.register_forward_hook(self._after_forward, with_kwargs=True),
            *self._hook_layers(),
        ]

    def attach(self) -> None:
        """Become a submodule of the model: train, move and generate with it.

        Raises:
            MethodError: the model has added modules already.
        """
        if find_added(self.model) is not None:
            raise MethodError("this model has added modules already: detach them first")
        self.hook()
        setattr(self.model, ATTRIBUTE, self)
        self.model.generate = self._generate

    def detach(self) -> None:
        """Leave the model as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.state = self._outer_state = None
        if find_added(self.model) is self:
            delattr(self.model, ATTRIBUTE)
            del self.model.generate

    @contextmanager
    def telling(self, task: int | None) -> Iterator[None]:
        """Inside the block all sequences are of a task: 0 is the base; None leaves it to the routing.

        Raises:
            MethodError: no such task.
        """
        if task is not None and not 0 <= task <= len(self.tasks):
            raise MethodError(f"there is no task {task}: there are 0 (the base) to {len(self.tasks)}")
        before = self.told
        self.told = task
        try:
            yield
        finally:
            self.told = before

    @contextmanager
    def counting(self) -> Iterator[Tally]:
        """Inside the block who answers is counted."""
        before, self._tally = self._tally, Tally(self.names)
        try:
            yield self._tally
        finally:
            self._tally = before

    def collect_tensors(self) -> dict[str, Tensor]:
        """All that has to be written down, by name: parameters and what the gate has fitted."""
        own = {name: value.detach() for name, value in self.named_parameters() if name not in self._list_passing()}
        gate = {} if self.gate is None else self.gate.state_dict()
        return own | {f"{GATE_PREFIX}{name}": value for name, value in gate.items()}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over `collect_tensors` of modules with as many tasks, of the same ranks.

        Raises:
            MethodError: names or shapes differ.
        """
        own = {name: value for name, value in self.named_parameters() if name not in self._list_passing()}
        given = {name: value for name, value in tensors.items() if not name.startswith(GATE_PREFIX)}
        misfits = sorted(own.keys() ^ given.keys())
        misfits += [name for name in own.keys() & given.keys() if own[name].shape != given[name].shape]
        if misfits:
            raise MethodError(f"these added modules are of another model: {', '.join(misfits[:5])} do not fit")
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(given[name])
        if self.gate is not None:
            prefix = len(GATE_PREFIX)
            gate = {name[prefix:]: value for name, value in tensors.items() if name not in given}
            self.gate.load_state_dict(gate)

    def is_of_a_task(self, name: str) -> bool:
        """Whether a tensor belongs to one task, and so may not change when another is learned."""
        return not name.startswith(GATE_PREFIX)

    def has_learned(self) -> bool:
        """Whether the newest part says anything: it starts at zero."""
        raise NotImplementedError

    def _add_part(self, rank: int, generator: torch.Generator) -> None:
        raise NotImplementedError

    def _hook_layers(self) -> list[Any]:
        raise NotImplementedError

    def _prepare(self, choice_BE: Tensor, inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """What the hooks of the layers need for a choice, and the model's inputs."""
        raise NotImplementedError

    def _finish(self, output: Any, inputs: Mapping[str, Any]) -> Any:
        """The model's output, changed or not."""
        return output

    def _list_passing(self) -> frozenset[str]:
        """Parameters that mean something during a training alone."""
        return frozenset()

    def _route(self, pooled_BD: Tensor) -> Tensor:
        """The shares of sequences of which nobody told the task, by their mean embeddings."""
        if self.gate is not None:
            return self._one_hot(self.gate.choose_pooled(pooled_BD))
        return self._one_hot(torch.full((len(pooled_BD),), BASE, device=pooled_BD.device))

    def _one_hot(self, chosen_B: Tensor) -> Tensor:
        return functional.one_hot(chosen_B, len(self.names)).float()

    def _before_forward(self, model: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if self._is_inside:
            return None
        names = list(inspect.signature(type(model).forward).parameters)[1:]
        inputs = {**dict(zip(names, args, strict=False)), **options}
        self.choice_BE = self._choose(inputs)
        if self._tally is not None:
            self._tally.add(self.choice_BE)
        outer = self.state
        self.state, inputs = self._prepare(self.choice_BE, inputs)
        self._outer_state = outer
        return (), inputs

    def _after_forward(self, model: Any, args: Any, options: Mapping[str, Any], output: Any) -> Any:
        del model, args
        if self._is_inside:
            return None
        cache = getattr(output, "past_key_values", None)
        if isinstance(cache, Cache) and self.told is None and self.choice_BE is not None:
            self._by_cache[cache] = self.choice_BE.detach()
        output = self._finish(output, options)
        if not torch.is_grad_enabled():
            self.state = self._outer_state
        self._outer_state = None
        return output

    def _choose(self, inputs: Mapping[str, Any]) -> Tensor:
        tokens, embedded = inputs.get("input_ids"), inputs.get("inputs_embeds")
        given: Any = embedded if tokens is None else tokens
        if self.told is not None:
            return self._one_hot(torch.full((len(given),), self.told, device=given.device))
        if self._held_BE is not None and len(self._held_BE) == len(given):
            return self._held_BE
        if count_cached(inputs.get("past_key_values")):
            return self._recall(inputs["past_key_values"], len(given))
        if embedded is None:
            embedded = self.model.get_input_embeddings()(tokens).detach()
        mask = inputs.get("attention_mask")
        fits = isinstance(mask, Tensor) and mask.shape == embedded.shape[:2]
        choice_BE = self._route(pool_embedded(embedded, mask if fits else None))
        if self._is_holding:
            self._held_BE = choice_BE
        return choice_BE

    def _recall(self, cache: Any, batch_size: int) -> Tensor:
        kept_BE = self._by_cache.get(cache)
        if kept_BE is None or len(kept_BE) != batch_size:
            raise MethodError(
                "who answers was chosen for the sequence as a whole, and this cache was begun elsewhere: begin it with "
                "this model, or tell the task"
            )
        return kept_BE

    def _generate(self, *args: Any, **options: Any) -> Any:
        """`generate` of the model; who answers is chosen by the prompt and stays."""
        before = self._is_holding, self._held_BE
        self._is_holding, self._held_BE = True, None
        try:
            return type(self.model).generate(self.model, *args, **self._adapt_generation(options))
        finally:
            self._is_holding, self._held_BE = before

    def _adapt_generation(self, options: dict[str, Any]) -> dict[str, Any]:
        return options


def find_added(model: Any) -> AddedModules | None:
    """The modules that were added to a model; None if there are none."""
    found = getattr(model, ATTRIBUTE, None)
    return found if isinstance(found, AddedModules) else None


@contextmanager
def count_answers(model: Any) -> Iterator[Tally | None]:
    """Counts which of a model's added modules answer; None where there are none."""
    added = find_added(model)
    if added is None:
        yield None
        return
    with added.counting() as tally:
        yield tally


def count_cached(cache: Any) -> int:
    """Tokens in a cache of keys and values."""
    return 0 if cache is None else int(cache.get_seq_length())


def make_unique(name: str, taken: Sequence[str]) -> str:
    """The name, with a number behind it where it is taken."""
    wanted, number = name, 2
    while wanted in taken:
        wanted, number = f"{name} ({number})", number + 1
    return wanted


def find_layers(model: Any) -> nn.ModuleList:
    """The decoder layers of a causal language model: its list of as many modules as its configuration has layers.

    Where the configuration does not say, it is the longest list; a mixture's experts may be a longer one.

    Raises:
        MethodError: it has none.
    """
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module)]
    if not lists:
        raise MethodError("progressive columns need a model with a list of layers, and this one has none")
    config = getattr(model, "config", None)
    num_layers = getattr(config.get_text_config(), "num_hidden_layers", None) if config is not None else None
    return next((found for found in lists if len(found) == num_layers), max(lists, key=len))
