"""What each token id adds to the text: the decoder of tokenizer.json turned into one byte string per id.

Below it: errors. Above it: `Tokenizer` and `IncrementalDetokenizer`, which both decode through it, so that a stream
and a full decode agree by construction. It knows nothing of encoding or of sampling.

Three kinds of decoder are in use, and in all three the bytes of a token depend on the token alone, but for a space at
the very start of the text: byte-level BPE (GPT-2's byte alphabet), SentencePiece style (U+2581 for a space, <0xE2>
for a byte), and WordPiece (## joins, anything else starts with a space). Bytes that are no UTF-8 become U+FFFD, one
for each maximal bad part; the `tokenizers` library does the same for byte-level BPE, and replaces a whole run of byte
tokens for SentencePiece, which no stream can follow.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from glm_crush.errors import TokenizerError

__all__ = ["TokenText", "byte_alphabet", "token_text"]

_SPACE_MARK = "\u2581"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True)
class TokenText:
    """Bytes of a token's text.

    Attributes:
        piece: token string → bytes, anywhere in the text.
        first_piece: the same for the first token of a text; differs for WordPiece.
        strip_spaces: how many spaces to drop at the very start of the text (SentencePiece's dummy prefix).
    """

    piece: Callable[[str], bytes]
    first_piece: Callable[[str], bytes]
    strip_spaces: int = 0


def byte_alphabet() -> dict[str, int]:
    """GPT-2's printable character for each byte, as character → byte."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(256 + index): byte for index, byte in enumerate(others)})
    return alphabet


def token_text(decoder: Mapping[str, object] | None) -> TokenText:
    """Read the `decoder` of tokenizer.json.

    Raises:
        TokenizerError: the decoder is of a kind we do not stream; names it.
    """
    steps = _flatten(decoder)
    kinds = [str(step.get("type")) for step in steps]
    if "ByteLevel" in kinds:
        _only(kinds, {"ByteLevel", "Fuse"})
        return _byte_level()
    if kinds == ["WordPiece"]:
        return _word_piece(steps[0])
    _only(kinds, {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"})
    if not kinds:
        raise TokenizerError(
            "tokenizer.json has no decoder; ByteLevel, Metaspace, ByteFallback and WordPiece are known"
        )
    return _sentence_piece(steps)


def _only(kinds: Sequence[str], known: set[str]) -> None:
    if unknown := [kind for kind in kinds if kind not in known]:
        raise TokenizerError(
            f"tokenizer.json: decoder {unknown[0]!r} (of {', '.join(kinds)}) is not supported; "
            "ByteLevel, Metaspace, ByteFallback and WordPiece are"
        )


def _flatten(decoder: Mapping[str, object] | None) -> list[Mapping[str, object]]:
    if decoder is None:
        return []
    if decoder.get("type") != "Sequence":
        return [decoder]
    parts = decoder.get("decoders")
    if not isinstance(parts, list):
        raise TokenizerError("tokenizer.json: decoder.decoders is not a list")
    return [step for part in parts for step in _flatten(part)]


def _byte_level() -> TokenText:
    alphabet = byte_alphabet()

    def piece(token: str) -> bytes:
        try:
            return bytes([alphabet[character] for character in token])
        except KeyError:  # an added token written in plain text, with a space for example
            return token.encode()

    return TokenText(piece, piece)


def _word_piece(step: Mapping[str, object]) -> TokenText:
    prefix = str(step.get("prefix", "##"))
    clean = _clean_up if step.get("cleanup", True) else str

    def piece(token: str) -> bytes:
        text = token.removeprefix(prefix) if token.startswith(prefix) else " " + token
        return clean(text).encode()

    def first_piece(token: str) -> bytes:
        return clean(token).encode()

    return TokenText(piece, first_piece)


def _clean_up(text: str) -> str:
    """BERT's habit of closing up punctuation, as the library's WordPiece decoder does it."""
    for before in (" .", " ?", " !", " ,"):
        text = text.replace(before, before[1:])
    text = text.replace(" ' ", "'").replace(" n't", "n't").replace(" 'm", "'m").replace(" do not", " don't")
    return text.replace(" 's", "'s").replace(" 've", "'ve").replace(" 're", "'re")


def _sentence_piece(steps: Sequence[Mapping[str, object]]) -> TokenText:
    replacements: list[tuple[str, str]] = []
    byte_fallback = False
    dropped_first = ""
    strip = 0
    for index, step in enumerate(steps):
        kind = step.get("type")
        if kind == "Replace":
            pattern = step.get("pattern")
            if not isinstance(pattern, Mapping) or not isinstance(pattern.get("String"), str):
                raise TokenizerError(
                    f"tokenizer.json: decoder Replace has pattern {pattern!r}; only a String is supported"
                )
            replacements.append((pattern["String"], str(step.get("content", ""))))
        elif kind == "Metaspace":
            mark = str(step.get("replacement", _SPACE_MARK))
            replacements.append((mark, " "))
            # an older tokenizer.json has add_prefix_space in place of prepend_scheme
            prepended = step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never")
            dropped_first = "" if prepended == "never" else mark
        elif kind == "ByteFallback":
            byte_fallback = True
        elif kind == "Strip":
            if all(before.get("type") != "Fuse" for before in steps[:index]):
                raise TokenizerError("tokenizer.json: decoder Strip without Fuse before it is not supported")
            strip = _strip_count(step)

    def piece(token: str) -> bytes:
        if byte_fallback and (match := _BYTE_TOKEN.fullmatch(token)):
            return bytes([int(match[1], 16)])
        for old, new in replacements:
            token = token.replace(old, new)
        return token.encode()

    def first_piece(token: str) -> bytes:
        # Metaspace drops every mark of the first token, not only the leading one
        return piece(token.replace(dropped_first, "") if dropped_first else token)

    return TokenText(piece, first_piece, strip)


def _strip_count(step: Mapping[str, object]) -> int:
    start = step.get("start")
    if step.get("content") != " " or step.get("stop", 0) != 0 or not isinstance(start, int):
        raise TokenizerError(
            f"tokenizer.json: decoder {dict(step)!r} is not supported; only spaces at the start can be stripped"
        )
    return start
