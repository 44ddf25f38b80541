"""POST /v1/rerank (also /rerank, /v2/rerank) in the shape of Jina and Cohere, and /v1/score (/score) in vLLM's.

A cross-encoder answers where one is served; otherwise the cosine of two embeddings does, and `method` says so.
"""

from __future__ import annotations

import time
import uuid
from typing import Annotated, Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from glm_crush.errors import InvalidParameterError
from glm_crush.serving.event_stream import run_until_disconnect
from glm_crush.serving.json_http import StrictModel, json_response, read_request
from glm_crush.serving.openai.embeddings import truncation
from glm_crush.serving.openai.replies import Ranking, Scores
from glm_crush.serving.openapi import Endpoint
from glm_crush.serving.routing import ApiRoute
from glm_crush.serving.served_encoder import ScoredPairs, ServedEncoder, ServedEncoders

__all__ = ["RerankRequest", "ScoreRequest", "compute_ranking", "rerank_routes"]

MOST_DOCUMENTS = 2048


class Document(StrictModel):
    """A document as an object; only its text is read."""

    text: str


class RerankRequest(StrictModel):
    """POST /v1/rerank."""

    model: str | None = None
    query: str
    documents: Annotated[list[str | Document], Field(json_schema_extra={"minItems": 1, "maxItems": MOST_DOCUMENTS})]
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool | None = None
    # Documents are cut to what the model takes; false refuses them instead.
    truncation: bool | None = None
    # as Cohere names it: documents are cut to so many tokens
    max_tokens_per_doc: Annotated[int, Field(ge=1)] | None = None
    # as vLLM names it: query and document together are cut to so many tokens
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = None
    user: str | None = None


class ScoreRequest(StrictModel):
    """POST /v1/score: one text against many, or as many against as many."""

    model: str | None = None
    text_1: Annotated[str | list[str], Field(json_schema_extra={"minItems": 1, "maxItems": MOST_DOCUMENTS})]
    text_2: Annotated[str | list[str], Field(json_schema_extra={"minItems": 1, "maxItems": MOST_DOCUMENTS})]
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = None
    user: str | None = None


def rerank_routes(encoders: ServedEncoders) -> list[ApiRoute]:
    """The routes over the served rerankers and embedding models."""
    routes = _Reranking(encoders)
    summary = "Documents in the order in which they answer a query."
    return [
        *((Endpoint("POST", path, summary, RerankRequest, reply=Ranking), routes.rerank) for path in _RERANK_PATHS),
        *(
            (Endpoint("POST", path, "How well two texts go together.", ScoreRequest, reply=Scores), routes.score)
            for path in _SCORE
        ),
    ]


_RERANK_PATHS = ("/v1/rerank", "/v2/rerank", "/rerank")
_SCORE = ("/v1/score", "/score")


class _Reranking:
    def __init__(self, encoders: ServedEncoders) -> None:
        self._encoders = encoders

    async def rerank(self, http: Request) -> Response:
        """The documents, best first."""
        request = await read_request(RerankRequest, http)
        ranking = await run_until_disconnect(compute_ranking(self._encoders, request), http.receive)
        return Response(status_code=499) if ranking is None else json_response(ranking)

    async def score(self, http: Request) -> Response:
        """A score per pair, in their order."""
        request = await read_request(ScoreRequest, http)
        pairs = _pairs(request)
        async with self._encoders.use(request.model, "reranker") as model:
            truncate_to = truncation(request.truncate_prompt_tokens, model.encoder.max_length)
            scored = await run_until_disconnect(model.score(pairs, truncate_to=truncate_to), http.receive)
        if scored is None:
            return Response(status_code=499)
        data = [{"index": index, "object": "score", "score": score} for index, score in enumerate(scored.scores)]
        return json_response({**_head("score", model, scored), "object": "list", "data": data})


async def compute_ranking(encoders: ServedEncoders, request: RerankRequest) -> dict[str, Any]:
    """The documents, best first, in Jina's shape, whatever protocol asks.

    Raises:
        InvalidParameterError: no documents, or too many. Others as `ServedEncoder.score`.
    """
    texts = [document if isinstance(document, str) else document.text for document in request.documents]
    if not 1 <= len(texts) <= MOST_DOCUMENTS:
        raise InvalidParameterError(
            f"documents holds {len(texts)} texts; give between 1 and {MOST_DOCUMENTS}", parameter="documents"
        )
    async with encoders.use(request.model, "reranker") as model:
        truncate_to = truncation(request.truncate_prompt_tokens, model.encoder.max_length)
        if truncate_to is None and request.truncation is not False:
            truncate_to = model.encoder.max_length
        pairs = [(request.query, text) for text in texts]
        scored = await model.score(pairs, truncate_to=truncate_to, second_length=request.max_tokens_per_doc)
        return _ranking(request, texts, scored, model)


def _head(prefix: str, model: ServedEncoder, scored: ScoredPairs) -> dict[str, Any]:
    return {
        "id": f"{prefix}-{uuid.uuid4().hex}",
        "created": int(time.time()),
        "model": model.name,
        "method": scored.method,
        "usage": {"prompt_tokens": scored.num_tokens, "total_tokens": scored.num_tokens},
    }


def _ranking(request: RerankRequest, texts: list[str], scored: ScoredPairs, model: ServedEncoder) -> dict[str, Any]:
    order = sorted(range(len(texts)), key=lambda index: (-scored.scores[index], index))
    results: list[dict[str, Any]] = []
    for index in order[: request.top_n]:
        document = {} if request.return_documents is False else {"document": {"text": texts[index]}}
        results.append({"index": index, "relevance_score": scored.scores[index], **document})
    meta = {"api_version": {"version": "2"}, "tokens": {"input_tokens": scored.num_tokens, "output_tokens": 0}}
    return {**_head("rerank", model, scored), "results": results, "meta": meta}


def _pairs(request: ScoreRequest) -> list[tuple[str, str]]:
    """Every pair to score.

    Raises:
        InvalidParameterError: the lists do not go together.
    """
    first = [request.text_1] if isinstance(request.text_1, str) else request.text_1
    second = [request.text_2] if isinstance(request.text_2, str) else request.text_2
    if len(first) == 1:
        first = first * len(second)
    if len(first) != len(second) or not 1 <= len(second) <= MOST_DOCUMENTS:
        raise InvalidParameterError(
            f"text_1 holds {len(first)} texts and text_2 {len(second)}; "
            f"give one and up to {MOST_DOCUMENTS}, or as many of each",
            parameter="text_2",
        )
    return list(zip(first, second, strict=True))
