"""OSF by PEFT: the lesser singular directions of each matrix train, orthogonal to the leading ones, which stay.

W = U_high S_high V_high + U_low S_low V_low. Only U_low, S_low and V_low train, and PEFT projects the gradients of
U_low and V_low off the leading subspaces. AdamW divides them element by element after that, so with it the updates are
orthogonal to the leading subspaces nearly, not exactly (with SGD they would be).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch
from torch import nn

from oblong.errors import MissingExtraError, SelectionError
from oblong.models.stored_tensors import StoredTensors
from oblong.tuning.adapters.folding import AdaptedLayers
from oblong.tuning.adapters.lora import ADAPTER, import_peft
from oblong.tuning.adapters.recipe import OsfOptions
from oblong.tuning.apply import AppliedPlan

TRAINED: Final = ("U_low", "S_low", "V_low")
# PEFT's buffers; of the leading subspaces it keeps only what cannot be had from the lesser ones.
FIXED: Final = ("_osf_U_low_init", "_osf_S_low_init", "_osf_V_low_init", "_osf_U_high", "_osf_V_high")


class OrthogonalSubspace(AdaptedLayers):
    """What is orthogonal to the leading singular directions of every matrix of a Plan, in float32.

    Args:
        frozen: the model with its Plan, nothing of it training; the factors are put in, in place.
        options: of OSF.
        stored: the model's file, whose values are decomposed.

    Raises:
        PlanMismatchError: a tensor of the Plan is not the weight of a linear layer.
        SelectionError: the share that stays comes to no direction of some matrix.
        MissingExtraError: PEFT is not installed, or one without OSF.
    """

    def __init__(self, frozen: AppliedPlan, options: OsfOptions, *, stored: StoredTensors) -> None:
        super().__init__(frozen, stored, feature="OSF")
        self._options = options
        _refuse_nothing_kept(frozen, options.kept)
        self._inject()
        # The fixed factors are kept in resume checkpoints too: a second decomposition may differ in signs and rounding.
        self.applied = self._adapt(dict(self._iterate_layers()), {**self._list_trained(), **self._list_fixed()})

    def describe(self) -> str:
        """What stays, and where."""
        return (
            f"OSF, the leading {self._options.kept:.0%} of the singular directions of {len(self._paths)} linear layers "
            f"kept: {self.applied.num_trainable:,} parameters"
        )

    def _inject(self) -> None:
        peft = import_peft("OSF")
        if not hasattr(peft, "OSFConfig"):
            raise MissingExtraError("OSF (a newer PEFT)", "adapters")
        loaded = {name: parameter.data for name, parameter in self._frozen.trained.items()}
        for name, parameter in self._frozen.trained.items():  # PEFT decomposes in the dtype that it finds
            parameter.data = self._stored.read(name).to(parameter.device, torch.float32)
        config = peft.OSFConfig(effective_rank=self._options.kept, target_modules=list(self._paths.values()))
        peft.inject_adapter_in_model(config, self._frozen.model, ADAPTER)
        for name, parameter in self._frozen.trained.items():
            parameter.data = loaded[name]

    def _iterate_layers(self) -> Iterator[tuple[str, Any]]:
        modules = self._frozen.model.named_modules()
        return ((path, module) for path, module in modules if hasattr(module, "osf_svd_params"))

    def _list_trained(self) -> Mapping[str, nn.Parameter]:
        return {
            f"{path}.{name}": layer.osf_svd_params[ADAPTER][name]
            for path, layer in self._iterate_layers()
            for name in TRAINED
        }

    def _list_fixed(self) -> Mapping[str, nn.Parameter]:
        """The fixed factors, made parameters: unlike buffers these stay the same objects on their way to a device."""
        fixed = {}
        for path, layer in self._iterate_layers():
            for name in FIXED:
                if ADAPTER in getattr(layer, name):
                    factor = nn.Parameter(getattr(layer, name)[ADAPTER], requires_grad=False)
                    setattr(layer, name, nn.ParameterDict({ADAPTER: factor}))
                    fixed[f"{path}.{name}"] = factor
        return fixed


def _refuse_nothing_kept(frozen: AppliedPlan, kept: float) -> None:
    for tensor in frozen.plan.tensors:
        if int(min(tensor.shape) * kept) == 0:
            raise SelectionError(
                f"osf: kept: {kept:g} of the {min(tensor.shape)} singular directions of {tensor.name} is none: raise it"
            )
