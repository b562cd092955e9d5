"""Decoding that ends: every row of a batch has its own limit and its own guard against loops.

What a row gets does not depend on its neighbours. A limit for the whole batch would be that of its longest row, and the
short rows would run on in company where alone they are cut; so limits and loops are judged row by row. With float32 on
one device the tokens of a batch are those of its rows alone (tests/unit/speech/test_decoding.py); in bfloat16 a
near-tie of two tokens may be decided otherwise, as in any batched arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Final

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from oblong.evaluation.loops import TOKENS, ends_in_loop, find_loop
from oblong.models.quiet import quiet_transformers
from oblong.records import Ending

WINDOW_SECONDS: Final = 30.0  # Whisper's encoder sees 30 s, whatever it is a part of
LONGEST_LOOP: Final = TOKENS.max_period * TOKENS.min_count  # tokens that the guard must look back


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodingSettings:
    """How to decode.

    Attributes:
        batch_size: windows at a time.
        window_seconds: longer audio is cut into windows of at most this.
        num_beams: 1 is greedy.
        base_tokens: allowed for any window.
        tokens_per_second: allowed beyond these. An estimate, not a measurement: fast speech has some 15 characters per
            second, and a vocabulary that does not know a script spends more than one token on a character.
    """

    batch_size: int = 8
    window_seconds: float = WINDOW_SECONDS
    num_beams: int = 1
    base_tokens: int = 32
    tokens_per_second: float = 24.0

    def limit_tokens(self, seconds: float) -> int:
        """Tokens that speech of this duration may have."""
        return self.base_tokens + ceil(self.tokens_per_second * seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """Tokens of one row, without prompt, end and padding; cut where `ending` is a loop."""

    tokens: tuple[int, ...]
    ending: Ending


class RowGuard(StoppingCriteria):
    """Stops each row at its own limit, or when it repeats itself.

    Args:
        limits: new tokens per row of the batch; beams of a row share its limit.
    """

    def __init__(self, limits: Sequence[int]) -> None:
        self._limits = list(limits)
        self._prompt_length: int | None = None

    def __call__(self, input_ids: Tensor, scores: Any, **options: Any) -> Tensor:
        """Which rows are done, shape (num_rows,), bool. The first call comes with one new token."""
        if self._prompt_length is None:
            self._prompt_length = input_ids.shape[1] - 1
        new = input_ids[:, self._prompt_length :]
        beams = len(new) // len(self._limits)
        recent = new[:, -LONGEST_LOOP:].tolist()
        done = [
            new.shape[1] >= self._limits[row // beams] or ends_in_loop(tokens, TOKENS)
            for row, tokens in enumerate(recent)
        ]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)


def generate_guarded(
    model: Any,
    inputs: Mapping[str, Any],
    limits: Sequence[int],
    *,
    prompt_length: int,
    num_beams: int = 1,
    **options: Any,
) -> list[Decoded]:
    """Generate without sampling, each row until it ends, loops or reaches its limit.

    Args:
        model: whatever has transformers' `generate`.
        inputs: of the model, already on its device; `B` rows, padded on the left.
        limits: `B` numbers of new tokens.
        prompt_length: columns at the front of what `generate` returns that are the prompt.
        num_beams: 1 is greedy.
        options: further arguments of `generate`.

    Returns:
        `B` rows.
    """
    # Not inference_mode: the tensors that a sharded model gathers in here are used in training again.
    with quiet_transformers(), torch.no_grad():
        rows = model.generate(
            **inputs,
            do_sample=False,
            num_beams=num_beams,
            max_new_tokens=max(limits),
            stopping_criteria=StoppingCriteriaList([RowGuard(limits)]),
            **options,
        )
    special = list_end_tokens(model) | {options.get("pad_token_id")}
    new = rows[:, prompt_length:].tolist()
    return [finish_row(tokens, limit, special) for tokens, limit in zip(new, limits, strict=True)]


def list_end_tokens(model: Any) -> frozenset[int | None]:
    """The ids that end a row or fill it up; None among them does no harm."""
    configuration = model.generation_config
    ends = configuration.eos_token_id
    return frozenset((*(ends if isinstance(ends, list) else [ends]), configuration.pad_token_id))


def finish_row(tokens: Sequence[int], limit: int, special: frozenset[int | None]) -> Decoded:
    """Cut a row at its end, say how it ended, and leave of a loop only its first round."""
    end = next((place for place, token in enumerate(tokens) if token in special), len(tokens))
    kept = tuple(tokens[: min(end, limit)])
    loop = find_loop(kept, TOKENS)
    if loop is not None:
        return Decoded(tokens=kept[: loop.end_of_first], ending=Ending.LOOP)
    return Decoded(tokens=kept, ending=Ending.LIMIT if len(kept) == limit else Ending.END)
