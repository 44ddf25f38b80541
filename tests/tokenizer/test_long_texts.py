"""Long texts take another call of the library: the same tokens, and other threads go on meanwhile."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm_crush.errors import TokenizerError
from glm_crush.tokenizer.tokenizer import Tokenizer
from tests.tokenizer import small_tokenizers as small
from tests.tokenizer.test_detokenizer import EVERY_KIND, LIBRARIES, TOKENIZERS

pytestmark = pytest.mark.requirement("M4")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@EVERY_KIND
@given(text=TEXT, special=st.booleans())
def test_a_long_text_has_the_tokens_that_the_library_gives_it(kind: str, text: str, special: bool) -> None:
    text = text + "the quick brown fox <|im_end|> " * 100
    expected = LIBRARIES[kind].encode(text, add_special_tokens=special).ids
    assert TOKENIZERS[kind].encode(text, add_special_tokens=special) == expected


@EVERY_KIND
def test_a_long_text_of_an_encoder_is_cut_where_it_was_to_be(kind: str) -> None:
    long = TOKENIZERS[kind].encode_whole("the fox " * 1000, "the dog " * 1000, max_length=20)
    assert len(long.token_ids) == 20
    assert long.num_cut > 1000


def test_half_of_a_pair_of_code_units_is_refused_in_a_long_text_too() -> None:
    with pytest.raises(TokenizerError, match="cannot encode text of 3001 characters"):
        TOKENIZERS["byte-level"].encode("a" * 3000 + "\ud800")


def test_other_threads_go_on_while_a_long_text_is_encoded() -> None:
    tokenizer = Tokenizer.from_bytes(small.as_bytes(small.byte_level()))
    begins, ended = threading.Event(), threading.Event()

    def encode() -> None:
        begins.set()
        tokenizer.encode("The quick brown fox jumps over the lazy dog. " * 20_000)
        ended.set()

    thread = threading.Thread(target=encode)
    thread.start()
    begins.wait()
    turns = 0
    while not ended.is_set():
        time.sleep(0)  # lets go of the interpreter, and wants it back
        turns += 1
    thread.join()
    assert turns > 200
