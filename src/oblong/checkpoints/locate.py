"""From what a user calls a model to a place on this disk.

A MODEL is a directory, a single `.safetensors`, `.gguf` or pickle file, a Hugging Face Hub id, or one of the names in
`oblong.checkpoints.named`, such as `demo`.
A thing on the disk wins over a Hub id of the same name. Without a network the Hub's cache on this disk answers. Weights
that oblong cannot read (`.msgpack`, `.h5`, `.onnx`) are never fetched, and no code of the model's is run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import platformdirs

from oblong.checkpoints.named import DEMO, NAMED_MODELS, NamedModel
from oblong.errors import ModelNotFoundError, UnsupportedFormatError

DEMO_MODEL_NAME: Final = NAMED_MODELS[DEMO].folder
CACHE_VARIABLE: Final = "OBLONG_CACHE"

WEIGHT_SUFFIXES: Final = (".safetensors", ".gguf", ".bin", ".pt", ".pth")
HUB_PATTERNS: Final = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.tiktoken")
HUB_PICKLE_PATTERNS: Final = ("pytorch_model*.bin",)


def cache_dir() -> Path:
    """Root of everything oblong keeps for itself: `$OBLONG_CACHE`, else the platform's cache directory."""
    override = os.environ.get(CACHE_VARIABLE)
    return Path(override).expanduser() if override else platformdirs.user_cache_path("oblong")


def named_model_dir(model: NamedModel) -> Path:
    """Where `oblong fetch` puts a model, present or not."""
    return cache_dir() / "models" / model.folder


def demo_model_dir() -> Path:
    """Where `oblong fetch demo-model` puts the demo model, present or not."""
    return named_model_dir(NAMED_MODELS[DEMO])


def locate_model(model: str) -> Path:
    """Find a model.

    Args:
        model: a directory, a checkpoint file, a Hub id such as `HuggingFaceTB/SmolLM2-135M-Instruct`, or a name such
            as `demo`.

    Returns:
        An existing directory or file.

    Raises:
        ModelNotFoundError: nothing there; the message says what to do.
        UnsupportedFormatError: a file that is no known checkpoint format.
    """
    path = Path(model).expanduser()
    if model and path.is_dir():
        return path
    if model and path.exists():
        return _accept_file(path)
    if model in NAMED_MODELS:
        return _locate_named(NAMED_MODELS[model])
    if not looks_like_hub_id(model):
        raise ModelNotFoundError(
            model, "there is no such file or directory; check the path, or name a model of the Hub, ORG/NAME"
        )
    return _locate_on_hub(model)


def _accept_file(path: Path) -> Path:
    if path.suffix not in WEIGHT_SUFFIXES:
        known = ", ".join(WEIGHT_SUFFIXES)
        raise UnsupportedFormatError(path, f"is no checkpoint: expected a directory or a file ending in {known}")
    return path


def _locate_named(model: NamedModel) -> Path:
    directory = named_model_dir(model)
    if not any(file.suffix in WEIGHT_SUFFIXES for file in directory.glob("*")):
        raise ModelNotFoundError(model.name, f"it has not been fetched yet: run `oblong fetch {model.fetch_name}`")
    return directory


def looks_like_hub_id(model: str) -> bool:
    """Whether the Hub could know a model of this name; asks nobody."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    if Path(model).suffix in WEIGHT_SUFFIXES or model.startswith((".", "/", "~")):
        return False
    try:
        validate_repo_id(model)
    except HFValidationError:
        return False
    return True


def _locate_on_hub(model: str) -> Path:
    with explain_hub_errors(model):
        return _download(model)


@contextmanager
def explain_hub_errors(model: str) -> Iterator[None]:
    """Turn what huggingface_hub raises when it looks for a model into a ModelNotFoundError that says what to do."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    # Its HTTP library (requests, httpx or httpx2, by version) is found through the base of its own error.
    transport_error: type[BaseException] = HfHubHTTPError.__bases__[0]
    try:
        yield
    except GatedRepoError as error:
        advice = "it is gated on the Hugging Face Hub: accept its terms there, then run `hf auth login`"
        raise ModelNotFoundError(model, advice) from error
    except RepositoryNotFoundError as error:
        advice = "no such file or directory, and the Hugging Face Hub has no public model of this name"
        raise ModelNotFoundError(model, advice) from error
    except (
        transport_error,
        OSError,
    ) as error:  # among them huggingface_hub's own: no such entry, no network, offline mode
        advice = (
            "no such file or directory, and it is neither in the Hugging Face cache nor can the Hub be reached: "
            "check the name, go online (and unset HF_HUB_OFFLINE), or pass a local directory"
        )
        raise ModelNotFoundError(model, advice) from error


def _download(model: str) -> Path:
    """Snapshot of safetensors, configuration and tokenizer; pickles only where there is no safetensors."""
    from huggingface_hub import snapshot_download

    directory = Path(snapshot_download(model, allow_patterns=list(HUB_PATTERNS)))
    if not any(directory.glob("*.safetensors")):
        snapshot_download(model, allow_patterns=[*HUB_PATTERNS, *HUB_PICKLE_PATTERNS])
    return directory
