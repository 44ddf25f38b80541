"""Tokenizers rebuilt from GGUF metadata give the ids of the original."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm_crush.errors import TokenizerError
from glm_crush.tokenizer.gguf_tokenizer import tokenizer_json_from_gguf
from glm_crush.tokenizer.tokenizer import Tokenizer
from tests.tokenizer import small_tokenizers as small

pytestmark = pytest.mark.requirement("M4")
WORDS = st.sampled_from(
    [*" ".join(small.CORPUS[:5]).split(" "), " ", "  ", "\n", "\r\n", "<|im_end|>", "<|user|>", "</s>"]
)
TEXT = st.lists(st.one_of(WORDS, st.text(st.characters(exclude_categories=["Cs"]), max_size=8)), max_size=12).map(
    "".join
)
PRES = ["smollm", "gpt-2", "llama-bpe", "qwen2", "glm4", "chatglm-bpe", "tekken", "gpt-4o", "deepseek-v3", "default"]


def _rebuild(metadata: dict[str, object]) -> Tokenizer:
    return Tokenizer.from_bytes(*tokenizer_json_from_gguf(metadata))


def _pair(definition: dict[str, Any], model: str, pre: str = "default", **extra: object) -> tuple[Tokenizer, Tokenizer]:
    original = Tokenizer.from_bytes(small.as_bytes(definition))
    return original, _rebuild(small.gguf_metadata(definition, model, pre, **extra))


BYTE_LEVEL = {pre: _pair(small.byte_level(pre), "gpt2", pre) for pre in PRES}
GLM = _pair(small.glm(), "gpt2", "glm4")
PIECES = small.sentencepiece()
SENTENCEPIECE = _pair(PIECES, "llama", bos_token_id=1, eos_token_id=2, unknown_token_id=0)
WITH_MERGES = _rebuild(small.gguf_metadata(PIECES, "gemma4", bos_token_id=1, eos_token_id=2, unknown_token_id=0))
WORD_PIECE = _pair(small.word_piece(), "bert", cls_token_id=2, seperator_token_id=3, unknown_token_id=1)
CASED = _pair(small.word_piece(lowercase=False), "bert", cls_token_id=2, seperator_token_id=3)


@pytest.mark.parametrize("pre", PRES)
@given(text=TEXT)
def test_byte_level_ids_are_those_of_the_original(pre: str, text: str) -> None:
    original, rebuilt = BYTE_LEVEL[pre]
    ids = original.encode(text)
    assert rebuilt.encode(text) == ids
    assert rebuilt.decode(ids) == original.decode(ids)


@given(text=TEXT)
def test_glm_ids_are_those_of_the_original(text: str) -> None:
    original, rebuilt = GLM
    ids = original.encode("[gMASK]<sop><|user|>" + text + "<think>")
    assert rebuilt.encode("[gMASK]<sop><|user|>" + text + "<think>") == ids
    assert rebuilt.decode(ids) == original.decode(ids)


@given(text=TEXT)
def test_sentencepiece_ids_from_merges_are_those_from_scores(text: str) -> None:
    assert WITH_MERGES.encode(text) == SENTENCEPIECE[0].encode(text)


@given(text=TEXT)
def test_sentencepiece_ids_are_those_of_the_original(text: str) -> None:
    original, rebuilt = SENTENCEPIECE
    assert rebuilt.encode(text, add_special_tokens=True) == original.encode(text, add_special_tokens=True)


@pytest.mark.parametrize("pair", [WORD_PIECE, CASED], ids=["uncased", "cased"])
@given(text=TEXT)
def test_word_piece_ids_are_those_of_the_original(pair: tuple[Tokenizer, Tokenizer], text: str) -> None:
    original, rebuilt = pair
    ids = original.encode(text, add_special_tokens=True)
    assert rebuilt.encode(text, add_special_tokens=True) == ids
    assert rebuilt.decode(ids) == original.decode(ids)


def test_all_three_glm_tokens_end_a_turn_whatever_the_file_names() -> None:
    definition = small.glm()
    metadata = small.gguf_metadata(definition, "gpt2", "glm4", eos_token_id=400, eot_token_id=404)
    tokenizer = _rebuild(metadata)
    ends = {tokenizer.id_to_token(token_id) for token_id in tokenizer.eos_token_ids}
    assert ends == {"<|endoftext|>", "<|user|>", "<|observation|>"}


def test_end_of_turn_and_end_of_message_ids_are_kept_beside_eos() -> None:
    metadata = small.gguf_metadata(small.byte_level(), "gpt2", "smollm", eos_token_id=0, eot_token_id=2, eom_token_id=7)
    assert _rebuild(metadata).eos_token_ids == (0, 2, 7)


def test_a_bos_token_is_added_only_when_the_file_says_so() -> None:
    definition = small.byte_level()
    plain = _rebuild(small.gguf_metadata(definition, "gpt2", "smollm", bos_token_id=1))
    with_bos = _rebuild(small.gguf_metadata(definition, "gpt2", "smollm", bos_token_id=1, add_bos_token=True))
    assert plain.encode("x", add_special_tokens=True) == plain.encode("x")
    assert with_bos.encode("x", add_special_tokens=True) == [1, *plain.encode("x")]


def test_the_config_names_tokens_and_carries_the_template() -> None:
    metadata = small.gguf_metadata(
        small.byte_level(), "gpt2", "smollm", bos_token_id=1, eos_token_id=2, unknown_token_id=0
    )
    metadata["tokenizer.chat_template"] = "{{ messages }}"
    _, config = tokenizer_json_from_gguf(metadata)
    assert config["bos_token"] == "<|im_start|>"
    assert config["eos_token"] == "<|im_end|>"
    assert config["unk_token"] == "<|endoftext|>"
    assert config["chat_template"] == "{{ messages }}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer.ggml.pre": "martian"}, "pre is 'martian'"),
        ({"tokenizer.ggml.model": "rwkv"}, "model is 'rwkv'"),
        ({"tokenizer.ggml.model": None}, "holds no tokenizer"),
        ({"tokenizer.ggml.tokens": []}, "tokens is empty"),
        ({"tokenizer.ggml.tokens": ["a", 3]}, r"tokens\[1\] is 3"),
        ({"tokenizer.ggml.tokens": ["a", "a"], "tokenizer.ggml.token_type": [1, 1]}, "'a' twice"),
        ({"tokenizer.ggml.token_type": [1]}, "token_type must be a list with one number for each of 420"),
        ({"tokenizer.ggml.merges": None}, "merges is missing"),
        ({"tokenizer.ggml.merges": ["a b c"]}, r"merges\[0\] is 'a b c'"),
        ({"tokenizer.ggml.merges": ["never seen"]}, "not usable"),
        ({"tokenizer.ggml.eos_token_id": 420}, "eos_token_id is 420; the vocabulary has 420"),
        ({"tokenizer.ggml.model": "llama"}, "scores must be a list"),
    ],
)
def test_bad_metadata_is_an_error_that_names_the_key(change: dict[str, object], message: str) -> None:
    metadata = small.gguf_metadata(small.byte_level(), "gpt2", "smollm") | change
    with pytest.raises(TokenizerError, match=message):
        _rebuild(metadata)
