"""Methods that leave some of the Plan's tensors as they are: what half fine-tuning and frozen bottom layers share."""

from __future__ import annotations

from oblong.errors import MethodError
from oblong.methods.protocol import Method, State, Training


class FrozenTensors(Method):
    """Takes the gradient from frozen tensors: the optimizer then skips them, weight decay and momentum included."""

    def __init__(self) -> None:
        self._step = 0

    def prepare(self, training: Training) -> None:
        """Check that something is left to train.

        Raises:
            MethodError: every tensor of the Plan would be frozen.
        """
        self._training = training
        if self.choose_frozen(0) >= set(training.trained):
            raise MethodError("this method would freeze every tensor that the Plan trains: lower its strength")

    def choose_frozen(self, step: int) -> frozenset[str]:
        """Names of the tensors that do not move in a step, counted from 0."""
        raise NotImplementedError

    def change_gradients(self) -> None:
        """Drop the gradients of frozen tensors."""
        for name in self.choose_frozen(self._step):
            self._training.trained[name].grad = None
        self._step += 1

    def state_dict(self) -> State:
        """The number of steps."""
        return {"step": self._step}

    def load_state_dict(self, state: State) -> None:
        """Go on from a step."""
        self._step = state["step"]
