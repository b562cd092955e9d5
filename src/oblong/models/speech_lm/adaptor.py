"""The adaptor: encoder frames become vectors that a language model can read in place of token embeddings.

    frames -> join 4 -> linear -> layer norm -> 2 x (self-attention, residual) -> [linear up] -> layer norm -> tokens

It starts as "join, linear, norm": the attention layers' output projections are zero. The last norm's gain starts at the
scale of the language model's embeddings, which is far from 1 (0.13 in SmolLM2), and keeps the tokens there while the
attention layers grow. It computes in the dtype of its weights, also under autocast.

Shape letters: N recordings, T encoder frames, M audio tokens, D encoder width, W adaptor width, H language model width.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import nn
from torch.nn import functional

from oblong.models.speech_lm.configuration import SpeechLMConfig

# Source: Vaswani et al. 2017, section 3.5.
LONGEST_WAVELENGTH: Final = 10_000.0


class SpeechAdaptor(nn.Module):
    """Section 4 of the paper, or its linear control; see the module's text.

    Attributes:
        downsampling: encoder frames per audio token.
    """

    def __init__(self, config: SpeechLMConfig) -> None:
        super().__init__()
        adaptor = config.adaptor_config
        text_width: int = config.text_config.hidden_size
        width = adaptor.get_width(text_width)
        num_layers = adaptor.num_attention_layers if adaptor.kind == "attention" else 0
        self.downsampling: int = adaptor.downsampling
        self.projection = nn.Linear(config.audio_config.hidden_size * self.downsampling, width)
        self.input_norm = nn.LayerNorm(width) if num_layers else nn.Identity()
        self.layers = nn.ModuleList(AdaptorAttention(width, adaptor.num_heads) for _ in range(num_layers))
        self.expansion = nn.Identity() if adaptor.bottleneck is None else nn.Linear(width, text_width)
        self.output_norm = nn.LayerNorm(text_width)

    def forward(self, frames_NTD: torch.Tensor, mask_NT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Turn frames into audio tokens.

        Args:
            frames_NTD: encoder states, any floating dtype; what lies outside the mask is not read.
            mask_NT: bool, which frames are valid; the valid ones come first.

        Returns:
            Tokens (N, M, H) in the dtype of the weights, and their mask (N, M); M = ceil(T / downsampling).
        """
        dtype = self.output_norm.weight.dtype
        # Autocast would bring a float32 adaptor back to bf16.
        with torch.autocast(frames_NTD.device.type, enabled=False):
            joined_NMk, mask_NM = self._join(frames_NTD.to(dtype), mask_NT)
            hidden_NMW = self.input_norm(self.projection(joined_NMk))
            if len(self.layers):
                positions_MW = encode_positions(hidden_NMW.shape[1], hidden_NMW.shape[2], hidden_NMW)
                for layer in self.layers:
                    hidden_NMW = layer(hidden_NMW, positions_MW, mask_NM)
            return self.output_norm(self.expansion(hidden_NMW)), mask_NM

    def _join(self, frames_NTD: torch.Tensor, mask_NT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Concatenate `downsampling` neighbours; the last group is filled up with zeros."""
        missing = -frames_NTD.shape[1] % self.downsampling
        frames = functional.pad(frames_NTD.masked_fill(~mask_NT.unsqueeze(-1), 0.0), (0, 0, 0, missing))
        mask = functional.pad(mask_NT, (0, missing))
        num_tokens = frames.shape[1] // self.downsampling
        joined = frames.reshape(frames.shape[0], num_tokens, -1)
        return joined, mask.reshape(mask.shape[0], num_tokens, self.downsampling).any(-1)

    @torch.no_grad()
    def set_output_scale(self, scale: float) -> None:
        """Make every token's root mean square `scale` until training changes it."""
        self.output_norm.weight.fill_(scale)
        self.output_norm.bias.zero_()


class AdaptorAttention(nn.Module):
    """One residual self-attention layer over a recording's audio tokens; no mask but the padding's.

    The positional encoding goes to queries and keys only, as in DETR (Carion et al. 2020): added to the stream it would
    reach the language model, and the layer could not start as the identity.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(width)
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        nn.init.zeros_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, hidden_NMW: torch.Tensor, positions_MW: torch.Tensor, mask_NM: torch.Tensor) -> torch.Tensor:
        """Attend within each recording.

        Args:
            hidden_NMW: tokens.
            positions_MW: their positional encoding.
            mask_NM: bool, which tokens are valid; at least one of each recording.

        Returns:
            Tokens (N, M, W).
        """
        values = self.norm(hidden_NMW)
        placed = values + positions_MW
        attended = functional.scaled_dot_product_attention(
            self._split(self.q_proj(placed)),
            self._split(self.k_proj(placed)),
            self._split(self.v_proj(values)),
            attn_mask=mask_NM[:, None, None, :],
        )
        joined: torch.Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return hidden_NMW + joined

    def _split(self, hidden_NMW: torch.Tensor) -> torch.Tensor:
        """(N, M, W) to (N, heads, M, W / heads)."""
        return hidden_NMW.reshape(*hidden_NMW.shape[:2], self.num_heads, -1).transpose(1, 2)


def encode_positions(length: int, width: int, like: torch.Tensor) -> torch.Tensor:
    """Sinusoids, sines in the first half and cosines in the second.

    Args:
        length: number of positions, M.
        width: W; an odd one gets a last column of zeros.
        like: whose dtype and device to take.

    Returns:
        A tensor (M, W).
    """
    half = width // 2
    steps = torch.arange(half, device=like.device, dtype=torch.float32)
    frequencies = torch.exp(-math.log(LONGEST_WAVELENGTH) * steps / max(half - 1, 1))
    angles = torch.arange(length, device=like.device, dtype=torch.float32)[:, None] * frequencies
    table = torch.cat([angles.sin(), angles.cos()], dim=-1)
    return functional.pad(table, (0, width - 2 * half)).to(like.dtype)
