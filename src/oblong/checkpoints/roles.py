"""From a tensor's name to what it does in the model (its role) and where (its layer).

Names are conventions, so this is a table of conventions: the last component of the module's path decides, its context
decides where the same word means two things. A name that no rule knows has the role `other`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

_LAYER: Final = re.compile(r"(?:^|\.)(?:layers?|h|blocks?|blk)\.(\d+)(?:\.|$)")
_BIAS: Final = re.compile(r"(?:^|[._])bias$")
_NORM: Final = re.compile(
    r"(?:^|[._])(?:norm\d*|ln_?\w*|\w*layer_?norm\w*|\w*_norm|norm_\w+|normalization)$", re.IGNORECASE
)
_CONV: Final = re.compile(r"(?:^|_)conv\w*$", re.IGNORECASE)

# Tables that a module registers beside its parameters: they never train and must never look like weights.
_BUFFER: Final = re.compile(
    r"(?:^|\.)(?:attn|attention)\.(?:bias|masked_bias)$|inv_freq$|position_ids$|token_type_ids$|num_batches_tracked$"
    r"|running_(?:mean|var)$|(?:^|\.)(?:cos|sin)_cached$|rope_freqs"
)
# One scale per tensor, row or block of a quantised weight, and the bookkeeping of quantisers.
_QUANTISATION: Final = re.compile(
    r"_scale(?:_inv|_2)?$|\.scales$|_scales$|\.qzeros$|\.g_idx$|\.SCB$|\.absmax$|quant_map$|quant_state|input_scale$"
    r"|nested_absmax$|weight_shape$|weight_zero_point$"
)

# The last components of a module's path, by role. Families: Llama, Mistral, Qwen, Gemma, Phi (q_proj ...); original
# Llama and Mixtral (wq, w1); GPT-2 (c_attn, c_fc); GPT-NeoX, Falcon, BLOOM (query_key_value, dense_h_to_4h); OPT,
# Whisper, BART (out_proj, fc1); BERT (query, intermediate.dense); DistilBERT (q_lin, lin1); T5 (SelfAttention.q, wi_0);
# MPT, ModernBERT (Wqkv, Wi); DeepSeek (q_a_proj); GGUF (attn_q, ffn_gate).
_LEAVES: Final[Mapping[str, tuple[str, ...]]] = {
    "q": ("q_proj", "query", "query_proj", "q", "wq", "attn_q", "q_a_proj", "q_b_proj", "q_lin", "to_q"),
    "k": ("k_proj", "key", "key_proj", "k", "wk", "attn_k", "k_lin", "to_k"),
    "v": ("v_proj", "value", "value_proj", "v", "wv", "attn_v", "v_lin", "to_v"),
    "o": ("o_proj", "out_proj", "o", "attn_output", "out_lin", "attn_out", "to_out"),
    "gate": ("gate_proj", "w1", "ffn_gate", "ffn_gate_exps", "ffn_gate_shexp", "wi_0"),
    "up": (
        "up_proj",
        "w3",
        "fc1",
        "c_fc",
        "dense_h_to_4h",
        "ffn_up",
        "ffn_up_exps",
        "ffn_up_shexp",
        "wi",
        "wi_1",
        "lin1",
        "intermediate_dense",
    ),
    "down": (
        "down_proj",
        "w2",
        "fc2",
        "dense_4h_to_h",
        "ffn_down",
        "ffn_down_exps",
        "ffn_down_shexp",
        "lin2",
        "output_dense",
    ),
    "qkv": ("qkv_proj", "qkv", "c_attn", "query_key_value", "Wqkv", "in_proj_weight", "attn_qkv", "wqkv"),
    "gate_up": ("gate_up_proj", "Wi", "input_linear"),
    "embedding": (
        *("embed_tokens", "wte", "wpe", "embed_in", "word_embeddings", "position_embeddings", "token_type_embeddings"),
        *("embed_positions", "tok_embeddings", "tok_embd", "token_embd", "position_embd", "token_types", "shared"),
        *("embed_tokens_per_layer", "relative_attention_bias", "embedding", "position_embedding"),
        *("cls_token", "mask_token", "distillation_token", "register_tokens", "pos_embed", "masked_spec_embed"),
    ),
    "lm_head": ("lm_head", "embed_out", "proj_out"),
    "router": ("router", "shared_expert_gate", "ffn_gate_inp", "ffn_gate_inp_shexp", "router_layer"),
}
_ROLE_OF_LEAF: Final[Mapping[str, str]] = {leaf: role for role, leaves in _LEAVES.items() for leaf in leaves}

# The same last component in two contexts; the first rule that matches the module's path wins, before the table above.
_CONTEXTS: Final[Sequence[tuple[re.Pattern[str], str]]] = tuple(
    (re.compile(pattern), role)
    for pattern, role in (
        (r"(?:mlp|block_sparse_moe|feed_forward|mixer|moe)\.gate$", "router"),
        (r"router\.(?:layer|classifier|proj)$", "router"),
        (r"predictions\.(?:decoder|transform\.dense)$", "lm_head"),
        (r"^output$", "lm_head"),
        (r"attention\.output\.dense$|(?:attention|self_attn|attn)\.dense$", "o"),
        (r"attn\.c_proj$|(?:attention|attn|Attention)\.[wW]o$", "o"),
        (r"(?:^|\.)pooler\.dense$", "pooler"),
        (r"intermediate\.dense$", "up"),
        (r"output\.dense$|mlp\.c_proj$|(?:DenseReluDense|mlp)\.[wW]o$|output_linear$", "down"),
    )
)

# Where a Plan does not look by default, and why.
_INELIGIBLE: Final[Mapping[str, str]] = {
    "embedding": "an embedding table: its shape alone makes it look round",
    "lm_head": "the output layer: it is tied to the vocabulary",
    "router": "a router: small changes send tokens to other experts",
    "pooler": "a pooler: it stands outside the layers, and many uses of an encoder leave it out",
    "norm": "a normalisation",
    "bias": "a bias",
    "buffer": "a buffer, not a parameter",
    "quantisation": "a quantiser's scale, not a weight",
}


def classify_role(name: str, num_dimensions: int = 2) -> str:
    """The role of a tensor.

    Args:
        name: the tensor's name, Hugging Face or GGUF convention.
        num_dimensions: of its shape; an unknown tensor with three or more is a convolution unless it holds experts.

    Returns:
        q, k, v, o, gate, up, down, embedding, lm_head, router, pooler, norm, bias, conv, other; qkv and gate_up for
        fused tensors that have not been split; buffer and quantisation for tensors that are no weights.
    """
    if _BUFFER.search(name):
        return "buffer"
    if _QUANTISATION.search(name):
        return "quantisation"
    if _BIAS.search(name):
        return "bias"
    module = name.removesuffix(".weight")
    return "norm" if _NORM.search(module) else _classify_module(module, num_dimensions)


def _classify_module(module: str, num_dimensions: int) -> str:
    for pattern, role in _CONTEXTS:
        if pattern.search(module):
            return role
    leaf = module.rpartition(".")[2]
    if leaf in _ROLE_OF_LEAF:
        return _ROLE_OF_LEAF[leaf]
    if _CONV.search(leaf) or (num_dimensions >= 3 and "expert" not in module):
        return "conv"
    return "other"


def find_layer(name: str) -> int | None:
    """The number of the layer in a tensor's name; None outside the layers."""
    match = _LAYER.search(name)
    return int(match[1]) if match else None


def explain_ineligible(role: str) -> str | None:
    """Why tensors of this role are not chosen by default, or None when they may be."""
    return _INELIGIBLE.get(role)
