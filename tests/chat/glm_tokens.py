"""A tiny tokenizer with GLM's special tokens and tags: bytes, a few merges, and the tags as single tokens."""

from __future__ import annotations

import json
from typing import Any

from glm_crush.tokenizer.tokenizer import Tokenizer
from tests.models.tiny_tokenizer import tokenizer_json

__all__ = ["GLM_VOCAB_SIZE", "TAGS", "glm_tokenizer", "glm_tokenizer_json"]

SPECIAL = ("[gMASK]", "<sop>", "<|observation|>")
TAGS = (
    *("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"),
    *("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", "/nothink"),
)
GLM_VOCAB_SIZE = 269 + len(SPECIAL) + len(TAGS)


def glm_tokenizer_json() -> dict[str, Any]:
    """tokenizer.json as an object; as in GLM, tags are added tokens that are not special."""
    content = tokenizer_json()
    vocabulary = content["model"]["vocab"]
    template = content["added_tokens"][0]
    for token in (*SPECIAL, *TAGS):
        vocabulary[token] = len(vocabulary)
        content["added_tokens"].append(
            {**template, "id": vocabulary[token], "content": token, "special": token in SPECIAL}
        )
    return content


def glm_tokenizer() -> Tokenizer:
    return Tokenizer.from_bytes(json.dumps(glm_tokenizer_json()).encode(), {"eos_token": "<|endoftext|>"})
