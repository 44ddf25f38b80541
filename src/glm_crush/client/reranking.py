"""Documents in the order in which they answer a query, and scores of pairs.

Above: the two clients. Below: nothing but the call.
"""

from __future__ import annotations

from collections.abc import Sequence

from glm_crush.client.call import Answer, Call, given, read_as
from glm_crush.client.result import Result, Usage

__all__ = ["RankedDocument", "Ranking", "Scores", "rerank", "score"]


class RankedDocument(Result, frozen=True):
    """One document; `index` is its place in what was given."""

    index: int
    relevance_score: float
    text: str


class Ranking(Result, frozen=True):
    """Documents, best first; `method` is "cross-encoder" or "cosine"."""

    results: tuple[RankedDocument, ...]
    model: str
    method: str | None
    usage: Usage


class Scores(Result, frozen=True):
    """A score per pair, in order."""

    scores: tuple[float, ...]
    model: str
    method: str | None
    usage: Usage


def rerank(
    query: str,
    documents: Sequence[str],
    *,
    model: str | None = None,
    top_n: int | None = None,
    truncate: bool | None = None,
    truncate_to: int | None = None,
    max_tokens_per_document: int | None = None,
) -> Call[Ranking]:
    """Put documents in the order in which they answer a query.

        client.rerank("capital of France", ["Berlin ...", "Paris ..."]).results[0].text

    Args:
        query: what is asked.
        documents: what may answer it.
        model: left out: the server's reranker, or its first embedding model.
        top_n: keep only so many.
        truncate: false refuses documents that are too long instead of cutting them.
        truncate_to: cut query and document together to so many tokens; -1: to what the model takes.
        max_tokens_per_document: cut documents to so many tokens.
    """
    options = given(
        model=model,
        top_n=top_n,
        truncation=truncate,
        truncate_prompt_tokens=truncate_to,
        max_tokens_per_doc=max_tokens_per_document,
    )
    texts = list(documents)
    body = {"query": query, "documents": texts, "return_documents": False, **options}
    return Call(method="POST", path="/v1/rerank", body=body, parse=lambda answer: _ranking(answer, texts))


def score(
    first: str | Sequence[str],
    second: str | Sequence[str],
    *,
    model: str | None = None,
    truncate_to: int | None = None,
) -> Call[Scores]:
    """Score how well texts go together: one with many, or each with its partner.

    client.score("a query", ["a document", "another"]).scores
    """
    body = {"text_1": first, "text_2": second, **given(model=model, truncate_prompt_tokens=truncate_to)}
    return Call(method="POST", path="/v1/score", body=body, parse=_scores)


class _Ranked(Result, frozen=True):
    index: int
    relevance_score: float


class _RankReply(Result, frozen=True):
    results: tuple[_Ranked, ...]
    model: str = ""
    method: str | None = None
    usage: Usage = Usage()


class _Scored(Result, frozen=True):
    score: float


class _ScoreReply(Result, frozen=True):
    data: tuple[_Scored, ...]
    model: str = ""
    method: str | None = None
    usage: Usage = Usage()


_read_ranking, _read_scores = read_as(_RankReply), read_as(_ScoreReply)


def _ranking(answer: Answer, texts: Sequence[str]) -> Ranking:
    reply = _read_ranking(answer)
    ranked = tuple(RankedDocument(row.index, row.relevance_score, texts[row.index]) for row in reply.results)
    return Ranking(ranked, reply.model, reply.method, reply.usage)


def _scores(answer: Answer) -> Scores:
    reply = _read_scores(answer)
    return Scores(tuple(row.score for row in reply.data), reply.model, reply.method, reply.usage)
