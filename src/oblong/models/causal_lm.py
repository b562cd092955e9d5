"""Causal language models: found, loaded quietly and strictly, never with remote code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from oblong.checkpoints.delta import apply_delta, read_delta
from oblong.checkpoints.locate import locate_model
from oblong.errors import CorruptCheckpointError, UnsupportedFormatError
from oblong.models.added_modules import attach_described
from oblong.models.names import match_parameters
from oblong.models.quiet import quiet_transformers

Dtype = Literal["bfloat16", "float32"]
TORCH_DTYPES: Final[Mapping[str, torch.dtype]] = {"bfloat16": torch.bfloat16, "float32": torch.float32}
MAX_NAMES_SHOWN: Final = 5
TOKENIZER_FILES: Final = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model that is ready to run.

    Attributes:
        model: in evaluation mode, on the CPU.
        tokenizer: its tokenizer.
        path: the directory or file it came from.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    path: Path


def load_causal_lm(model: str, *, dtype: Dtype = "bfloat16", delta: Path | None = None) -> LoadedModel:
    """Load a causal language model and its tokenizer.

    Args:
        model: a directory, a `.safetensors` file with `config.json` and tokenizer beside it, a `.gguf` file, a Hub id
            or `demo`.
        dtype: of every floating-point parameter in memory.
        delta: a delta checkpoint to put on top, with the modules that it adds.

    Raises:
        ModelNotFoundError: no model under this name.
        UnsupportedFormatError: no configuration or tokenizer beside the weights, or no causal language model.
        CorruptCheckpointError: the weights cannot be read, or are not all that the configuration asks for.
        PlanMismatchError: the delta was made for another model.
    """
    path = locate_model(model)
    with quiet_transformers():
        tokenizer = _load_tokenizer(path)
        loaded = _load_model(path, TORCH_DTYPES[dtype])
    loaded.eval()  # type: ignore[no-untyped-call]  # transformers' own annotation is missing
    if delta is not None:
        changes = read_delta(delta)
        apply_delta(match_parameters(loaded, changes.tensors), changes)
        attach_described(loaded, changes)
    return LoadedModel(model=loaded, tokenizer=tokenizer, path=path)


def model_directory(path: Path) -> Path:
    """Where a located model's configuration and tokenizer lie."""
    return path if path.is_dir() else path.parent


def _load_model(path: Path, dtype: torch.dtype) -> PreTrainedModel:
    try:
        model, report = _call_from_pretrained(path, dtype)
    except (UnsupportedFormatError, CorruptCheckpointError):
        raise
    except OSError as error:
        raise UnsupportedFormatError(path, f"transformers cannot load it: {first_line(error)}") from error
    except Exception as error:  # transformers, safetensors and gguf raise many kinds for a broken file
        raise CorruptCheckpointError(path, f"{type(error).__name__}: {first_line(error)}") from error
    refuse_incomplete(path, report)
    return model


def _call_from_pretrained(path: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, Mapping[str, Any]]:
    options: dict[str, Any] = {"dtype": dtype, "output_loading_info": True, "trust_remote_code": False}
    if path.suffix == ".gguf":
        # Without dequantisation transformers keeps the packed blocks, which cannot be trained or compared.
        options |= {"gguf_file": path.name, "quantization_config": GgufConfig(dequantize=True)}
        return _unpack(AutoModelForCausalLM.from_pretrained(path.parent, **options))
    config = _load_config(path)
    if path.is_dir():
        return _unpack(AutoModelForCausalLM.from_pretrained(path, config=config, **options))
    from safetensors.torch import load_file

    del options["trust_remote_code"]
    model_class: Any = AutoModelForCausalLM._model_mapping[type(config)]
    return _unpack(model_class.from_pretrained(None, config=config, state_dict=load_file(path), **options))


def _unpack(result: Any) -> tuple[PreTrainedModel, Mapping[str, Any]]:
    model, report = result
    return model, report


def _load_config(path: Path) -> Any:
    directory = model_directory(path)
    if not (directory / "config.json").exists():
        raise UnsupportedFormatError(
            path, f"there is no config.json in {directory}: put the model's config.json and tokenizer files there"
        )
    try:
        config = AutoConfig.from_pretrained(directory, trust_remote_code=False)
    except Exception as error:  # an unknown architecture, broken JSON, a config that needs remote code
        raise UnsupportedFormatError(directory / "config.json", first_line(error)) from error
    if type(config) not in AutoModelForCausalLM._model_mapping:
        kind = getattr(config, "model_type", type(config).__name__)
        raise UnsupportedFormatError(path, f"is a {kind!r} model, which is not a causal language model")
    return config


def _load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    directory = model_directory(path)
    options: dict[str, Any] = {"trust_remote_code": False}
    if path.suffix == ".gguf" and not any((directory / name).exists() for name in TOKENIZER_FILES):
        options["gguf_file"] = path.name
    try:
        return AutoTokenizer.from_pretrained(directory, **options)
    except Exception as error:  # a missing, broken or unknown tokenizer raises many kinds
        if not (directory / "config.json").exists() and "gguf_file" not in options:
            _load_config(path)
        advice = f"its tokenizer cannot be loaded from {directory}: {first_line(error)}"
        raise UnsupportedFormatError(path, f"{advice}; put tokenizer.json and tokenizer_config.json there") from error


def refuse_incomplete(path: Path, report: Mapping[str, Any]) -> None:
    """Transformers fills missing weights with random numbers; a model like that must not be tuned or measured."""
    for key, meaning in (("missing_keys", "lacks"), ("mismatched_keys", "has another shape for")):
        names = sorted(str(name) for name in report[key])
        if names:
            shown = ", ".join(names[:MAX_NAMES_SHOWN])
            rest = f" and {len(names) - MAX_NAMES_SHOWN} more" if len(names) > MAX_NAMES_SHOWN else ""
            raise CorruptCheckpointError(path, f"{meaning} tensors that its configuration asks for: {shown}{rest}")


def first_line(error: Exception) -> str:
    """What an exception says, without the rest of its message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
