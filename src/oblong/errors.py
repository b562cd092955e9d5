"""Every exception that oblong raises on purpose.

    OblongError
    |-- UserError                     exit code 2: your input; the message says what to change
    |   |-- ModelNotFoundError        a MODEL that is no file, directory, cached Hub id or `demo`
    |   |-- CorruptCheckpointError    a checkpoint file whose header or data cannot be trusted
    |   |-- UnsupportedFormatError    a file that is no known checkpoint format
    |   |-- UnreadableModuleError     a live module whose weights are not in this process
    |   |-- RecordError               a Scan, Plan, Run, ... that cannot be read
    |   |-- RecipeError               a recipe with one or more mistakes, all of them listed
    |   |-- SelectionError            a criterion, budget or filter that selects nothing sensible
    |   |-- PlanMismatchError         a Plan that was made for another model
    |   |-- MethodError               a method against forgetting that cannot work in this setting
    |   |-- SpeechModelError          encoder, adaptor and language model that do not fit together
    |   |-- SpeechInputError          audio, prompts or features that a speech model cannot take
    |   |-- DataError                 text that is missing, empty or unreadable
    |   |-- AudioError                a sound file that is missing, empty or cannot be decoded
    |   |-- MissingPackageError       data of the operating system's packages that cannot be had here
    |   |-- OutputExistsError         an output that would be overwritten without --force
    |   |-- OutputWriteError          an output that cannot be written (disk full, no permission)
    |   `-- MissingExtraError         an optional dependency that is not installed
    `-- OperationalError              exit code 1: our failure, or the world's
        |-- DownloadError             a download that broke and could not be repaired
        |-- VerificationError         weights that are not what the manifest says
        |-- NonFinitePredictionError  a model whose predictions are NaN or infinite
        |-- WorkerError               a run of a comparison that died
        `-- OtherProcessError         another process of the same training failed; the first one says why

A bad *number* (a tensor with NaN, a rank-deficient matrix) is never an exception: it is a status in the record.
Only `oblong.cli.main` prints these and turns them into exit codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

MAX_PROBLEMS_SHOWN: Final = 5


class OblongError(Exception):
    """Base of all deliberate errors; `str(error)` is the whole message for the user."""

    exit_code = 1


class UserError(OblongError):
    """The request cannot be carried out as given; the message says what to do instead."""

    exit_code = 2


class OperationalError(OblongError):
    """The request was fine; carrying it out failed."""

    exit_code = 1


class ModelNotFoundError(UserError):
    """No model under this name."""

    def __init__(self, model: str, reason: str) -> None:
        self.model = model
        super().__init__(f"cannot find the model {model!r}: {reason}")


class CorruptCheckpointError(UserError):
    """A checkpoint file that cannot be trusted; `advice` says what to do about it."""

    def __init__(self, path: Path | str, reason: str, *, advice: str = "fetch the model again") -> None:
        self.path = Path(path)
        super().__init__(f"{path}: corrupt checkpoint: {reason}; {advice}")


class UnsupportedFormatError(UserError):
    """A file that oblong cannot read as a checkpoint."""

    def __init__(self, path: Path | str, reason: str) -> None:
        self.path = Path(path)
        super().__init__(f"{path}: {reason}")


class UnreadableModuleError(UserError):
    """A live module with parameters that cannot be read here; `problems` holds one `name: why, and what to do` each."""

    def __init__(self, module: str, problems: Sequence[str]) -> None:
        self.module = module
        self.problems = tuple(problems)
        shown = "".join(f"\n  {problem}" for problem in self.problems[:MAX_PROBLEMS_SHOWN])
        rest = len(self.problems) - MAX_PROBLEMS_SHOWN
        more = f"\n  ... and {rest} more" if rest > 0 else ""
        super().__init__(f"{module}: {len(self.problems)} of its tensors cannot be read:{shown}{more}")


class RecordError(UserError):
    """A record file that cannot be read."""

    def __init__(self, path: Path | str, reason: str) -> None:
        self.path = Path(path)
        super().__init__(f"{path}: {reason}")


class RecipeError(UserError):
    """A recipe with mistakes; `problems` holds one `path: what is wrong` for each of them."""

    def __init__(self, path: Path | str, problems: Sequence[str]) -> None:
        self.path = Path(path)
        self.problems = tuple(problems)
        noun = "mistake" if len(self.problems) == 1 else "mistakes"
        lines = "\n".join(f"  {problem}" for problem in self.problems)
        super().__init__(f"{path}: {len(self.problems)} {noun} in the recipe\n{lines}")


class SelectionError(UserError):
    """A criterion, order, stratum, budget or filter that cannot select anything sensible."""


class PlanMismatchError(UserError):
    """A Plan that does not fit the model it is applied to."""


class MethodError(UserError):
    """A method against forgetting that cannot work in this setting, or lacks what it needs."""


class SpeechModelError(UserError):
    """An encoder, adaptor and language model that do not fit together."""


class SpeechInputError(UserError):
    """Audio, prompts or cached features that a speech model cannot take as they are."""


class DataError(UserError):
    """Training or evaluation text that is missing, empty or unreadable."""


class AudioError(UserError):
    """A sound file that cannot be used; `kind` is one or two words to count by, such as `missing` or `corrupt`."""

    def __init__(self, path: Path | str, reason: str, *, kind: str) -> None:
        self.path = Path(path)
        self.reason = reason
        self.kind = kind
        super().__init__(f"{path}: {reason}")


class MissingPackageError(UserError):
    """A package of the operating system that cannot be had on this machine."""

    def __init__(self, packages: Sequence[str], reason: str) -> None:
        self.packages = tuple(packages)
        super().__init__(
            f"cannot get {', '.join(self.packages)}: {reason}. On a machine with Debian or Ubuntu run "
            f"`apt-get download {' '.join(self.packages)}`, copy the .deb files here and pass --packages FOLDER"
        )


class OutputExistsError(UserError):
    """An output that already exists and would be overwritten."""

    def __init__(
        self, path: Path | str, *, advice: str = "choose another output, or pass --force to replace it"
    ) -> None:
        self.path = Path(path)
        super().__init__(f"{path} exists already: {advice}")


class OutputWriteError(UserError):
    """An output that cannot be written; what existed before is untouched."""

    def __init__(self, path: Path | str, reason: str) -> None:
        self.path = Path(path)
        super().__init__(f"cannot write {path}: {reason}")


class MissingExtraError(UserError):
    """An optional dependency that is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs an optional dependency: pip install 'oblong[{extra}]'")


class DownloadError(OperationalError):
    """A download that broke and could not be repaired by retrying."""


class NonFinitePredictionError(OperationalError):
    """A model predicts NaN or infinity, so that it has no loss."""


class VerificationError(OperationalError):
    """Weights that are not what their manifest or Plan says."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        lines = "\n".join(f"  {problem}" for problem in self.problems)
        super().__init__(f"verification failed, {len(self.problems)} problem(s):\n{lines}")


class WorkerError(OperationalError):
    """A run of a comparison that died; its log names the cause."""


class OtherProcessError(OperationalError):
    """Another process of the same training failed, or this one did and the first one says why."""
