"""POST /v1/embeddings: texts or token ids to vectors, as OpenAI's and vLLM's clients ask for them."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from glm_crush.errors import InvalidParameterError
from glm_crush.serving.event_stream import run_until_disconnect
from glm_crush.serving.json_http import StrictModel, json_response, read_request
from glm_crush.serving.openai.replies import Embeddings
from glm_crush.serving.openapi import Endpoint
from glm_crush.serving.routing import ApiRoute
from glm_crush.serving.served_encoder import ServedEncoders

if TYPE_CHECKING:
    from glm_crush.engine.encoder import TextInput
    from glm_crush.engine.encoder_runner import Float32

__all__ = ["LARGE_REPLY", "EmbeddingRequest", "Vectors", "compute_vectors", "embedding_routes", "truncation"]

MOST_INPUTS = 2048  # OpenAI's limit
LARGE_REPLY = 20_000  # numbers; fewer are written in about a millisecond


class EmbeddingRequest(StrictModel):
    """POST /v1/embeddings."""

    model: str | None = None
    input: Annotated[str | list[int] | list[str] | list[list[int]], Field(json_schema_extra={"minItems": 1})]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    # as vLLM names it: longer inputs are cut to so many tokens, -1 = to what the model takes
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = None
    # for models that want a word before each text: "query" or "document", or one of the model's own
    input_type: str | None = None
    # identifiers that change nothing in the reply
    user: str | None = None


def embedding_routes(encoders: ServedEncoders) -> list[ApiRoute]:
    """The route over the served embedding models."""
    routes = _Embeddings(encoders)
    return [
        (Endpoint("POST", "/v1/embeddings", "Vectors of texts.", EmbeddingRequest, reply=Embeddings), routes.create)
    ]


class _Embeddings:
    def __init__(self, encoders: ServedEncoders) -> None:
        self._encoders = encoders

    async def create(self, http: Request) -> Response:
        """One vector per input."""
        request = await read_request(EmbeddingRequest, http)
        done = await run_until_disconnect(compute_vectors(self._encoders, request), http.receive)
        if done is None:
            return Response(status_code=499)

        def reply() -> Response:
            data = [
                {"object": "embedding", "index": index, "embedding": embedding}
                for index, embedding in enumerate(_encoded(done.rows, request.encoding_format))
            ]
            usage = {"prompt_tokens": done.num_tokens, "total_tokens": done.num_tokens}
            return json_response({"object": "list", "data": data, "model": done.model, "usage": usage})

        return reply() if done.rows.size < LARGE_REPLY else await asyncio.to_thread(reply)


@dataclass(frozen=True, eq=False)
class Vectors:
    """Float32 `[num_texts, dimensions]` rows, by which model, and how many tokens it read."""

    rows: Float32
    model: str
    num_tokens: int


async def compute_vectors(encoders: ServedEncoders, request: EmbeddingRequest) -> Vectors:
    """One vector per input, whatever protocol asks.

    Raises:
        InvalidParameterError: too many inputs or dimensions. Others as `ServedEncoder.embed`.
    """
    inputs = _inputs(request)
    async with encoders.use(request.model, "embedding model") as model:
        width = model.encoder.runner.width
        if request.dimensions is not None and request.dimensions > width:
            raise InvalidParameterError(
                f"dimensions is {request.dimensions}; {model.name} has {width}, give 1 to {width}",
                parameter="dimensions",
            )
        truncate_to = truncation(request.truncate_prompt_tokens, model.encoder.max_length)
        done = await model.embed(inputs, kind=request.input_type, truncate_to=truncate_to)
        from glm_crush.engine.embedder import shorten_vectors

        return Vectors(shorten_vectors(done.vectors, request.dimensions), model.name, done.num_tokens)


def truncation(wanted: int | None, max_length: int) -> int | None:
    """VLLM's `truncate_prompt_tokens` as a length: None cuts nothing, -1 cuts to what the model takes."""
    return max_length if wanted == -1 else wanted


def _inputs(request: EmbeddingRequest) -> list[TextInput]:
    """One text or list of token ids per wanted vector."""
    given = request.input
    inputs: list[TextInput]
    if isinstance(given, str):
        inputs = [given]
    elif given and all(isinstance(item, int) for item in given):
        inputs = [[item for item in given if isinstance(item, int)]]
    else:
        inputs = [item for item in given if not isinstance(item, int)]
    if not 1 <= len(inputs) <= MOST_INPUTS:
        raise InvalidParameterError(
            f"input holds {len(inputs)} texts; give between 1 and {MOST_INPUTS}", parameter="input"
        )
    return inputs


def _encoded(vectors: Float32, encoding_format: str | None) -> list[Any]:
    """Lists of numbers, or little-endian float32 in base64."""
    if encoding_format == "base64":
        return [base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii") for vector in vectors]
    lists: list[Any] = vectors.tolist()
    return lists
