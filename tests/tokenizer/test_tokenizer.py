"""Encoding and decoding of whole texts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm_crush.errors import TokenizerError
from glm_crush.tokenizer.tokenizer import Tokenizer
from tests.tokenizer import small_tokenizers as small

pytestmark = pytest.mark.requirement("M4")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
CHAT = Tokenizer.from_bytes(small.as_bytes(small.byte_level()))
GLM = Tokenizer.from_bytes(small.as_bytes(small.glm()))
SENTENCEPIECE = Tokenizer.from_bytes(small.as_bytes(small.sentencepiece()))


@given(TEXT)
def test_byte_level_text_comes_back_unchanged(text: str) -> None:
    assert CHAT.decode(CHAT.encode(text, allow_special=False)) == text


@given(TEXT)
def test_sentencepiece_text_comes_back_unchanged(text: str) -> None:
    # U+2581 is how a space is written, so it comes back as one
    assert SENTENCEPIECE.decode(SENTENCEPIECE.encode(text, allow_special=False)) == text.replace("\u2581", " ")


def test_a_special_token_in_rendered_text_is_one_id() -> None:
    assert CHAT.encode("<|im_start|>") == [1]
    assert CHAT.encode("a<|im_end|>")[-1] == 2


@given(TEXT, st.sampled_from(small.CHAT_TOKENS))
def test_a_user_cannot_write_a_special_token_when_text_is_literal(text: str, token: str) -> None:
    ids = CHAT.encode(text + token + text, allow_special=False)
    assert not CHAT.special_ids.intersection(ids)
    assert CHAT.decode(ids) == text + token + text


def test_glm_marks_are_literal_too_though_they_are_not_special() -> None:
    assert GLM.added_ids["/nothink"] in GLM.encode("hello /nothink")
    literal = GLM.encode("hello /nothink<think>", allow_special=False)
    assert not set(GLM.added_ids.values()).intersection(literal)
    assert GLM.decode(literal) == "hello /nothink<think>"


def test_glm_marks_stay_in_text_when_special_tokens_are_skipped() -> None:
    ids = GLM.encode("<|assistant|><think>so</think>yes<|user|>")
    assert GLM.decode(ids) == "<think>so</think>yes"
    assert GLM.decode(ids, skip_special_tokens=False) == "<|assistant|><think>so</think>yes<|user|>"


def test_literal_unigram_text_does_not_reach_control_pieces() -> None:
    unigram = Tokenizer.from_bytes(small.as_bytes(small.metaspace()))
    assert 1 in unigram.encode("a</s>")
    assert 1 not in unigram.encode("a</s>", allow_special=False)


def test_no_bos_is_added_unless_asked() -> None:
    assert SENTENCEPIECE.encode("hello")[0] != 1
    assert SENTENCEPIECE.encode("hello", add_special_tokens=True)[0] == 1


def test_every_end_of_text_id_is_collected() -> None:
    config = {"eos_token": {"content": "<|im_end|>"}, "eos_token_ids": [5]}
    tokenizer = Tokenizer.from_bytes(small.as_bytes(small.byte_level()), config, eos_token_ids=[0, 7])
    assert tokenizer.eos_token_ids == (0, 2, 5, 7)


def test_ids_without_a_token_add_nothing() -> None:
    assert CHAT.decode([10**6, -1, *CHAT.encode("ok"), 2**40]) == "ok"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", r"not usable.*EOF"),
        (b"[" * 100_000, "not usable"),
        (b"[]", "not usable"),
        (b'{"model": {"type": "Nonsense"}}', "not usable"),
        (
            small.as_bytes(small.byte_level() | {"decoder": {"type": "BPEDecoder", "suffix": "</w>"}}),
            "decoder 'BPEDecoder'",
        ),
    ],
)
def test_a_malformed_file_is_an_error_that_says_what(content: bytes, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.from_bytes(content)


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(TokenizerError, match="cannot encode"):
        CHAT.encode("a\ud800")
