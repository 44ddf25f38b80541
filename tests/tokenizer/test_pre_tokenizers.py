"""How each vocabulary cuts text into words; the pieces are written out by hand."""

from __future__ import annotations

import pytest

from glm_crush.errors import TokenizerError
from glm_crush.tokenizer.pre_tokenizers import pre_tokenizer

pytestmark = pytest.mark.requirement("M4")
TEXT = "It's o'CLOCK'S  12345 été/¿qué?\r\n\n x²中文"
CL100K = ["It", "'s", " o", "'CLOCK", "'S", " ", " ", "123", "45", " été", "/¿", "qué", "?\r\n\n", " x", "²", "中文"]
GPT2 = ["It", "'s", " o", "'", "CLOCK", "'", "S", " ", " 12345", " été", "/¿", "qué", "?", "\r\n\n", " x", "²", "中文"]
DIGITS = [*GPT2[:7], "  ", *"12345", *GPT2[9:]]
QWEN2 = [*CL100K[:7], *"12345", *CL100K[9:]]
CASED = ["It's", " o", "'CLOCK'S", " ", " ", "123", "45", " été", "/¿", "qué", "?\r\n\n", " x", "²", "中文"]
TEKKEN = ["It", "'s", " o", "'CLOCK", "'S", " ", " ", *"12345", *CL100K[9:]]
DEEPSEEK = ["It", "'s", " o", "'CLOCK", "'S", "  ", *CL100K[7:]]


@pytest.mark.parametrize(
    ("name", "pieces"),
    [
        ("glm4", CL100K),
        ("chatglm-bpe", CL100K),
        ("llama-bpe", CL100K),
        ("qwen2", QWEN2),
        ("gpt-2", GPT2),
        ("smollm", DIGITS),
        ("starcoder", DIGITS),
        ("gpt-4o", CASED),
        ("tekken", TEKKEN),
        ("deepseek-v3", DEEPSEEK),
    ],
)
def test_text_is_cut_as_the_original_cuts_it(name: str, pieces: list[str]) -> None:
    cut = pre_tokenizer(name).to_library().pre_tokenize_str(TEXT)
    assert [TEXT[start:end] for _, (start, end) in cut] == pieces


def test_only_some_vocabularies_take_a_known_word_whole() -> None:
    names = ("glm4", "chatglm-bpe", "llama-bpe", "qwen2", "smollm")
    assert [name for name in names if pre_tokenizer(name).ignore_merges] == ["glm4", "llama-bpe"]


def test_an_unknown_name_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(TokenizerError, match=r"pre is 'martian'.*glm4.*smollm"):
        pre_tokenizer("martian")
