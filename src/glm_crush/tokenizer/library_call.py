"""The one call of the `tokenizers` library that can take long, made so that other threads go on meanwhile.

Above: `tokenizer`, `encoded_text`. The library's `encode` holds the interpreter's lock from beginning to end, half a
second for a megabyte, in which an event loop answers nobody; its batches let go of it, and need no offsets either.
"""

from __future__ import annotations

import tokenizers

__all__ = ["encode_text"]

_LONG_TEXT = 2_000  # characters; less is encoded in about a millisecond


def encode_text(library: tokenizers.Tokenizer, text: str, *, add_special_tokens: bool) -> tokenizers.Encoding:
    """A text's tokens; of a long text without offsets.

    Raises:
        Exception: as the library raises it.
    """
    if len(text) < _LONG_TEXT:
        return library.encode(text, add_special_tokens=add_special_tokens)
    [encoding] = library.encode_batch_fast([text], add_special_tokens=add_special_tokens)
    return encoding
