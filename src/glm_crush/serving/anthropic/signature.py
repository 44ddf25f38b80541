"""What a thinking block is signed with. A block that is shown without its text carries it in the signature.

So a client that wants the reasoning left out still gives it back in the next turn, as Anthropic's clients do. It is no
secret: who has the signature can read the text.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib

from glm_crush.errors import InvalidParameterError

__all__ = ["restored_thinking", "signature_of"]

_WITH_TEXT = "glm-text-"
_DIGEST = "glm-"
_LONGEST_TEXT = 4 << 20


def signature_of(thinking: str, *, omitted: bool) -> str:
    """The signature of a block that is shown with its text, or `omitted`."""
    data = thinking.encode()
    if omitted:
        return _WITH_TEXT + base64.urlsafe_b64encode(zlib.compress(data)).decode()
    return _DIGEST + hashlib.sha256(data).hexdigest()[:32]


def restored_thinking(thinking: str, signature: str, where: str) -> str:
    """The text of a block that a client sends back.

    Raises:
        InvalidParameterError: it was left out, and the signature does not hold it; names the place.
    """
    if thinking or not signature.startswith(_WITH_TEXT):
        return thinking
    try:
        inflate = zlib.decompressobj()
        data = inflate.decompress(base64.urlsafe_b64decode(signature[len(_WITH_TEXT) :]), _LONGEST_TEXT)
        if not inflate.eof:
            raise ValueError("it is cut off or too long")
        return data.decode()
    except (ValueError, binascii.Error, zlib.error) as error:
        raise InvalidParameterError(
            f"{where} was changed: {error}; send thinking blocks back as they came", parameter=where
        ) from error
