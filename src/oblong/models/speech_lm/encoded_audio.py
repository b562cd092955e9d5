"""What the encoder made of recordings: cropped frames, padded to a batch with a mask, or one tensor for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch.nn.utils.rnn import pad_sequence

from oblong.errors import SpeechInputError
from oblong.models.speech_lm.frames import count_mask_frames, group_frames


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedAudio:
    """Encoder states of N recordings.

    Attributes:
        frames: (N, T, D), T the longest recording's number of valid frames.
        mask: (N, T), bool; the valid frames come first.
    """

    frames: torch.Tensor
    mask: torch.Tensor

    @classmethod
    def crop(cls, states: torch.Tensor, mel_mask: torch.Tensor | None) -> Self:
        """Take the valid frames of what the encoder says about a whole window.

        Args:
            states: (N, S, D), S the encoder's number of positions.
            mel_mask: (N, 2 S), 1 for valid frames of the spectrogram; None where all are.
        """
        if mel_mask is None:
            return cls(frames=states, mask=torch.ones(states.shape[:2], dtype=torch.bool, device=states.device))
        lengths = count_mask_frames(mel_mask.sum(-1).to(device=states.device, dtype=torch.long))
        longest = int(lengths.max())
        return cls(frames=states[:, :longest], mask=_mask_lengths(lengths, longest))

    @classmethod
    def gather(cls, features: torch.Tensor | Sequence[torch.Tensor], mask: torch.Tensor | None) -> Self:
        """Take states that were computed earlier.

        Args:
            features: one (T_i, D) for each recording, or (N, T, D).
            mask: (N, T) with a tensor, None where all frames are valid; ignored with a sequence.

        Raises:
            SpeechInputError: no recordings, an empty one, or another number of dimensions.
        """
        if not isinstance(features, torch.Tensor):
            return cls._pad(list(features))
        if features.dim() != 3:
            raise SpeechInputError(
                f"audio_features has shape {tuple(features.shape)}: pass recordings x frames x width, or a list of "
                "frames x width"
            )
        return cls(frames=features, mask=_default_mask(features) if mask is None else mask.bool())

    @classmethod
    def _pad(cls, clips: list[torch.Tensor]) -> Self:
        if not clips or any(clip.dim() != 2 or len(clip) == 0 for clip in clips):
            raise SpeechInputError("audio_features must be a list of non-empty tensors of frames x width")
        lengths = torch.tensor([len(clip) for clip in clips], device=clips[0].device)
        return cls(frames=pad_sequence(clips, batch_first=True), mask=_mask_lengths(lengths, int(lengths.max())))

    def split(self) -> list[torch.Tensor]:
        """The valid frames of each recording, (T_i, D); a copy, so that none keeps the others alive."""
        return [frames[mask].clone() for frames, mask in zip(self.frames, self.mask, strict=True)]

    def count_tokens(self, downsampling: int) -> list[int]:
        """How many audio tokens each recording becomes."""
        return [group_frames(length, downsampling) for length in self.mask.sum(-1).tolist()]


def _default_mask(features: torch.Tensor) -> torch.Tensor:
    return torch.ones(features.shape[:2], dtype=torch.bool, device=features.device)


def _mask_lengths(lengths: torch.Tensor, longest: int) -> torch.Tensor:
    """(N,) to (N, longest)."""
    return torch.arange(longest, device=lengths.device)[None, :] < lengths[:, None]
