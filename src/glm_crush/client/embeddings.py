"""Texts to vectors.

Above: the two clients. Below: nothing but the call. Vectors travel as base64, which is exact and a third of the size.
"""

from __future__ import annotations

import base64
import sys
from array import array
from collections.abc import Sequence

from glm_crush.client.call import Answer, Call, given, read_as
from glm_crush.client.result import Result, Usage
from glm_crush.errors import ProtocolError

__all__ = ["Embeddings", "embed"]

Texts = str | Sequence[str] | Sequence[Sequence[int]]


class Embeddings(Result, frozen=True):
    """A vector of float32 numbers for each input, in order."""

    vectors: tuple[tuple[float, ...], ...]
    model: str
    usage: Usage


def embed(
    texts: Texts,
    *,
    model: str | None = None,
    kind: str | None = None,
    dimensions: int | None = None,
    truncate_to: int | None = None,
) -> Call[Embeddings]:
    """Turn texts, or lists of token ids, into vectors.

        client.embed(["a text", "another"]).vectors

    Args:
        texts: one or many.
        model: left out: the server's first embedding model.
        kind: "query" or "document", for models that tell them apart.
        dimensions: keep only so many numbers.
        truncate_to: cut longer texts to so many tokens; -1: to what the model takes. Left out: they are refused.
    """
    options = given(model=model, input_type=kind, dimensions=dimensions, truncate_prompt_tokens=truncate_to)
    body = {"input": texts, "encoding_format": "base64", **options}
    return Call(method="POST", path="/v1/embeddings", body=body, parse=_embeddings)


class _Row(Result, frozen=True):
    embedding: str | tuple[float, ...]
    index: int = 0


class _Reply(Result, frozen=True):
    data: tuple[_Row, ...]
    model: str = ""
    usage: Usage = Usage()


_read = read_as(_Reply)


def _embeddings(answer: Answer) -> Embeddings:
    reply = _read(answer)
    return Embeddings(tuple(_vector(row.embedding) for row in reply.data), reply.model, reply.usage)


def _vector(sent: str | tuple[float, ...]) -> tuple[float, ...]:
    if not isinstance(sent, str):
        return sent
    try:
        numbers = array("f", base64.b64decode(sent, validate=True))
    except ValueError as error:
        raise ProtocolError(f"the server sent a vector that is none: {error}") from error
    if sys.byteorder == "big":
        numbers.byteswap()
    return tuple(numbers)
