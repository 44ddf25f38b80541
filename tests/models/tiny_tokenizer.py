"""The tokenizer of the tiny checkpoints: byte-level BPE with four special tokens and a handful of merges."""

from __future__ import annotations

from typing import Any

__all__ = ["CHAT_TEMPLATE", "SPECIAL_TOKENS", "VOCAB_SIZE", "tokenizer_json"]

SPECIAL_TOKENS = ("<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>")
MERGES = ("Ġ t", "h e", "Ġt he", "i n", "e r", "o u", "l o", "Ġ a", "a n")
VOCAB_SIZE = len(SPECIAL_TOKENS) + 256 + len(MERGES)  # 269

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def _byte_letters() -> list[str]:
    """GPT-2's printable letter for each byte, in byte order."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    letters, others = [], 0
    for byte in range(256):
        if byte in printable:
            letters.append(chr(byte))
        else:
            letters.append(chr(256 + others))
            others += 1
    return letters


def tokenizer_json() -> dict[str, Any]:
    """tokenizer.json as an object: ids 0..3 special, 4..259 the bytes, 260..268 merges."""
    tokens = [*SPECIAL_TOKENS, *_byte_letters(), *(merge.replace(" ", "") for merge in MERGES)]
    assert len(set(tokens)) == VOCAB_SIZE
    special = [
        {
            "id": index,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for index, token in enumerate(SPECIAL_TOKENS)
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": list(MERGES),
        },
    }
