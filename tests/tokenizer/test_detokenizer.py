"""Text that comes out token by token."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm_crush.tokenizer.detokenizer import IncrementalDetokenizer
from glm_crush.tokenizer.tokenizer import Tokenizer
from tests.tokenizer import small_tokenizers as small

pytestmark = pytest.mark.requirement("M4")
DEFINITIONS = {
    "byte-level": small.byte_level(),
    "glm": small.glm(),
    "sentencepiece": small.sentencepiece(),
    "wordpiece": small.word_piece(),
    "metaspace": small.metaspace(),
}
TOKENIZERS = {name: Tokenizer.from_bytes(small.as_bytes(definition)) for name, definition in DEFINITIONS.items()}
LIBRARIES = {name: small.library_of(definition) for name, definition in DEFINITIONS.items()}
EVERY_KIND = pytest.mark.parametrize("kind", sorted(DEFINITIONS))
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
IDS = st.lists(st.integers(0, 450), max_size=40)


def _stream(tokenizer: Tokenizer, ids: list[int], *, skip: bool = True) -> list[str]:
    detokenizer = IncrementalDetokenizer(tokenizer, skip_special_tokens=skip)
    return [*(detokenizer.add(token_id) for token_id in ids), detokenizer.finish()]


@EVERY_KIND
@given(ids=IDS, skip=st.booleans())
def test_the_pieces_are_the_full_decode_for_any_ids(kind: str, ids: list[int], skip: bool) -> None:
    tokenizer = TOKENIZERS[kind]
    assert "".join(_stream(tokenizer, ids, skip=skip)) == tokenizer.decode(ids, skip_special_tokens=skip)


@EVERY_KIND
@given(ids=IDS, cut=st.integers(0, 40))
def test_where_the_stream_is_cut_does_not_matter(kind: str, ids: list[int], cut: int) -> None:
    tokenizer = TOKENIZERS[kind]
    detokenizer = IncrementalDetokenizer(tokenizer)
    text = detokenizer.add_all(ids[:cut]) + detokenizer.add_all(ids[cut:]) + detokenizer.finish()
    assert text == tokenizer.decode(ids)


@EVERY_KIND
@given(text=TEXT)
def test_decoding_text_agrees_with_the_library(kind: str, text: str) -> None:
    ids = TOKENIZERS[kind].encode(text)
    assert TOKENIZERS[kind].decode(ids) == LIBRARIES[kind].decode(ids)


@pytest.mark.parametrize("kind", ["byte-level", "glm", "wordpiece", "metaspace"])
@given(ids=IDS, skip=st.booleans())
def test_decoding_any_ids_agrees_with_the_library(kind: str, ids: list[int], skip: bool) -> None:
    assert TOKENIZERS[kind].decode(ids, skip_special_tokens=skip) == LIBRARIES[kind].decode(
        ids, skip_special_tokens=skip
    )


@EVERY_KIND
@given(text=TEXT)
def test_half_a_character_is_never_shown(kind: str, text: str) -> None:
    tokenizer = TOKENIZERS[kind]
    ids = tokenizer.encode(text)
    whole = tokenizer.decode(ids)
    shown = ""
    for piece in _stream(tokenizer, ids):
        shown += piece
        assert whole.startswith(shown)


def test_an_emoji_of_byte_tokens_appears_with_its_last_byte() -> None:
    tokenizer = TOKENIZERS["sentencepiece"]
    ids = [tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in "🙈".encode()]
    assert _stream(tokenizer, ids) == ["", "", "", "🙈", ""]


def test_an_unfinished_character_is_flushed_as_one_replacement() -> None:
    tokenizer = TOKENIZERS["sentencepiece"]
    ids = [tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in "🙈".encode()[:3]]
    assert _stream(tokenizer, ids) == ["", "", "", "\ufffd"]


def test_only_the_first_space_of_a_sentencepiece_text_is_dropped() -> None:
    tokenizer = TOKENIZERS["sentencepiece"]
    space = tokenizer.token_to_id("\u2581")
    assert _stream(tokenizer, [space, space, space]) == ["", " ", " ", ""]


def test_a_long_run_without_a_character_costs_no_more_per_token() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    detokenizer = IncrementalDetokenizer(tokenizer)
    lone = tokenizer.token_to_id("\u0122")  # the byte 0x80, never the start of a character
    assert detokenizer.add_all([lone] * 50_000) == "\ufffd" * 50_000


@EVERY_KIND
@given(reply=IDS, skip=st.booleans())
def test_a_reply_is_what_it_adds_to_the_decoded_prompt(kind: str, reply: list[int], skip: bool) -> None:
    tokenizer = TOKENIZERS[kind]
    prompt = tokenizer.encode("hello there", add_special_tokens=True)
    detokenizer = IncrementalDetokenizer(tokenizer, skip_special_tokens=skip, continues=prompt)
    text = detokenizer.add_all(reply) + detokenizer.finish()
    whole = tokenizer.decode([*prompt, *reply], skip_special_tokens=skip)
    assert tokenizer.decode(prompt, skip_special_tokens=skip) + text == whole


def test_a_sentencepiece_reply_keeps_its_first_space_unless_the_prompt_has_no_text() -> None:
    tokenizer = TOKENIZERS["sentencepiece"]
    the = tokenizer.encode("the")
    assert tokenizer.id_to_token(the[0]).startswith("\u2581")
    after_text = IncrementalDetokenizer(tokenizer, continues=tokenizer.encode("see", add_special_tokens=True))
    after_bos = IncrementalDetokenizer(tokenizer, continues=[tokenizer.token_to_id("<s>")])
    assert (after_text.add_all(the), after_bos.add_all(the)) == (" the", "the")


def test_a_byte_level_reply_does_not_depend_on_what_it_continues() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    reply = tokenizer.encode(" the fox")
    half = tokenizer.token_to_id("\u00f0")  # the first byte of an emoji, at the end of a prompt of ids
    assert IncrementalDetokenizer(tokenizer).add_all(reply) == " the fox"
    assert IncrementalDetokenizer(tokenizer, continues=[half]).add_all(reply) == " the fox"
