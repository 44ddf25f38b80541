"""The vocabulary keys of a GGUF file, checked.

Below it: errors. Above it: `gguf_tokenizer`. Every list is checked against the number of tokens and every id against
its range, so that what is built from them cannot be silently shifted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from glm_crush.errors import TokenizerError

__all__ = ["GgufVocabulary", "TokenType"]


class TokenType(IntEnum):
    """`tokenizer.ggml.token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class GgufVocabulary:
    """Tokens and their types; the other keys are read on demand.

    Attributes:
        model: `tokenizer.ggml.model`. pre: `tokenizer.ggml.pre`, "default" when absent.
        tokens: one string per id. types: one `TokenType` number per id.
    """

    metadata: Mapping[str, object]
    model: str
    pre: str
    tokens: Sequence[str]
    types: Sequence[int]

    @classmethod
    def read(cls, metadata: Mapping[str, object]) -> GgufVocabulary:
        """Raises TokenizerError naming the key that is missing or malformed."""
        model = metadata.get("tokenizer.ggml.model")
        if not isinstance(model, str):
            raise TokenizerError(f"tokenizer.ggml.model is {model!r}; the file holds no tokenizer")
        pre = metadata.get("tokenizer.ggml.pre", "default")
        if not isinstance(pre, str):
            raise TokenizerError(f"tokenizer.ggml.pre is {pre!r}; expected a name")
        tokens = _strings(metadata, "tokens")
        if not tokens:
            raise TokenizerError("tokenizer.ggml.tokens is empty")
        kinds = [int(kind) for kind in _numbers(metadata, "token_type", len(tokens), default=TokenType.NORMAL)]
        return cls(metadata, model, pre, tokens, kinds)

    def token_ids(self) -> dict[str, int]:
        """Token → id. Raises TokenizerError when two ids share a text, since one of them could never be produced."""
        ids = {token: token_id for token_id, token in enumerate(self.tokens)}
        if len(ids) != len(self.tokens):
            seen: set[str] = set()
            for token in self.tokens:
                if token in seen:
                    raise TokenizerError(f"tokenizer.ggml.tokens has {token!r} twice")
                seen.add(token)
        return ids

    def merges(self) -> list[list[str]]:
        """Pairs of tokens, best first. Raises TokenizerError when they are missing or not pairs."""
        pairs = [merge.split(" ") for merge in _strings(self.metadata, "merges")]
        for index, pair in enumerate(pairs):
            if len(pair) != 2:
                raise TokenizerError(f"tokenizer.ggml.merges[{index}] is {' '.join(pair)!r}; expected two tokens")
        return pairs

    def scores(self) -> list[float]:
        """One score per token. Raises TokenizerError when they are missing or of another number."""
        return _numbers(self.metadata, "scores", len(self.tokens))

    def special_id(self, name: str, default: int | None = None) -> int | None:
        """The id in `tokenizer.ggml.<name>_token_id`, or the default. Raises TokenizerError when out of range."""
        token_id = self.metadata.get(f"tokenizer.ggml.{name}_token_id", default)
        if token_id is None:
            return None
        if not isinstance(token_id, int) or not 0 <= token_id < len(self.tokens):
            raise TokenizerError(
                f"tokenizer.ggml.{name}_token_id is {token_id!r}; the vocabulary has {len(self.tokens)} tokens"
            )
        return token_id

    def flag(self, name: str, *, default: bool) -> bool:
        """The boolean `tokenizer.ggml.<name>`."""
        value = self.metadata.get(f"tokenizer.ggml.{name}", default)
        if not isinstance(value, (bool, int)):
            raise TokenizerError(f"tokenizer.ggml.{name} is {value!r}; expected a boolean")
        return bool(value)

    def texts_of_type(self, *kinds: TokenType) -> set[str]:
        """Texts of all tokens of these types."""
        return {token for token, kind in zip(self.tokens, self.types, strict=True) if kind in kinds}

    def first_of_type(self, kind: TokenType) -> int | None:
        """Lowest id of a type, or None."""
        return next((token_id for token_id, found in enumerate(self.types) if found == kind), None)


def _numbers(metadata: Mapping[str, object], name: str, count: int, default: float | None = None) -> list[float]:
    value = metadata.get(f"tokenizer.ggml.{name}")
    if value is None and default is not None:
        return [default] * count
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)) or len(value) != count:
        raise TokenizerError(f"tokenizer.ggml.{name} must be a list with one number for each of {count} tokens")
    for index, item in enumerate(value):
        if not isinstance(item, (int, float)):
            raise TokenizerError(f"tokenizer.ggml.{name}[{index}] is {item!r}; expected a number")
    return list(value)


def _strings(metadata: Mapping[str, object], name: str) -> list[str]:
    value = metadata.get(f"tokenizer.ggml.{name}")
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise TokenizerError(f"tokenizer.ggml.{name} is missing or not a list")
    for index, item in enumerate(value):
        if not isinstance(item, str):
            raise TokenizerError(f"tokenizer.ggml.{name}[{index}] is {item!r}; expected text")
    return list(value)
