"""Texts and pairs of texts as an encoder reads them: special tokens, segment numbers, cut to a length.

Below it: the `tokenizers` library. Above it: `Tokenizer.encode_whole`. Nothing is cut in silence: what was left out is
counted, and cutting is only done when it was asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import tokenizers

from glm_crush.tokenizer.library_call import encode_text

__all__ = ["EncodedText", "encode_whole"]


@dataclass(frozen=True, slots=True)
class EncodedText:
    """One input of an encoder.

    Attributes:
        token_ids: special tokens included. token_types: segment of each token, or None when all are in the first.
        num_cut: tokens that were left out at the end.
    """

    token_ids: list[int]
    token_types: list[int] | None = None
    num_cut: int = 0


def encode_whole(
    library: tokenizers.Tokenizer,
    text: str,
    second: str | None = None,
    *,
    max_length: int | None = None,
    second_length: int | None = None,
) -> EncodedText:
    """A text, or a pair, with the special tokens that the tokenizer puts around it.

    Args:
        library: the tokenizer.
        text: the text, or the first of the pair (a query).
        second: the second of the pair (a document).
        max_length: longest result. Of a pair the second is cut; the first only where it is longer than half.
        second_length: most tokens of the second.

    Raises:
        Exception: as the library raises it.
    """
    first_part = encode_text(library, text, add_special_tokens=False)
    second_part = None if second is None else encode_text(library, second, add_special_tokens=False)
    num_cut = 0
    if second_part is not None and second_length is not None:
        num_cut = _cut(second_part, second_length)
    if max_length is not None:
        room = max(0, max_length - library.num_special_tokens_to_add(second is not None))
        first_room = room if second_part is None else max(room // 2, room - len(second_part.ids))
        num_cut += _cut(first_part, first_room)
        if second_part is not None:
            num_cut += _cut(second_part, room - len(first_part.ids))
    whole = library.post_process(first_part, second_part, True)
    types = list(whole.type_ids)
    return EncodedText(list(whole.ids), types if any(types) else None, num_cut)


def _cut(encoding: tokenizers.Encoding, room: int) -> int:
    """Cuts the end off; returns how many tokens that were."""
    excess = max(0, len(encoding.ids) - room)
    if excess:
        encoding.truncate(room)
    return excess
