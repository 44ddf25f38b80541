"""Judgements of texts.

Above: the two clients. Below: nothing but the call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from glm_crush.client.call import Call, given, read_as
from glm_crush.client.result import Result

__all__ = ["Judgement", "Moderation", "moderate"]


class Judgement(Result, frozen=True):
    """Of one text: whether it is flagged, and for what; None = this server does not judge that."""

    flagged: bool
    categories: Mapping[str, bool | None]
    category_scores: Mapping[str, float | None] = {}


class Moderation(Result, frozen=True):
    """A judgement for each text."""

    results: tuple[Judgement, ...]
    model: str = ""
    id: str = ""

    @property
    def flagged(self) -> bool:
        """Whether any of the texts is."""
        return any(result.flagged for result in self.results)


def moderate(texts: str | Sequence[str], *, model: str | None = None) -> Call[Moderation]:
    """Judge a text, or several.

    client.moderate("a text").flagged
    """
    body = {"input": texts if isinstance(texts, str) else list(texts), **given(model=model)}
    return Call(method="POST", path="/v1/moderations", body=body, parse=read_as(Moderation))
