"""New vocabularies."""

from __future__ import annotations

import pytest

from glm_crush.errors import TokenizerError
from glm_crush.tokenizer.tokenizer import Tokenizer
from glm_crush.tokenizer.training import train_byte_level_bpe
from tests.tokenizer import small_tokenizers as small

pytestmark = pytest.mark.requirement("M4")


def test_special_tokens_take_the_first_ids_and_words_of_the_corpus_become_tokens() -> None:
    tokenizer = Tokenizer.from_bytes(
        train_byte_level_bpe(["hello hello hello world"] * 9, 300, special_tokens=["<s>", "</s>"])
    )
    assert tokenizer.encode("<s></s>") == [0, 1]
    assert len(tokenizer.encode("hello hello")) == 2
    assert tokenizer.special_ids == {0, 1}


def test_text_never_seen_in_training_is_still_encoded() -> None:
    tokenizer = Tokenizer.from_bytes(train_byte_level_bpe(["only latin"], 260))
    assert tokenizer.decode(tokenizer.encode("中文 ✓")) == "中文 ✓"


def test_training_twice_gives_the_same_file() -> None:
    assert train_byte_level_bpe(small.CORPUS, 400) == train_byte_level_bpe(small.CORPUS, 400)


def test_a_vocabulary_too_small_for_all_bytes_is_refused() -> None:
    with pytest.raises(TokenizerError, match="vocab_size is 256; 256 bytes and 1 special tokens need 257"):
        train_byte_level_bpe(["x"], 256, special_tokens=["<s>"])
