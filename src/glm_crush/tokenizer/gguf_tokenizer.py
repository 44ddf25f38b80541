"""A tokenizer.json out of GGUF metadata, giving the ids of the original.

Below it: the table of pre-tokenizers and the SentencePiece rebuild. Above it: the model loader. It reads the keys
`tokenizer.ggml.*` and `tokenizer.chat_template`, and knows nothing of the file they came from.

GGUF keeps the vocabulary in these forms: `gpt2` (byte-level BPE with merges), `llama` (SentencePiece BPE with scores
and no merges; `gemma4` is the same with merges), `bert` (WordPiece with U+2581 where a word starts). Everything else of
tokenizer.json is implied by names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from glm_crush.errors import TokenizerError
from glm_crush.tokenizer.gguf_vocabulary import GgufVocabulary, TokenType
from glm_crush.tokenizer.pre_tokenizers import pre_tokenizer
from glm_crush.tokenizer.sentencepiece_merges import merges_from_scores

__all__ = ["tokenizer_json_from_gguf"]

_SPACE_MARK = "\u2581"
_GLM_TURN_ENDS = ("<|endoftext|>", "<|user|>", "<|observation|>")


def tokenizer_json_from_gguf(metadata: Mapping[str, object]) -> tuple[bytes, dict[str, Any]]:
    """Build tokenizer.json and tokenizer_config.json.

    Args:
        metadata: GGUF keys with plain Python values (lists of str, int or float).

    Returns:
        The bytes of tokenizer.json, and the config: bos_token, eos_token, unk_token, pad_token as text, eos_token_ids
        (every id that ends a turn), add_bos_token, chat_template.

    Raises:
        TokenizerError: a key is missing, malformed or names something unknown.
    """
    vocabulary = GgufVocabulary.read(metadata)
    if vocabulary.model == "gpt2":
        definition = _byte_level_bpe(vocabulary)
    elif vocabulary.model in ("llama", "gemma4"):
        definition = _sentencepiece_bpe(vocabulary)
    elif vocabulary.model == "bert":
        definition = _word_piece(vocabulary)
    else:
        raise TokenizerError(
            f"tokenizer.ggml.model is {vocabulary.model!r}; gpt2, llama, gemma4 and bert are supported. "
            "Use the model's original tokenizer.json"
        )
    definition = {"version": "1.0", "truncation": None, "padding": None, **definition}
    return json.dumps(definition, ensure_ascii=False).encode(), _config(vocabulary, metadata)


def _byte_level_bpe(vocabulary: GgufVocabulary) -> dict[str, Any]:
    pre = pre_tokenizer(vocabulary.pre)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "added_tokens": _added_tokens(vocabulary),
        "normalizer": {"type": "NFC"} if pre.nfc else None,
        "pre_tokenizer": pre.to_json(),
        "post_processor": _bos_eos_template(vocabulary, add_bos=vocabulary.pre in ("llama3", "llama-v3", "llama-bpe")),
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": pre.ignore_merges,
            "vocab": vocabulary.token_ids(),
            "merges": vocabulary.merges(),
        },
    }


def _sentencepiece_bpe(vocabulary: GgufVocabulary) -> dict[str, Any]:
    prefix = vocabulary.flag("add_space_prefix", default=True)
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE_MARK}
    normalizers = [{"type": "Prepend", "prepend": _SPACE_MARK}, replace] if prefix else [replace]
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": _SPACE_MARK}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    token_ids = vocabulary.token_ids()
    unknown = vocabulary.special_id("unknown", default=vocabulary.first_of_type(TokenType.UNKNOWN))
    skipped = vocabulary.texts_of_type(TokenType.CONTROL, TokenType.UNKNOWN, TokenType.BYTE, TokenType.UNUSED)
    return {
        "added_tokens": _added_tokens(vocabulary),
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": None,
        "post_processor": _bos_eos_template(vocabulary, add_bos=True),
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None if unknown is None else vocabulary.tokens[unknown],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": token_ids,
            "merges": vocabulary.merges()
            if vocabulary.model == "gemma4"
            else merges_from_scores(token_ids, vocabulary.scores(), skipped),
        },
    }


def _word_piece(vocabulary: GgufVocabulary) -> dict[str, Any]:
    tokens = [_word_piece_token(token, kind) for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True)]
    unknown = vocabulary.special_id("unknown", default=tokens.index("[UNK]") if "[UNK]" in tokens else None)
    # the file may not say whether text is lower-cased; a vocabulary without any capital has no other use
    words = vocabulary.texts_of_type(TokenType.NORMAL)
    lowercase = vocabulary.flag("normalizer.lowercase", default=not any("A" <= c <= "Z" for w in words for c in w))
    return {
        "added_tokens": _added_tokens(vocabulary),
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": vocabulary.flag("normalizer.strip_accents", default=lowercase),
            "lowercase": lowercase,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": _bert_template(vocabulary),
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]" if unknown is None else tokens[unknown],
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {token: token_id for token_id, token in enumerate(tokens)},
        },
    }


def _word_piece_token(token: str, kind: int) -> str:
    if kind in (TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNKNOWN):
        return token
    return token[1:] if token.startswith(_SPACE_MARK) else "##" + token


def _added_tokens(vocabulary: GgufVocabulary) -> list[dict[str, Any]]:
    return [
        {
            "id": token_id,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind != TokenType.USER_DEFINED,
        }
        for token_id, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True))
        if kind in (TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNKNOWN) and token
    ]


def _bos_eos_template(vocabulary: GgufVocabulary, *, add_bos: bool) -> dict[str, Any] | None:
    bos, eos = vocabulary.special_id("bos"), vocabulary.special_id("eos")
    before = [bos] if bos is not None and vocabulary.flag("add_bos_token", default=add_bos) else []
    after = [eos] if eos is not None and vocabulary.flag("add_eos_token", default=False) else []
    return _template(vocabulary, before, after, after) if before or after else None


def _bert_template(vocabulary: GgufVocabulary) -> dict[str, Any] | None:
    cls, sep = vocabulary.special_id("cls"), vocabulary.special_id("seperator")  # sic: the key is spelled so
    cls = vocabulary.special_id("bos") if cls is None else cls
    sep = vocabulary.special_id("eos") if sep is None else sep
    return None if cls is None or sep is None else _template(vocabulary, [cls], [sep], [sep])


def _template(
    vocabulary: GgufVocabulary, before: list[int], after: list[int], after_second: list[int]
) -> dict[str, Any]:
    def special(token_ids: list[int], type_id: int) -> list[dict[str, Any]]:
        return [{"SpecialToken": {"id": vocabulary.tokens[i], "type_id": type_id}} for i in token_ids]

    first = [*special(before, 0), {"Sequence": {"id": "A", "type_id": 0}}, *special(after, 0)]
    second = [{"Sequence": {"id": "B", "type_id": 1}}, *special(after_second, 1)]
    used = {vocabulary.tokens[i]: i for i in (*before, *after, *after_second)}
    return {
        "type": "TemplateProcessing",
        "single": first,
        "pair": [*first, *second],
        "special_tokens": {token: {"id": token, "ids": [i], "tokens": [token]} for token, i in used.items()},
    }


def _config(vocabulary: GgufVocabulary, metadata: Mapping[str, object]) -> dict[str, Any]:
    ends = {vocabulary.special_id(name) for name in ("eos", "eot", "eom")} - {None}
    if vocabulary.pre in ("glm4", "glm5", "chatglm-bpe"):
        # three tokens end a GLM turn, and files name one or two of them; missing one runs on into a made-up user turn
        ends |= {i for i, token in enumerate(vocabulary.tokens) if token in _GLM_TURN_ENDS}
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "eos_token_ids": sorted(i for i in ends if i is not None),
    }
    names = {
        "bos": "bos",
        "eos": "eos",
        "unknown": "unk",
        "padding": "pad",
        "cls": "cls",
        "seperator": "sep",
        "mask": "mask",
    }
    for gguf_name, name in names.items():
        token_id = vocabulary.special_id(gguf_name)
        if token_id is not None:
            config[f"{name}_token"] = vocabulary.tokens[token_id]
    if "tokenizer.ggml.add_bos_token" in metadata:
        config["add_bos_token"] = vocabulary.flag("add_bos_token", default=False)
    template = metadata.get("tokenizer.chat_template")
    if isinstance(template, str):
        config["chat_template"] = template
    return config
