"""The weights of Whisper, from CTranslate2's names to those of transformers: same numbers, other names.

CTranslate2 stacks q, k, v of a self-attention and k, v of a cross-attention into one matrix each, output rows one part
after the other, and stores zeros for the bias of k, which Whisper does not have. The output layer is tied to the token
embedding and has no tensor of its own in either layout.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from oblong.errors import UnsupportedFormatError
from oblong.models.ctranslate2 import Arrays

Pairs = Iterator[tuple[str, NDArray[Any]]]

# A name in CTranslate2's spelling, and the modules of transformers that it holds, stacked in this order.
_ENDS: Final[Mapping[str, Sequence[str]]] = {
    "encoder/conv1": ("model.encoder.conv1",),
    "encoder/conv2": ("model.encoder.conv2",),
    "encoder/layer_norm": ("model.encoder.layer_norm",),
    "decoder/layer_norm": ("model.decoder.layer_norm",),
}
_TABLES: Final[Mapping[str, str]] = {
    "encoder/position_encodings/encodings": "model.encoder.embed_positions.weight",
    "decoder/position_encodings/encodings": "model.decoder.embed_positions.weight",
    "decoder/embeddings/weight": "model.decoder.embed_tokens.weight",
}
_IN_LAYER: Final[Mapping[str, Sequence[str]]] = {
    "self_attention/layer_norm": ("self_attn_layer_norm",),
    "self_attention/linear_0": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention/linear_1": ("self_attn.out_proj",),
    "ffn/layer_norm": ("final_layer_norm",),
    "ffn/linear_0": ("fc1",),
    "ffn/linear_1": ("fc2",),
}
_IN_DECODER_LAYER: Final[Mapping[str, Sequence[str]]] = {
    **_IN_LAYER,
    "attention/layer_norm": ("encoder_attn_layer_norm",),
    "attention/linear_0": ("encoder_attn.q_proj",),
    "attention/linear_1": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "attention/linear_2": ("encoder_attn.out_proj",),
}


def rename_whisper_weights(arrays: Arrays) -> Arrays:
    """The tensors of `WhisperForConditionalGeneration`, under its names; views of the arrays given.

    Args:
        arrays: see `read_ctranslate2`; float16 or float32, linear weights out x in, convolutions out x in x kernel.

    Raises:
        UnsupportedFormatError: an array is missing, or one with values would be left over.
    """
    modules = {
        **_ENDS,
        **_list_layers("encoder", arrays, _IN_LAYER),
        **_list_layers("decoder", arrays, _IN_DECODER_LAYER),
    }
    try:
        tensors = {target: arrays[source] for source, target in _TABLES.items()}
        tensors |= {
            name: values for source, targets in modules.items() for name, values in _split(source, targets, arrays)
        }
    except KeyError as error:
        raise UnsupportedFormatError("model.bin", f"is no Whisper model: it has no {error}") from error
    _refuse_leftovers(arrays, {*_TABLES, *modules})
    return tensors


def count_layers(part: str, arrays: Arrays) -> int:
    """Layers of the `encoder` or `decoder`."""
    return sum(name.startswith(f"{part}/layer_") and name.endswith("/ffn/linear_0/weight") for name in arrays)


def _list_layers(part: str, arrays: Arrays, in_layer: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    return {
        f"{part}/layer_{layer}/{source}": [f"model.{part}.layers.{layer}.{target}" for target in targets]
        for layer in range(count_layers(part, arrays))
        for source, targets in in_layer.items()
    }


def _split(source: str, targets: Sequence[str], arrays: Arrays) -> Pairs:
    """Weight and bias of every module that a stack holds."""
    weight, bias = ("gamma", "beta") if source.endswith("layer_norm") else ("weight", "bias")
    weights = np.split(arrays[f"{source}/{weight}"], len(targets))
    biases = np.split(arrays[f"{source}/{bias}"], len(targets))
    for target, rows, offsets in zip(targets, weights, biases, strict=True):
        yield f"{target}.weight", rows
        if not target.endswith("k_proj"):
            yield f"{target}.bias", offsets
        elif offsets.any():
            raise UnsupportedFormatError("model.bin", f"has a bias for {target}, which Whisper does not have")


def _refuse_leftovers(arrays: Arrays, used: set[str]) -> None:
    """What has no dimension is a setting; the output layer is the alias of the embedding."""
    sources = {name: name if name in used else name.rpartition("/")[0] for name in arrays}
    left = [
        name
        for name, source in sources.items()
        if arrays[name].ndim and source not in used and arrays[name] is not arrays["decoder/embeddings/weight"]
    ]
    if left:
        raise UnsupportedFormatError("model.bin", f"has arrays that Whisper does not have: {', '.join(left[:5])}")
