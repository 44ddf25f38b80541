"""Log-probabilities in the two shapes OpenAI has for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from glm_crush.serving.served_model import TextCodec
from glm_crush.types import TokenLogprobs

__all__ = ["chat_logprobs", "completion_logprobs"]

_LOWEST = -9999.0  # JSON has no minus infinity; OpenAI and vLLM send this


def chat_logprobs(tokens: Sequence[TokenLogprobs] | None, codec: TextCodec) -> dict[str, Any] | None:
    """`{"content": [{token, logprob, bytes, top_logprobs}], "refusal": null}`."""
    if tokens is None:
        return None
    content = []
    for token in tokens:
        entry = _entry(token.token_id, token.logprob, codec)
        entry["top_logprobs"] = [_entry(token_id, logprob, codec) for token_id, logprob in token.top]
        content.append(entry)
    return {"content": content, "refusal": None}


def completion_logprobs(
    tokens: Sequence[TokenLogprobs | None] | None, codec: TextCodec, *, token_ids: Sequence[int], text_offset: int
) -> dict[str, Any] | None:
    """`{tokens, token_logprobs, top_logprobs, text_offset}`, offsets counted from the start of the whole text.

    An entry of `tokens` is None where there is no probability (the first token of an echoed prompt); `token_ids`
    has one id per entry; `text_offset` is where the first of these tokens starts.
    """
    if tokens is None:
        return None
    texts = [_text(codec.token_bytes(token_id)) for token_id in token_ids]
    offsets = []
    for text in texts:
        offsets.append(text_offset)
        text_offset += len(text)
    return {
        "tokens": texts,
        "token_logprobs": [_finite(token.logprob) if token else None for token in tokens],
        "top_logprobs": [
            {_text(codec.token_bytes(token_id)): _finite(logprob) for token_id, logprob in token.top} if token else None
            for token in tokens
        ],
        "text_offset": offsets,
    }


def _entry(token_id: int, logprob: float, codec: TextCodec) -> dict[str, Any]:
    raw = codec.token_bytes(token_id)
    return {"token": _text(raw), "logprob": _finite(logprob), "bytes": list(raw)}


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", errors="replace")


def _finite(logprob: float) -> float:
    return max(float(logprob), _LOWEST)
