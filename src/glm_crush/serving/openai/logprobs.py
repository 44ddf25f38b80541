"""Log-probabilities in the two shapes OpenAI has for them, and vLLM's for those of prompts."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any

from glm_crush.serving.served_model import TextCodec
from glm_crush.types import TokenLogprobs

__all__ = ["CompletionLogprobs", "chat_logprobs", "prompt_logprobs", "token_text"]

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


class CompletionLogprobs:
    """The logprobs of one choice of a text completion, encoded at once or in parts as the tokens come.

    Offsets are counted in characters from the start of the choice's text; tokens that share a character share its
    offset.
    """

    def __init__(self, codec: TextCodec) -> None:
        self._codec = codec
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._text_offset = 0

    def encode(
        self,
        tokens: Sequence[TokenLogprobs] | None,
        *,
        prompt: tuple[Sequence[int], Sequence[TokenLogprobs | None]] | None = None,
    ) -> dict[str, Any] | None:
        """`{tokens, token_logprobs, top_logprobs, text_offset}` of the next tokens; None when nothing was asked for.

        Args:
            tokens: of the reply.
            prompt: ids and scores of an echoed prompt, which come first; the first token has no score.
        """
        if tokens is None and prompt is None:
            return None
        ids, scores = prompt or ((), ())
        all_ids = [*ids, *(token.token_id for token in tokens or ())]
        all_scores = [*scores, *(tokens or ())]
        raw = [self._codec.token_bytes(token_id) for token_id in all_ids]
        return {
            "tokens": [token_text(data) for data in raw],
            "token_logprobs": [token and _finite(token.logprob) for token in all_scores],
            "top_logprobs": [token and self._alternatives(token) for token in all_scores],
            "text_offset": [self._advance(data) for data in raw],
        }

    def _advance(self, raw: bytes) -> int:
        """Where this token's text begins."""
        offset = self._text_offset
        self._text_offset += len(self._utf8.decode(raw))
        return offset

    def _alternatives(self, token: TokenLogprobs) -> dict[str, float]:
        """The likeliest tokens, best first, and always the chosen one.

        Where two ids have the same text, the likelier counts, or the chosen one.
        """
        alternatives: dict[str, float] = {}
        for token_id, logprob in token.top:
            alternatives.setdefault(token_text(self._codec.token_bytes(token_id)), _finite(logprob))
        alternatives[token_text(self._codec.token_bytes(token.token_id))] = _finite(token.logprob)
        return alternatives


def prompt_logprobs(
    tokens: Sequence[TokenLogprobs | None] | None, codec: TextCodec
) -> list[dict[str, dict[str, Any]] | None] | None:
    """Per prompt token `{id: {logprob, rank, decoded_token}}`, its own first; null for the first token.

    The rank of a token that is not among the likeliest that were asked for is not known: null.
    """
    if tokens is None:
        return None
    return [None if token is None else _ranked(token, codec) for token in tokens]


def _ranked(token: TokenLogprobs, codec: TextCodec) -> dict[str, dict[str, Any]]:
    ranks = {token_id: rank for rank, (token_id, _) in enumerate(token.top, 1)}
    return {
        str(token_id): {
            "logprob": _finite(logprob),
            "rank": ranks.get(token_id),
            "decoded_token": token_text(codec.token_bytes(token_id)),
        }
        for token_id, logprob in dict([(token.token_id, token.logprob), *token.top]).items()
    }


def token_text(raw: bytes) -> str:
    r"""A token's text; `bytes:\xe2\x80`, as OpenAI has it, for one that is not whole characters."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + _escaped(raw)


def _entry(token_id: int, logprob: float, codec: TextCodec) -> dict[str, Any]:
    raw = codec.token_bytes(token_id)
    try:
        text = raw.decode()
    except UnicodeDecodeError:  # OpenAI sends such text escaped, but here without the mark: `bytes` tells them apart
        text = _escaped(raw)
    return {"token": text, "logprob": _finite(logprob), "bytes": list(raw)}


def _escaped(raw: bytes) -> str:
    return "".join(chr(byte) if 0x20 <= byte < 0x7F and byte != 0x5C else f"\\x{byte:02x}" for byte in raw)


def _finite(logprob: float) -> float:
    return max(float(logprob), _LOWEST)
