"""Log-probabilities in OpenAI's two shapes, for tokens that are whole characters and for those that are not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm_crush.serving.openai.logprobs import CompletionLogprobs, chat_logprobs, token_text
from glm_crush.types import TokenLogprobs
from tests.serving.scripted import ByteCodec

pytestmark = pytest.mark.requirement("S1")
EURO = list("€".encode())  # e2 82 ac: three tokens of one byte


class WordCodec(ByteCodec):
    """As `ByteCodec`; 300 is another token with the text "A"."""

    def token_bytes(self, token_id: int) -> bytes:
        return b"A" if token_id == 300 else super().token_bytes(token_id)


def scored(token_id: int, *top: tuple[int, float], logprob: float = -1.0) -> TokenLogprobs:
    return TokenLogprobs(token_id, logprob, top)


def test_the_chosen_token_is_always_among_the_alternatives() -> None:
    reply = CompletionLogprobs(ByteCodec()).encode([scored(65, (66, -0.1)), scored(66, (66, -1.0)), scored(67)])
    assert reply is not None
    assert reply["top_logprobs"] == [{"B": -0.1, "A": -1.0}, {"B": -1.0}, {"C": -1.0}]


def test_parts_of_characters_have_keys_of_their_own() -> None:
    tops = [(EURO[0], -1.0), (EURO[1], -2.0), (0xFF, -3.0)]
    reply = CompletionLogprobs(ByteCodec()).encode([scored(EURO[0], *tops)])
    assert reply is not None
    assert reply["tokens"] == ["bytes:\\xe2"]
    assert reply["top_logprobs"] == [{"bytes:\\xe2": -1.0, "bytes:\\x82": -2.0, "bytes:\\xff": -3.0}]


@given(st.binary(max_size=6), st.binary(max_size=6))
def test_two_tokens_of_different_bytes_never_have_the_same_text(one: bytes, other: bytes) -> None:
    assert one == other or token_text(one) != token_text(other)


def test_of_two_tokens_with_the_same_text_the_likelier_or_the_chosen_one_counts() -> None:
    likelier = CompletionLogprobs(WordCodec()).encode([scored(66, (65, -0.5), (300, -4.0))])
    chosen = CompletionLogprobs(WordCodec()).encode([scored(300, (65, -0.5), logprob=-4.0)])
    assert likelier is not None
    assert chosen is not None
    assert likelier["top_logprobs"] == [{"A": -0.5, "B": -1.0}]
    assert chosen["top_logprobs"] == [{"A": -4.0}]


def test_offsets_count_characters_of_the_text_whole_or_in_parts() -> None:
    tokens = [scored(token_id) for token_id in (65, *EURO, 66)]
    whole = CompletionLogprobs(ByteCodec()).encode(tokens)
    assert whole is not None
    assert whole["text_offset"] == [0, 1, 1, 1, 2]
    in_parts = CompletionLogprobs(ByteCodec())
    assert [in_parts.encode([token])["text_offset"] for token in tokens] == [[0], [1], [1], [1], [2]]  # type: ignore[index]


def test_an_echoed_prompt_has_no_probability_for_its_first_token() -> None:
    writer = CompletionLogprobs(ByteCodec())
    assert writer.encode([scored(66)], prompt=([97, 98], [None, scored(98)])) == {
        "tokens": ["a", "b", "B"],
        "token_logprobs": [None, -1.0, -1.0],
        "top_logprobs": [None, {"b": -1.0}, {"B": -1.0}],
        "text_offset": [0, 1, 2],
    }
    assert CompletionLogprobs(ByteCodec()).encode(None) is None


def test_a_chat_entry_of_a_part_of_a_character_tells_its_bytes() -> None:
    reply = chat_logprobs([scored(EURO[0], (EURO[1], float("-inf")))], ByteCodec())
    assert reply is not None
    assert reply["content"] == [
        {
            "token": "\\xe2",
            "logprob": -1.0,
            "bytes": [0xE2],
            "top_logprobs": [{"token": "\\x82", "logprob": -9999.0, "bytes": [0x82]}],
        }
    ]
