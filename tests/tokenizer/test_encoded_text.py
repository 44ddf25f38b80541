"""Texts and pairs as encoders read them: special tokens, segments, and what is cut where."""

from __future__ import annotations

import json

import pytest

from glm_crush.tokenizer.encoded_text import EncodedText
from glm_crush.tokenizer.tokenizer import Tokenizer
from tests.models.tiny_encoder import unigram_tokenizer, word_piece_tokenizer

pytestmark = pytest.mark.requirement("M4")

# [CLS] 2, [SEP] 3; the 93, cat 94, sat 95, on 96, is 103, what 104
WORD_PIECE = Tokenizer.from_bytes(json.dumps(word_piece_tokenizer()).encode())
# <s> 0, </s> 2, unknown 3; the mark of a space 4
UNIGRAM = Tokenizer.from_bytes(json.dumps(unigram_tokenizer()).encode())


def test_word_pieces_stand_between_cls_and_sep_and_are_read_back() -> None:
    encoded = WORD_PIECE.encode_whole("The cat SAT, raining 中文")
    assert encoded.token_ids == [2, 93, 94, 95, 42, 100, 101, 46, 47, 3]
    assert encoded.token_types is None
    assert WORD_PIECE.decode(encoded.token_ids) == "the cat sat, raining 中 文"


def test_unigrams_stand_between_their_own_marks() -> None:
    encoded = UNIGRAM.encode_whole("the cat")
    assert encoded == EncodedText([0, 49, 50, 2])
    assert UNIGRAM.decode(encoded.token_ids) == "the cat"
    assert UNIGRAM.encode_whole("the", "cat").token_ids == [0, 49, 2, 2, 50, 2]


def test_the_second_of_a_pair_is_the_second_segment() -> None:
    encoded = WORD_PIECE.encode_whole("what", "the cat")
    assert encoded == EncodedText([2, 104, 3, 93, 94, 3], [0, 0, 0, 1, 1, 1])


def test_a_text_is_cut_at_its_end_and_keeps_its_last_special_token() -> None:
    assert WORD_PIECE.encode_whole("the cat sat", max_length=4) == EncodedText([2, 93, 94, 3], num_cut=1)


def test_of_a_pair_the_second_is_cut() -> None:
    encoded = WORD_PIECE.encode_whole("what", "the cat sat on the mat", max_length=9)
    assert encoded == EncodedText([2, 104, 3, 93, 94, 95, 96, 93, 3], [0, 0, 0, 1, 1, 1, 1, 1, 1], num_cut=1)


def test_the_first_is_cut_too_where_it_would_leave_no_room() -> None:
    encoded = WORD_PIECE.encode_whole("what is the cat", "the", max_length=6)
    assert encoded == EncodedText([2, 104, 103, 3, 93, 3], [0, 0, 0, 0, 1, 1], num_cut=2)
    both = WORD_PIECE.encode_whole("what is the cat", "the cat sat on", max_length=7)
    assert both == EncodedText([2, 104, 103, 3, 93, 94, 3], [0, 0, 0, 0, 1, 1, 1], num_cut=4)


def test_the_second_may_have_a_limit_of_its_own() -> None:
    encoded = WORD_PIECE.encode_whole("what", "the cat sat", second_length=1)
    assert encoded == EncodedText([2, 104, 3, 93, 3], [0, 0, 0, 1, 1], num_cut=2)
