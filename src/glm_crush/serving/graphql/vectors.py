"""Vectors, rankings, tokens and models: the resolvers of what costs no generation.

Above: the schema. Below: the functions that the OpenAI routes use too.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any, cast

from glm_crush.errors import RequestError
from glm_crush.serving.graphql import outputs
from glm_crush.serving.graphql.context import OperationContext
from glm_crush.serving.graphql.inputs import EmbeddingInput, RerankInput
from glm_crush.serving.graphql.scalars import TokenIds, Vector
from glm_crush.serving.graphql.translate import embedding_request, rerank_request
from glm_crush.serving.openai.embeddings import compute_vectors
from glm_crush.serving.openai.models import model_cards
from glm_crush.serving.openai.rerank import compute_ranking

__all__ = ["detokenize", "embed", "list_models", "rerank", "tokenize"]


async def embed(context: OperationContext, given: EmbeddingInput) -> outputs.Embeddings:
    """One vector per text."""
    try:
        done = await compute_vectors(context.models.encoders, embedding_request(given))
    except RequestError as error:
        if error.parameter is not None and error.parameter.partition("[")[0] == "input":
            error.parameter = error.parameter.replace("input", "texts", 1)
        raise
    context.num_numbers += done.rows.size
    rows = done.rows.tolist()
    return outputs.Embeddings(
        model=done.model,
        dimensions=done.rows.shape[1],
        vectors=cast("list[Vector]", rows),
        prompt_tokens=done.num_tokens,
    )


async def rerank(context: OperationContext, given: RerankInput) -> outputs.Ranking:
    """The documents, best first."""
    done = await compute_ranking(context.models.encoders, rerank_request(given))
    return outputs.Ranking(
        model=done["model"],
        method=done["method"],
        results=[
            outputs.Ranked(
                index=row["index"], relevance_score=row["relevance_score"], document=given.documents[row["index"]]
            )
            for row in done["results"]
        ],
        prompt_tokens=done["usage"]["prompt_tokens"],
    )


async def tokenize(context: OperationContext, text: str, model_name: str | None) -> TokenIds:
    """Ids of a text, with what the model wants at the start."""
    async with context.models.use(model_name) as model:
        context.admission.check_model(model.name)
        token_ids = await model.encode_text(text)
        context.num_numbers += len(token_ids)
        return TokenIds(token_ids)


async def detokenize(context: OperationContext, token_ids: list[int], model_name: str | None) -> str:
    """Text of ids."""
    async with context.models.use(model_name) as model:
        context.admission.check_model(model.name)
        checked = model.check_token_ids(token_ids, "tokenIds")
        return await asyncio.to_thread(model.codec.decode, checked)


def list_models(context: OperationContext) -> list[outputs.Model]:
    """What can be asked, loaded or not."""
    return [_model(card) for card in model_cards(context.models)]


def _model(card: dict[str, Any]) -> outputs.Model:
    able = card["capabilities"]
    return outputs.Model(
        name=card["id"],
        created=datetime.fromtimestamp(card["created"], UTC),
        context_length=card["max_model_len"],
        is_loaded=card["status"]["value"] == "loaded",
        capabilities=None
        if not able
        else outputs.Capabilities(
            completion=able["completion"],
            chat=able["chat"],
            tools=able.get("tools", False),
            reasoning=able.get("reasoning", False),
            structured_outputs=able.get("structured_outputs", False),
            embeddings=able.get("embeddings", False),
            rerank=able.get("rerank", False),
        ),
        dimensions=card.get("dimensions"),
        root=card["root"],
        parent=card["parent"],
    )
