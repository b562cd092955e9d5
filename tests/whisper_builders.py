"""Tiny random Whisper models, and CTranslate2 folders of them as its converter writes them."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import WhisperForConditionalGeneration

from tests.tiny_configs import make_whisper_config

SPECIAL = (
    *("<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>", "<|transcribe|>"),
    *("<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"),
)
DTYPE_NUMBERS = {"float32": 0, "int8": 1, "int16": 2, "float16": 4}
Arrays = dict[str, NDArray[Any]]


def make_whisper(seed: int = 0) -> WhisperForConditionalGeneration:
    """Two encoder and two decoder layers, 16 wide, two heads, 60 tokens; every parameter random, biases included."""
    torch.manual_seed(seed)
    model = WhisperForConditionalGeneration(make_whisper_config(decoder_start_token_id=1))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter.data, std=0.3)
    model.train(False)
    return model


def write_ctranslate2_whisper(model: WhisperForConditionalGeneration, folder: Path) -> None:
    """`model.bin` in float16, `config.json`, and a `tokenizer.json` that knows the special tokens."""
    folder.mkdir()
    write_model_bin(list_arrays(model), folder / "model.bin")
    decoding = {"alignment_heads": [[0, 1]], "lang_ids": [2, 3], "suppress_ids": [9], "suppress_ids_begin": [0]}
    (folder / "config.json").write_text(json.dumps(decoding))
    tokenizer = Tokenizer(BPE(vocab={}, merges=[]))
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.save(str(folder / "tokenizer.json"))


def list_arrays(model: WhisperForConditionalGeneration) -> Arrays:
    """Its parameters under CTranslate2's names, in float16; q, k, v stacked, k with a bias of zeros."""
    state = {name: values.detach().numpy().astype(np.float16) for name, values in model.state_dict().items()}
    arrays: Arrays = {
        "decoder/embeddings/weight": state["model.decoder.embed_tokens.weight"],
        "decoder/activation": np.array(3, np.int8),
    }

    def stack(target: str, *sources: str) -> None:
        weight, bias = ("gamma", "beta") if target.endswith("layer_norm") else ("weight", "bias")
        weights = [state[f"{source}.weight"] for source in sources]
        none = np.zeros(len(weights[0]), np.float16)
        biases = [state.get(f"{source}.bias", none) for source in sources]
        arrays[f"{target}/{weight}"], arrays[f"{target}/{bias}"] = np.concatenate(weights), np.concatenate(biases)

    for part in ("encoder", "decoder"):
        root = f"model.{part}"
        arrays[f"{part}/num_heads"] = np.array(2, np.int16)
        arrays[f"{part}/position_encodings/encodings"] = state[f"{root}.embed_positions.weight"]
        stack(f"{part}/layer_norm", f"{root}.layer_norm")
        for layer in range(2):
            here, there = f"{part}/layer_{layer}", f"{root}.layers.{layer}"
            own = f"{there}.self_attn"
            stack(f"{here}/self_attention/linear_0", f"{own}.q_proj", f"{own}.k_proj", f"{own}.v_proj")
            stack(f"{here}/self_attention/linear_1", f"{own}.out_proj")
            stack(f"{here}/self_attention/layer_norm", f"{own}_layer_norm")
            stack(f"{here}/ffn/layer_norm", f"{there}.final_layer_norm")
            stack(f"{here}/ffn/linear_0", f"{there}.fc1")
            stack(f"{here}/ffn/linear_1", f"{there}.fc2")
            if part == "decoder":
                cross = f"{there}.encoder_attn"
                stack(f"{here}/attention/linear_0", f"{cross}.q_proj")
                stack(f"{here}/attention/linear_1", f"{cross}.k_proj", f"{cross}.v_proj")
                stack(f"{here}/attention/linear_2", f"{cross}.out_proj")
                stack(f"{here}/attention/layer_norm", f"{cross}_layer_norm")
    for conv in ("conv1", "conv2"):
        stack(f"encoder/{conv}", f"model.encoder.{conv}")
    return arrays


def write_model_bin(arrays: Arrays, path: Path, *, version: int = 6) -> None:
    """Binary version 6, with the output layer as an alias of the embedding."""
    data = struct.pack("<I", version) + _pack("WhisperSpec") + struct.pack("<II", 3, len(arrays))
    for name, values in arrays.items():
        data += _pack(name) + struct.pack(f"<B{values.ndim}I", values.ndim, *values.shape)
        data += struct.pack("<BI", DTYPE_NUMBERS[str(values.dtype)], values.nbytes) + values.tobytes()
    data += struct.pack("<I", 1) + _pack("decoder/projection/weight") + _pack("decoder/embeddings/weight")
    path.write_bytes(data)


def _pack(text: str) -> bytes:
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"
