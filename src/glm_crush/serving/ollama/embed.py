"""POST /api/embed, and /api/embeddings as older clients call it.

Above: the routes. Below: the served embedding models.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from glm_crush.errors import InvalidParameterError
from glm_crush.serving.event_stream import run_until_disconnect
from glm_crush.serving.json_http import json_response, read_request
from glm_crush.serving.keep_alive import keep_alive_seconds
from glm_crush.serving.ollama.names import known_encoder
from glm_crush.serving.ollama.options import merged_options, wanted
from glm_crush.serving.ollama.protocol import EmbeddingFields, EmbeddingsRequest, EmbedRequest
from glm_crush.serving.ollama.wishes import refuse_unless
from glm_crush.serving.served_encoder import EmbeddedTexts, ServedEncoder
from glm_crush.serving.served_models import ServedModels

if TYPE_CHECKING:
    from glm_crush.engine.encoder_runner import Float32

__all__ = ["Embedding"]

_MOST_INPUTS = 2048
_LARGE_REPLY = 20_000  # numbers; fewer are written in about a millisecond


class Embedding:
    """The routes that turn texts into vectors."""

    def __init__(self, models: ServedModels) -> None:
        self._models = models

    async def embed(self, http: Request) -> Response:
        """One vector of length 1 for each text."""
        started = time.perf_counter()
        request = await read_request(EmbedRequest, http)
        texts = [request.input] if isinstance(request.input, str) else request.input
        if len(texts) > _MOST_INPUTS:
            raise InvalidParameterError(
                f"input holds {len(texts)} texts; give at most {_MOST_INPUTS}", parameter="input"
            )
        async with self._use(request) as model:
            width = model.encoder.runner.width
            if request.dimensions is not None and request.dimensions > width:
                raise InvalidParameterError(
                    f"dimensions is {request.dimensions}; {model.name} has {width}, give 1 to {width}",
                    parameter="dimensions",
                )
            queued = time.perf_counter()
            done = await self._vectors(request, model, texts, http, cut=request.truncate is not False)
        if done is None:
            return Response(status_code=499)
        # Ollama's vectors have length 1 whatever the model gives.
        from glm_crush.engine.embedder import shorten_vectors
        from glm_crush.engine.reranker import unit_vectors

        vectors = unit_vectors(shorten_vectors(done.vectors, request.dimensions)) if texts else done.vectors
        body = {
            "model": request.model,
            "embeddings": await _lists(vectors),
            "total_duration": round((time.perf_counter() - started) * 1e9),
            "load_duration": round((queued - started) * 1e9),
            "prompt_eval_count": done.num_tokens,
        }
        return json_response(body)

    async def embeddings(self, http: Request) -> Response:
        """The vector of one text, as the model gives it."""
        request = await read_request(EmbeddingsRequest, http)
        async with self._use(request) as model:
            texts = [request.prompt] if request.prompt else []
            done = await self._vectors(request, model, texts, http, cut=True)
        if done is None:
            return Response(status_code=499)
        return json_response({"embedding": done.vectors[0].tolist() if texts else []})

    def _use(self, request: EmbeddingFields) -> AbstractAsyncContextManager[ServedEncoder]:
        name = known_encoder(self._models, request.model)
        keep_alive = None if request.keep_alive is None else keep_alive_seconds(request.keep_alive)
        refuse_unless(
            keep_alive != 0 or not self._models.pool.is_pinned(name),
            "keep_alive",
            request.keep_alive,
            "this model is pinned and stays loaded; give a duration or -1",
        )
        return self._models.encoders.use(name, "embedding model", keep_alive=keep_alive)

    async def _vectors(
        self, request: EmbeddingFields, model: ServedEncoder, texts: Sequence[str], http: Request, *, cut: bool
    ) -> EmbeddedTexts | None:
        """The vectors; None when the client went away. Texts that are too long are cut only if they may be."""
        longest = model.encoder.max_length
        context_length = wanted(merged_options({}, request.options)).context_length or longest
        if context_length > longest:
            raise InvalidParameterError(
                f"options.num_ctx is {context_length}; {model.name} reads {longest} tokens at most",
                parameter="options.num_ctx",
            )
        if not texts:
            import numpy as np

            return EmbeddedTexts(np.zeros((0, 0), np.float32), 0)
        work = model.embed(texts, truncate_to=context_length if cut else None)
        return await run_until_disconnect(work, http.receive)


async def _lists(vectors: Float32) -> list[Any]:
    """Numbers for JSON; many of them are made off the event loop."""
    lists: list[Any] = await asyncio.to_thread(vectors.tolist) if vectors.size > _LARGE_REPLY else vectors.tolist()
    return lists
