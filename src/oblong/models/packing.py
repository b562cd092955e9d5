"""Documents become equal blocks of tokens.

Documents are tokenised as the tokenizer prepares a text, an end-of-text token is put after each, and the stream is cut
into blocks; what is left at its end is dropped. A block may hold the end of one document and the start of the next, and
attention crosses that border, as is usual in continued pre-training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from transformers import PreTrainedTokenizerBase

from oblong.errors import DataError


def pack_documents(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, sequence_length: int, *, source: str
) -> torch.Tensor:
    """Tokenise and cut into blocks.

    Args:
        texts: documents in order.
        tokenizer: must have an end-of-text token.
        sequence_length: tokens per block.
        source: where the text came from, for messages.

    Returns:
        Token ids, num_blocks x sequence_length, int64; num_blocks >= 1.

    Raises:
        DataError: the tokenizer has no end-of-text token, or the text does not fill one block.
    """
    stream = [token for text in texts for token in _tokenise(text, tokenizer)]
    num_blocks = len(stream) // sequence_length
    if num_blocks == 0:
        raise DataError(
            f"{source}: {len(stream)} tokens do not fill one block of {sequence_length}: "
            "give more text or a smaller sequence_length"
        )
    return torch.tensor(stream[: num_blocks * sequence_length]).reshape(num_blocks, sequence_length)


def _tokenise(text: str, tokenizer: PreTrainedTokenizerBase) -> Iterator[int]:
    end = tokenizer.eos_token_id
    if not isinstance(end, int):
        raise DataError("the model's tokenizer has no end-of-text token to put between documents")
    # verbose=False: a document longer than the model's context is normal here, it will be cut into blocks.
    tokens: list[int] = tokenizer(text, verbose=False)["input_ids"]
    yield from tokens
    if not tokens or tokens[-1] != end:
        yield end
