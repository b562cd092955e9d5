"""From a document to tokens, and exactly how many of its bytes are predicted."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from transformers import PreTrainedTokenizerBase

from oblong.errors import DataError

BYTE_TOKEN: Final = re.compile(r"<0x[0-9A-F]{2}>")


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedDocument:
    """A document as tokens.

    Attributes:
        tokens: token ids; the first is context only: the tokenizer's BOS if it adds one by itself, else the
            document's own first token.
        num_bytes: UTF-8 bytes of the predicted text: of all of it after a BOS, else of all but the first token.
    """

    tokens: tuple[int, ...]
    num_bytes: int

    @property
    def num_targets(self) -> int:
        """Tokens that are predicted."""
        return len(self.tokens) - 1


def encode_document(tokenizer: PreTrainedTokenizerBase, text: str, *, number: int) -> EncodedDocument:
    """Tokenise one document. Special tokens that the tokenizer would append (EOS) are left out: no text is in them.

    Args:
        tokenizer: the model's.
        text: the document.
        number: its place in the corpus from 1, for messages.

    Raises:
        DataError: it is empty, or a single token with nothing before it, so that there is nothing to predict.
    """
    tokens = tuple(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    prefix = (tokenizer.bos_token_id,) if tokens and adds_bos(tokenizer) else ()
    if len(prefix) + len(tokens) < 2:
        raise DataError(f"document {number} is too short: there is nothing to predict in {text[:40]!r}; remove it")
    num_bytes = len(text.encode()) - (0 if prefix else count_first_bytes(tokenizer, text))
    return EncodedDocument(tokens=(*prefix, *tokens), num_bytes=num_bytes)


def adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer puts a BOS before a text by itself, as the model then saw in training."""
    ids = tokenizer("a", add_special_tokens=True, verbose=False)["input_ids"]
    return tokenizer.bos_token_id is not None and len(ids) > 1 and ids[0] == tokenizer.bos_token_id


def count_first_bytes(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    """UTF-8 bytes of the text that the first token stands for.

    Where the first two tokens share a character (an emoji cut in two), offsets cannot tell; then the first token is
    counted itself: `<0xF0>` is one byte, and a byte-level token has one character per byte.
    """
    if not tokenizer.is_fast:
        first = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][:1]
        return len(str(tokenizer.decode(first)).encode())
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    (start, end), *rest = encoded["offset_mapping"]
    if not rest or rest[0][0] >= end:
        return len(text[:end].encode())
    token = str(tokenizer.convert_ids_to_tokens(encoded["input_ids"][0]))
    return len(text[:start].encode()) + (1 if BYTE_TOKEN.fullmatch(token) else len(token))
