"""Where a training stands, and how that survives a kill at any moment.

    checkpoints/step-adapt-00000120/state.json            step, place in the epoch, losses, evaluations
    checkpoints/step-adapt-00000120/trained.safetensors   the adaptor and what trains in the language model, float32
    checkpoints/step-adapt-00000120/optimizer.pt          optimizer, schedule, random number generators, method
    checkpoints/best-adapt-00000080.safetensors           the same tensors at the best evaluation

A checkpoint is written whole into a hidden directory and then renamed. What it does not name is removed afterwards.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from oblong.checkpoints.delta import create_directory, explain_tensor_write_errors
from oblong.errors import CorruptCheckpointError
from oblong.records import SpeechPoint, SpeechStage, StageRecord, TrainingPoint
from oblong.records.base import Part, replace_on_success

STATE_FILE: Final = "state.json"
TRAINED_FILE: Final = "trained.safetensors"
OPTIMIZER_FILE: Final = "optimizer.pt"
STEP_PREFIX: Final = "step-"
BEST_PREFIX: Final = "best-"
ADVICE: Final = "pass --fresh to start over"


class StageState(Part):
    """A stage on its way.

    `losses` has one entry per step; `epoch` and `batch` name the next batch.
    """

    stage: SpeechStage
    step: int = 0
    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    num_utterances: int = 0
    num_tokens: int = 0
    losses: tuple[TrainingPoint, ...] = ()
    points: tuple[SpeechPoint, ...] = ()


class TrainingState(Part):
    """A run on its way: finished stages with their evaluations, and the one that is going on."""

    base_retention: Mapping[str, float]
    finished: tuple[StageRecord, ...] = ()
    earlier_points: tuple[SpeechPoint, ...] = ()
    current: StageState

    @property
    def points(self) -> tuple[SpeechPoint, ...]:
        """All evaluations so far."""
        return (*self.earlier_points, *self.current.points)


class CheckpointStore:
    """The checkpoints of one run."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def find_last(self) -> Path | None:
        """The newest whole checkpoint; half-written ones have hidden names."""
        order = [stage.value for stage in SpeechStage]

        def rank(path: Path) -> tuple[int, int]:
            _, stage, step = path.name.split("-")
            return order.index(stage), int(step)

        return max(self._list(), key=rank, default=None)

    def read_state(self) -> TrainingState | None:
        """Where the run stands; None at its beginning.

        Raises:
            CorruptCheckpointError: the last checkpoint is damaged.
        """
        last = self.find_last()
        if last is None:
            return None
        with explain_damage(last / STATE_FILE):
            return TrainingState.model_validate_json((last / STATE_FILE).read_text(encoding="utf-8"))

    def save(
        self, state: TrainingState, trained: Mapping[str, nn.Parameter], machinery: Mapping[str, Any], best: int | None
    ) -> None:
        """Write a checkpoint, then remove what it replaces.

        Args:
            state: where the run stands.
            trained: parameters by name.
            machinery: state of optimizer, schedule, generators and method.
            best: step of the best evaluation of this stage, whose tensors are kept.

        Raises:
            OutputWriteError: it could not be written; the one before survives.
        """
        stage = state.current.stage
        target = self._directory / f"{STEP_PREFIX}{stage.value}-{state.current.step:08d}"
        with create_directory(target, replace=True) as directory:
            save_file(copy_tensors(trained), directory / TRAINED_FILE)
            torch.save(dict(machinery), directory / OPTIMIZER_FILE)
            (directory / STATE_FILE).write_text(state.model_dump_json(), encoding="utf-8")
        for other in self._list():
            if other != target:
                shutil.rmtree(other)
        keep = None if best is None else self._best_path(stage, best)
        for path in self._directory.glob(f"{BEST_PREFIX}{stage.value}-*"):
            if path != keep:
                path.unlink()

    def restore(self, trained: Mapping[str, nn.Parameter]) -> Mapping[str, Any]:
        """Put the last checkpoint's tensors into the parameters; returns the rest of it.

        Raises:
            CorruptCheckpointError: it is damaged, or holds other tensors.
        """
        last = self.find_last()
        if last is None:
            raise CorruptCheckpointError(self._directory, "holds no checkpoint", advice=ADVICE)
        put_tensors(trained, read_tensors(last / TRAINED_FILE), last)
        with explain_damage(last / OPTIMIZER_FILE):
            machinery: Mapping[str, Any] = torch.load(last / OPTIMIZER_FILE, weights_only=True, map_location="cpu")
        return machinery

    def save_best(self, stage: SpeechStage, step: int, trained: Mapping[str, nn.Parameter]) -> None:
        """Keep the tensors of an evaluation; `save` removes those of earlier ones."""
        path = self._best_path(stage, step)
        self._directory.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}")
        with explain_tensor_write_errors(path):
            save_file(copy_tensors(trained), temporary)
            temporary.replace(path)

    def restore_best(self, stage: SpeechStage, step: int, trained: Mapping[str, nn.Parameter]) -> None:
        """Put the tensors of the best evaluation into the parameters.

        Raises:
            CorruptCheckpointError: they are damaged.
        """
        path = self._best_path(stage, step)
        put_tensors(trained, read_tensors(path), path)

    def _list(self) -> list[Path]:
        return [path for path in self._directory.glob(f"{STEP_PREFIX}*") if path.is_dir()]

    def _best_path(self, stage: SpeechStage, step: int) -> Path:
        return self._directory / f"{BEST_PREFIX}{stage.value}-{step:08d}.safetensors"


@contextmanager
def explain_damage(path: Path) -> Iterator[None]:
    """Turn what reading a damaged file raises into one error that names it; a power cut can leave one."""
    try:
        yield
    except Exception as error:  # torch, pickle, safetensors and pydantic raise many kinds
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise CorruptCheckpointError(path, f"cannot be read: {reason[0]}", advice=ADVICE) from error


def read_tensors(path: Path) -> Mapping[str, torch.Tensor]:
    """The tensors of a checkpoint.

    Raises:
        CorruptCheckpointError: missing or damaged.
    """
    with explain_damage(path):
        return load_file(path)


def copy_tensors(trained: Mapping[str, nn.Parameter]) -> dict[str, torch.Tensor]:
    """Contiguous copies on the CPU; parameters that are one tensor are stored once each."""
    return {name: parameter.detach().cpu().contiguous().clone() for name, parameter in trained.items()}


@torch.no_grad()
def put_tensors(trained: Mapping[str, nn.Parameter], stored: Mapping[str, torch.Tensor], path: Path) -> None:
    """Copy stored tensors into parameters of the same names.

    Raises:
        CorruptCheckpointError: the names differ.
    """
    if different := sorted(trained.keys() ^ stored.keys()):
        raise CorruptCheckpointError(path, f"holds other tensors than train: {', '.join(different[:3])}", advice=ADVICE)
    for name, parameter in trained.items():
        parameter.copy_(stored[name])


def write_points(path: Path, points: tuple[SpeechPoint, ...]) -> None:
    """Make the journal say exactly this: after a resume it may hold evaluations that are done again."""
    with replace_on_success(path, force=True) as file:
        file.writelines(point.model_dump_json() + "\n" for point in points)


def append_point(path: Path, point: SpeechPoint) -> None:
    """Add an evaluation to the journal at once."""
    with path.open("a", encoding="utf-8") as file:
        file.write(point.model_dump_json() + "\n")
