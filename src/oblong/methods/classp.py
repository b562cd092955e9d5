"""CLASSP: an optimizer that adjusts weights with large gradients only, and each the less the more it was adjusted.

    if g_i^2 > threshold:   s_i <- s_i + |g_i|^p,   w_i <- w_i - lr g_i / (epsilon + s_i)^(1/p)

Source: Ludwig 2024, "CLASSP: a biologically-inspired approach to continual learning through adjustment suppression and
sparsity promotion", the update equation and the pseudo-code of its repository. The printed sum ends before the current
step; the pseudo-code includes it, and so do we (otherwise the first step divides by epsilon alone). With threshold 0
and p = 2 this is Adagrad, but for epsilon, which is inside the root.

`mode: reference` repeats what the author's class computes: `(g ** 2).any() > threshold` compares a truth value, so a
threshold below 1 updates the whole tensor wherever any gradient is not zero, and one from 1 on never does; the power of
the sum is computed and thrown away, so s sums |g| while the root is still 1/p; and the first parameter group's options
rule all groups.

Squared gradients of a language model are 1e-8 to 1e-12, below any published threshold: `q0.9` takes each tensor's own
quantile. Nothing is protected while the sums are empty: `anchor_blocks` fills them from old data (ours).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from oblong.errors import MethodError
from oblong.methods.anchor_losses import compute_anchor_gradients
from oblong.methods.options import ClasspOptions
from oblong.methods.protocol import Method, Sizes, State, Training


class Classp(torch.optim.Optimizer):
    """The optimizer; for its options see `ClasspOptions`."""

    def __init__(self, params: Iterable[Any], lr: float, options: ClasspOptions) -> None:
        if options.mode == "reference" and isinstance(options.threshold, str):
            raise MethodError("classp: the reference mode compares a truth value with a number: give threshold as one")
        self._options = options
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            leader = self.param_groups[0] if self._options.mode == "reference" else group
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, float(leader["lr"]))
        return loss

    def fill(self, parameter: nn.Parameter, sums: Tensor) -> None:
        """Start from gradients seen elsewhere: `sums` is s, of the parameter's shape."""
        self.state[parameter]["sum"] = sums.to(parameter.device, torch.float32, copy=True)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint; torch casts to the parameters' dtype, and a sum in bfloat16 soon stops growing."""
        super().load_state_dict(state_dict)
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for number, parameter in zip(numbers, parameters, strict=True):
            if number in state_dict["state"]:
                self.fill(parameter, state_dict["state"][number]["sum"])

    def _update(self, parameter: nn.Parameter, rate: float) -> None:
        gradient = parameter.grad.float()  # type: ignore[union-attr]
        state = self.state[parameter]
        if "sum" not in state:
            state["sum"] = torch.zeros_like(gradient)
        options = self._options
        chosen = choose(gradient, options)
        power = options.power if options.mode == "paper" else 1.0
        state["sum"].add_(gradient.abs().pow_(power).mul_(chosen))
        scale = (state["sum"] + options.epsilon).pow_(-1.0 / options.power) if options.scaling else 1.0
        parameter.add_((gradient * scale * chosen).to(parameter.dtype), alpha=-rate)


def choose(gradient: Tensor, options: ClasspOptions) -> Tensor:
    """Which elements are updated: bool, of the gradient's shape (of no dimension in reference mode)."""
    squared = gradient.square()
    if options.mode == "reference":
        return squared.any() > float(options.threshold)
    if not isinstance(options.threshold, str):
        return squared > options.threshold
    rank = int(float(options.threshold.removeprefix("q")) * squared.numel())
    return squared > squared.flatten().kthvalue(rank).values if rank else torch.ones_like(squared, dtype=torch.bool)


class ClasspMethod(Method):
    """Gives the training CLASSP as its optimizer."""

    def __init__(self, options: ClasspOptions) -> None:
        self._options = options
        self._sums: dict[str, Tensor] = {}
        self._optimizer: torch.optim.Optimizer | None = None

    def prepare(self, training: Training) -> None:
        """Remember the trained parameters."""
        self._training = training

    def measure(self) -> None:
        """Sum |g|^p over anchor blocks, if that was asked for; above-threshold gradients only, as in training."""
        count = self._options.anchor_blocks
        if not count or not self._options.strength or self._sums:  # the tasks before have filled them
            return
        if self._training.anchor is None:
            raise MethodError("classp: anchor_blocks needs old data: give an anchor, or leave anchor_blocks at 0")
        power = self._options.power if self._options.mode == "paper" else 1.0
        for block_1T in self._training.anchor.iterate(limit=count):
            for name, gradient in compute_anchor_gradients(self._training, block_1T).items():
                amount = gradient.float().abs().pow(power) * choose(gradient.float(), self._options)
                self._sums[name] = self._sums.get(name, 0.0) + amount

    def build_optimizer(
        self, groups: Sequence[Mapping[str, Any]], learning_rate: float
    ) -> torch.optim.Optimizer | None:
        """CLASSP, its sums filled; None at strength 0.

        Raises:
            MethodError: weight decay was asked for, which CLASSP does not have.
        """
        if not self._options.strength:
            return None
        if any(group.get("weight_decay") for group in groups):
            raise MethodError("classp has no weight decay: set weight_decay to 0")
        optimizer = Classp([{"params": group["params"]} for group in groups], learning_rate, self._options)
        for name, sums in self._sums.items():
            optimizer.fill(self._training.trained[name], sums)
        self._optimizer = optimizer
        return optimizer

    def keep_for_next_task(self) -> State:
        """The sums: what was adjusted for one task resists the next."""
        if self._optimizer is None:
            return {}
        state = self._optimizer.state
        return {"sums": {name: state[v]["sum"] for name, v in self._training.trained.items() if "sum" in state[v]}}

    def start_next_task(self, state: State) -> None:
        """Go on from the sums of the tasks before."""
        self._sums = state.get("sums", {})

    def forecast_bytes(self, sizes: Sizes) -> int:
        """One sum per weight instead of Adam's two moments; temporaries of one tensor."""
        return 4 * sizes.num_trained * bool(self._options.anchor_blocks) + 16 * sizes.largest_matrix
