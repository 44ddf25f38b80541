"""Text to token ids and back, over the `tokenizers` library.

Below it: `token_text` (decoding) and `gguf_tokenizer` (which writes a tokenizer.json from GGUF metadata). Above it:
the model loader, the chat layer and the engine. It knows nothing of chat formats; a rendered chat prompt already
contains its special tokens, so `encode` adds none unless asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import tokenizers

from glm_crush.errors import TokenizerError
from glm_crush.tokenizer.encoded_text import EncodedText, encode_whole
from glm_crush.tokenizer.library_call import encode_text
from glm_crush.tokenizer.token_text import token_text

__all__ = ["Tokenizer"]


class Tokenizer:
    """One model's vocabulary. Immutable; safe to share between threads.

    Attributes:
        vocab_size: number of ids the tokenizer can produce (the model's logits may be padded to more).
        eos_token_ids: every id that ends a turn, sorted.
        special_ids: ids that `skip_special_tokens` leaves out of the text.
        added_ids: text → id of every token that is recognised in raw text before the vocabulary is applied, special
            or not (`<think>` and `<tool_call>` of GLM are added, but not special).
        strip_spaces: spaces the decoder drops at the very start of a text.
    """

    def __init__(
        self,
        tokenizer_json: bytes,
        tokenizer_config: Mapping[str, object] | None = None,
        *,
        eos_token_ids: Iterable[int] = (),
    ) -> None:
        """As `from_bytes`."""
        # Parsed by the library alone: a vocabulary of 150,000 words as Python objects would cost 200 MB.
        self._source = tokenizer_json
        self._library = _load(tokenizer_json)
        self._text = token_text(_decoder_of(self._library))
        self._pieces: dict[int, bytes] = {}
        self.config = dict(tokenizer_config or {})
        added = self._library.get_added_tokens_decoder()
        self.added_ids: Mapping[str, int] = {token.content: token_id for token_id, token in added.items()}
        self.special_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        self.strip_spaces = self._text.strip_spaces
        self.vocab_size: int = self._library.get_vocab_size(with_added_tokens=True)
        self.eos_token_ids = tuple(sorted(self._collect_eos(eos_token_ids)))

    @classmethod
    def from_bytes(
        cls,
        tokenizer_json: bytes,
        tokenizer_config: Mapping[str, object] | None = None,
        *,
        eos_token_ids: Iterable[int] = (),
    ) -> Tokenizer:
        """Build from the content of tokenizer.json and tokenizer_config.json.

        Args:
            tokenizer_json: the file's bytes.
            tokenizer_config: may name bos_token, eos_token, ...; GGUF tokenizers also list eos_token_ids in it.
            eos_token_ids: ids from generation_config.json and config.json; all of them end a turn.

        Raises:
            TokenizerError: the JSON is malformed or describes something the library or our decoder cannot do.
        """
        return cls(tokenizer_json, tokenizer_config, eos_token_ids=eos_token_ids)

    def encode(self, text: str, *, add_special_tokens: bool = False, allow_special: bool = True) -> list[int]:
        """Token ids of a text.

        Args:
            text: any string; lone surrogates are not text and are refused.
            add_special_tokens: apply the tokenizer's own prefix and suffix (BOS, [CLS] ...). Not for rendered chat
                text.
            allow_special: recognise special and other added tokens in the text. False takes their names literally, as
                for text that comes from a user and must not be able to write `<|im_end|>`.

        Raises:
            TokenizerError: the text is not valid Unicode, or a character is neither in the vocabulary nor replaceable.
        """
        library = self._library if allow_special else self._literal_library
        try:
            return list(encode_text(library, text, add_special_tokens=add_special_tokens).ids)
        except Exception as error:  # the library raises plain Exception
            raise TokenizerError(f"cannot encode text of {len(text)} characters: {error}") from error

    def encode_whole(
        self,
        text: str,
        second: str | None = None,
        *,
        max_length: int | None = None,
        second_length: int | None = None,
    ) -> EncodedText:
        """A text or a pair as an encoder reads it, cut as `encoded_text.encode_whole` says.

        Raises:
            TokenizerError: a text is not valid Unicode, or a character is neither in the vocabulary nor replaceable.
        """
        try:
            return encode_whole(self._library, text, second, max_length=max_length, second_length=second_length)
        except Exception as error:  # the library raises plain Exception
            raise TokenizerError(f"cannot encode text of {len(text)} characters: {error}") from error

    def decode(self, token_ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """Text of token ids; bytes that form no character become U+FFFD. Ids without a token add nothing."""
        pieces: list[bytes] = []
        for token_id in token_ids:
            if skip_special_tokens and token_id in self.special_ids:
                continue
            data = self.text_bytes(token_id, first=not pieces)
            if data is not None:
                pieces.append(data)
        text = b"".join(pieces).decode("utf-8", errors="replace")
        spaces = len(text) - len(text.lstrip(" "))
        return text[min(spaces, self.strip_spaces) :]

    def piece(self, token_id: int) -> bytes:
        """The bytes this token stands for inside a text; nothing for an id without a token."""
        return self.text_bytes(token_id, first=False) or b""

    def text_bytes(self, token_id: int, *, first: bool) -> bytes | None:
        """The bytes this token adds to a text, at its start or later; None for an id without a token."""
        data = None if first else self._pieces.get(token_id)
        if data is None:
            token = self.id_to_token(token_id)
            if token is None:
                return None
            if first:
                return self._text.first_piece(token)
            data = self._pieces[token_id] = self._text.piece(token)
        return data

    def is_special(self, token_id: int) -> bool:
        """Whether `skip_special_tokens` leaves this id out of the text."""
        return token_id in self.special_ids

    def token_to_id(self, token: str) -> int | None:
        """Id of a token written as the vocabulary writes it, or None."""
        return self._library.token_to_id(token)

    def id_to_token(self, token_id: int) -> str | None:
        """The token as the vocabulary writes it, or None for an id out of range or without a token."""
        return self._library.id_to_token(token_id) if 0 <= token_id < 2**32 else None

    def special_token(self, name: str) -> str | None:
        """Text of a token that tokenizer_config.json names, for example `bos_token`."""
        value = self.config.get(name)
        if isinstance(value, Mapping):
            value = value.get("content")
        return value if isinstance(value, str) else None

    def vocabulary(self) -> dict[str, int]:
        """Every token as the vocabulary writes it, with its id; built anew by each call."""
        return dict(self._library.get_vocab(with_added_tokens=True))

    def definition(self) -> bytes:
        """The tokenizer.json it was built from."""
        return self._source

    def _collect_eos(self, extra: Iterable[int]) -> set[int]:
        ids = set(extra)
        listed = self.config.get("eos_token_ids", ())
        if isinstance(listed, Sequence) and not isinstance(listed, str):
            ids.update(int(token_id) for token_id in listed)
        eos = self.special_token("eos_token")
        if eos is not None and (token_id := self.token_to_id(eos)) is not None:
            ids.add(token_id)
        if bad := [token_id for token_id in ids if token_id < 0]:
            raise TokenizerError(f"end-of-text id {bad[0]} is negative")
        return ids

    @cached_property
    def _literal_library(self) -> tokenizers.Tokenizer:
        """The same vocabulary without added tokens, for text that must not contain any.

        Blank ones stay: they are plain text that some vocabularies (Gemma) keep as added tokens. A token that the model
        itself could still produce as one piece is renamed to something no text contains.
        """
        definition: dict[str, Any] = json.loads(self._source)
        model = definition["model"]
        added: list[dict[str, Any]] = definition.get("added_tokens") or []
        definition["added_tokens"] = [entry for entry in added if not entry["content"].strip()]
        names = {entry["content"] for entry in added if entry["content"].strip()}
        names.discard(model.get("unk_token"))
        if model.get("type") == "Unigram":
            model["vocab"] = [[_unreachable(p) if p in names else p, score] for p, score in model["vocab"]]
        else:
            for merge in model.get("merges") or ():
                parts = merge.split(" ") if isinstance(merge, str) else merge
                names -= {parts[0], parts[1], parts[0] + parts[1]}
            model["vocab"] = {_unreachable(t) if t in names else t: i for t, i in model["vocab"].items()}
        return _load(json.dumps(definition, ensure_ascii=False).encode())


def _unreachable(token: str) -> str:
    # U+0000 is mapped to another character by byte-level models, and no other text has it beside U+FFFF
    return f"\x00\uffff{token}"


def _load(tokenizer_json: bytes) -> tokenizers.Tokenizer:
    try:
        library = tokenizers.Tokenizer.from_buffer(tokenizer_json)
    except Exception as error:  # the library raises plain Exception
        raise TokenizerError(f"tokenizer.json is not usable: {error}") from error
    # padding and truncation are the caller's decisions, never the file's
    library.no_padding()
    library.no_truncation()
    return library


def _decoder_of(library: tokenizers.Tokenizer) -> dict[str, Any] | None:
    """The `decoder` of tokenizer.json, as the library itself writes it."""
    decoder = library.decoder
    return None if decoder is None else json.loads(decoder.__getstate__())
