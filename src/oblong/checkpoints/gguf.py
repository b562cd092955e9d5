"""GGUF: llama.cpp's single-file format, block-quantised as a rule.

The gguf package parses the header; the bytes are read and decoded like those of any other format, so that a tensor
never exists twice in memory. Tensors of architectures with llama's naming get their Hugging Face names and row
order back; others keep their GGUF names, with a note.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from oblong.checkpoints.base import UNREADABLE, Bytes, TensorInfo, iter_file_chunks
from oblong.checkpoints.layout import refuse_duplicates
from oblong.errors import CorruptCheckpointError, UnsupportedFormatError

if TYPE_CHECKING:
    from gguf import GGUFReader as Header
    from gguf import ReaderTensor

SUFFIX: Final = ".gguf"

# Architectures whose tensors map one to one; only llama's q and k rows are stored interleaved.
HUGGING_FACE_NAMED: Final = ("llama", "qwen2", "qwen3", "phi3")
INTERLEAVED: Final = ("llama",)

_TOP_LEVEL: Final[Mapping[str, str]] = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_IN_LAYER: Final[Mapping[str, str]] = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_IN_LAYER_BY_ARCHITECTURE: Final[Mapping[str, Mapping[str, str]]] = {"phi3": {"ffn_up": "mlp.gate_up_proj"}}
_BLOCK_NAME: Final = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")

# Metadata entries under the architecture's prefix, and their names in a config.json.
_CONFIG_ENTRIES: Final[Mapping[str, str]] = {
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
}


@dataclass(frozen=True)
class GgufSource:
    """An opened GGUF file."""

    files: tuple[Path, ...]
    tensors: tuple[TensorInfo, ...]
    config: Mapping[str, Any]
    format: str = "gguf"

    def iter_chunks(self, tensor: TensorInfo, chunk_bytes: int) -> Iterator[Bytes]:
        """Yield the stored bytes; see `TensorSource`."""
        return iter_file_chunks(tensor, chunk_bytes)


class GgufReader:
    """Reads `.gguf` files and directories that hold exactly one."""

    def supports(self, path: Path) -> bool:
        """Whether `path` is a GGUF file or a directory with some."""
        return any(path.glob(f"*{SUFFIX}")) if path.is_dir() else path.suffix == SUFFIX

    def open(self, path: Path) -> GgufSource:
        """Read the header; see `Reader`.

        Raises:
            UnsupportedFormatError: a directory with several GGUF files (usually quantisations of one model).
        """
        file = _choose_file(path) if path.is_dir() else path
        header, config = _parse_header(file)
        tensors = sorted((_make_tensor(file, tensor, config) for tensor in header.tensors), key=lambda t: t.offset)
        refuse_duplicates(tensors)
        return GgufSource(files=(file,), tensors=tuple(tensors), config=config)


def _choose_file(directory: Path) -> Path:
    files = sorted(directory.glob(f"*{SUFFIX}"))
    if len(files) != 1:
        names = ", ".join(file.name for file in files[:5])
        raise UnsupportedFormatError(directory, f"holds {len(files)} GGUF files ({names}); name the one to read")
    return files[0]


def _parse_header(file: Path) -> tuple[Header, Mapping[str, Any]]:
    """The header, and what of it decides names and layouts."""
    from gguf import GGUFReader as Header

    try:
        with np.errstate(over="raise"):  # its sums of 64-bit numbers from the file would wrap
            header = Header(file)
        size = file.stat().st_size
        for tensor in header.tensors:
            if tensor.data_offset + int(tensor.n_bytes) > size:
                raise ValueError(f"tensor {tensor.name} ends after the file does")
        return header, _read_config(header)
    except OSError as error:
        raise CorruptCheckpointError(file, f"cannot be read: {error.strerror or error}", advice=UNREADABLE) from error
    except Exception as error:
        # gguf reports a broken header through whatever happens to fail first: IndexError, KeyError, UnicodeError, ...
        raise CorruptCheckpointError(file, f"it is truncated or not GGUF: {error}") from error


def _read_config(header: Header) -> Mapping[str, Any]:
    """The part of a `config.json` that decides names and layouts."""
    architecture = _read_field(header, "general.architecture")
    config = {name: _read_field(header, f"{architecture}.{key}") for key, name in _CONFIG_ENTRIES.items()}
    return {"model_type": architecture} | {name: value for name, value in config.items() if value is not None}


def _read_field(header: Header, key: str) -> Any:
    entry = header.fields.get(key)
    return entry.contents() if entry is not None else None


def _make_tensor(file: Path, tensor: ReaderTensor, config: Mapping[str, Any]) -> TensorInfo:
    architecture = config.get("model_type")
    name = translate_name(tensor.name, architecture)
    known = name is not None
    return TensorInfo(
        name=name or tensor.name,
        stored_name=tensor.name,
        dtype=tensor.tensor_type.name,
        shape=tuple(int(size) for size in reversed(tensor.shape)),
        file=file,
        offset=int(tensor.data_offset),
        num_bytes=int(tensor.n_bytes),
        interleaved_heads=_count_interleaved_heads(tensor, config),
        note=None if known else f"GGUF name: oblong does not know the Hugging Face names of {architecture}",
    )


def translate_name(name: str, architecture: str | None) -> str | None:
    """The Hugging Face name of a GGUF tensor, or None when it is not known for this architecture."""
    if architecture not in HUGGING_FACE_NAMED:
        return None
    module, _, suffix = name.rpartition(".")
    if module in _TOP_LEVEL:
        return f"{_TOP_LEVEL[module]}.{suffix}"
    match = _BLOCK_NAME.fullmatch(name)
    modules = {**_IN_LAYER, **_IN_LAYER_BY_ARCHITECTURE.get(architecture, {})}
    if match is None or match[2] not in modules:
        return None
    return f"model.layers.{match[1]}.{modules[match[2]]}.{match[3]}"


def _count_interleaved_heads(tensor: ReaderTensor, config: Mapping[str, Any]) -> int:
    """Heads whose rows must be put back in order; 0 where the rows are in order or the count does not fit."""
    match = _BLOCK_NAME.fullmatch(tensor.name)
    if config.get("model_type") not in INTERLEAVED or match is None or match[2] not in ("attn_q", "attn_k"):
        return 0
    heads = config.get("num_attention_heads")
    if match[2] == "attn_k":
        heads = config.get("num_key_value_heads", heads)
    rows = int(tensor.shape[-1])
    return heads if isinstance(heads, int) and heads > 0 and rows % (2 * heads) == 0 else 0
