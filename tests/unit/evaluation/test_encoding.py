from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import ByteLevel, WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from oblong.errors import DataError
from oblong.evaluation.encoding import adds_bos, encode_document
from tests.tuning_builders import make_tokenizer


def wrap(tokenizer: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    wrapper: Any = PreTrainedTokenizerFast  # its constructor has no annotations
    wrapped: PreTrainedTokenizerFast = wrapper(tokenizer_object=tokenizer, **special)
    return wrapped


def make_bos_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, with BOS before and EOS after a text."""
    alphabet = sorted(ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<s>", "</s>"])
    ids = [("<s>", tokenizer.token_to_id("<s>")), ("</s>", tokenizer.token_to_id("</s>"))]
    tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=ids)
    return wrap(tokenizer, bos_token="<s>", eos_token="</s>")


def make_word_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(WordLevel({"über": 0, "alles": 1, "[UNK]": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([WhitespaceSplit()])
    return wrap(tokenizer, unk_token="[UNK]")


def test_without_bos_the_first_token_is_context_only() -> None:
    encoded = encode_document(make_tokenizer(), "abc", number=1)
    assert (len(encoded.tokens), encoded.num_targets, encoded.num_bytes) == (3, 2, 2)


def test_with_bos_the_whole_text_is_predicted_and_no_eos() -> None:
    tokenizer = make_bos_tokenizer()
    encoded = encode_document(tokenizer, "abc", number=1)
    assert encoded.tokens[0] == tokenizer.bos_token_id
    assert tokenizer.eos_token_id not in encoded.tokens
    assert (encoded.num_targets, encoded.num_bytes) == (3, 3)
    assert adds_bos(tokenizer)
    assert not adds_bos(make_tokenizer())


@pytest.mark.parametrize("text", ["ä rest", "😀 rest", "日本", "plain", " leading"])
def test_a_character_cut_in_two_is_counted_by_its_bytes(text: str) -> None:
    # One token per byte: predicted bytes and predicted tokens are the same number.
    encoded = encode_document(make_tokenizer(), text, number=1)
    assert encoded.num_bytes == encoded.num_targets == len(text.encode()) - 1


def test_first_tokens_of_several_bytes_are_taken_off_whole() -> None:
    encoded = encode_document(make_word_tokenizer(), "über alles", number=1)
    assert (encoded.num_targets, encoded.num_bytes) == (1, len(" alles"))


def test_byte_fallback_tokens_are_one_byte() -> None:
    vocabulary = {f"<0x{value:02X}>": value for value in range(256)}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    encoded = encode_document(wrap(tokenizer), "éa", number=1)
    assert encoded.num_bytes == encoded.num_targets == 2


@pytest.mark.parametrize("text", ["", "a"])
def test_a_document_with_nothing_to_predict_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="document 4 is too short"):
        encode_document(make_tokenizer(), text, number=4)


def test_a_single_token_after_bos_can_be_predicted() -> None:
    assert encode_document(make_bos_tokenizer(), "a", number=1).num_targets == 1
    with pytest.raises(DataError, match="document 1 is too short"):
        encode_document(make_bos_tokenizer(), "", number=1)
