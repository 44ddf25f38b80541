"""How completions of several prompts are answered: stream or collect, count.

A request is read, checked and encoded before the reply begins, so that every refusal has its own status; the
engine's refusal comes with its first answer, before the stream's first byte.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from glm_crush.engine.output import OutputCollector, RequestDelta
from glm_crush.serving.client_names import client_names
from glm_crush.serving.deltas import merge_streams
from glm_crush.serving.event_stream import EventStream, run_until_disconnect
from glm_crush.serving.json_http import json_response
from glm_crush.serving.openai.chunks import DONE, ChunkWriter, ReplyHead, error_event
from glm_crush.serving.openai.protocol import GenerationRequest
from glm_crush.serving.served_model import Generation, ServedModel
from glm_crush.types import RequestOutput, Usage

__all__ = ["Exchange", "new_head", "total_usage"]

# (writer, number of the choice, what is new, whether it is the choice's first) -> encoded chunks
EncodeDelta = Callable[[ChunkWriter, int, RequestDelta, bool], list[bytes]]
MoreUsage = Callable[[Sequence[RequestOutput]], Mapping[str, Any]]
BuildReply = Callable[[Sequence[RequestOutput]], dict[str, Any]]


def new_head(prefix: str, model: ServedModel) -> ReplyHead:
    """A fresh reply id and the time."""
    return ReplyHead(
        id=f"{prefix}-{uuid.uuid4().hex}", created=int(time.time()), model=model.name, fingerprint=model.fingerprint
    )


def total_usage(outputs: Sequence[RequestOutput]) -> Usage:
    """Sums over the prompts of one request."""
    return Usage(
        prompt_tokens=sum(output.usage.prompt_tokens for output in outputs),
        completion_tokens=sum(output.usage.completion_tokens for output in outputs),
        cached_tokens=sum(output.usage.cached_tokens for output in outputs),
        accepted_prediction_tokens=sum(output.usage.accepted_prediction_tokens for output in outputs),
        rejected_prediction_tokens=sum(output.usage.rejected_prediction_tokens for output in outputs),
    )


class Exchange:
    """One request with its queued generations, answered as a stream or as one object.

    Args:
        request: what the client asked for.
        generations: one per prompt; the engine takes them in when their first delta is asked for.
        replies_per_prompt: the request's `n`.
        prompt_name: the field that holds the prompt.
        ping_interval_seconds: see `EventStream`.
        more_usage: what the counts of a stream say beside numbers.
    """

    def __init__(
        self,
        request: GenerationRequest,
        generations: Sequence[Generation],
        *,
        replies_per_prompt: int,
        prompt_name: str,
        ping_interval_seconds: float,
        more_usage: MoreUsage,
    ) -> None:
        self._more_usage = more_usage
        self._request = request
        self._prompt_name = prompt_name
        self._streams = [generation.deltas for generation in generations]
        self._collectors = [
            OutputCollector(str(number), generation.prompt_token_ids, n=replies_per_prompt)
            for number, generation in enumerate(generations)
        ]
        self._replies_per_prompt = replies_per_prompt
        self._ping_interval = ping_interval_seconds

    async def respond(
        self, http: Request, head: ReplyHead, chunk_kind: str, encode_delta: EncodeDelta, build_reply: BuildReply
    ) -> Response:
        """The HTTP response; a client that goes away ends the generation in both cases."""
        if self._request.stream:
            events = self._events(head, chunk_kind, encode_delta)
            return EventStream(events, encode_error=error_event, ping_interval_seconds=self._ping_interval)
        outputs = await run_until_disconnect(self._collect(), http.receive)
        return Response(status_code=499) if outputs is None else json_response(build_reply(outputs))

    async def _collect(self) -> list[RequestOutput]:
        """The whole output of every prompt."""
        with self._client_names():
            async for number, delta in merge_streams(self._streams):
                self._collectors[number].add(delta)
        return [collector.output() for collector in self._collectors]

    async def _events(self, head: ReplyHead, chunk_kind: str, encode_delta: EncodeDelta) -> AsyncGenerator[bytes, None]:
        options = self._request.stream_options
        include_usage = options is not None and options.include_usage
        writer = ChunkWriter(head, chunk_kind, include_usage=include_usage)
        begun: set[int] = set()
        deltas = merge_streams(self._streams)
        try:
            with self._client_names():
                async for number, delta in deltas:
                    if include_usage:
                        self._collectors[number].add(delta)
                    choice = number * self._replies_per_prompt + delta.index
                    if delta.progress is not None:
                        yield writer.progress(choice, "text", delta.progress)
                        continue
                    chunks = encode_delta(writer, choice, delta, choice not in begun)
                    begun.add(choice)
                    if chunks:
                        yield b"".join(chunks)
            if include_usage:
                outputs = [collector.output() for collector in self._collectors]
                yield writer.usage(total_usage(outputs), more=self._more_usage(outputs))
            yield DONE
        finally:
            await deltas.aclose()

    def _client_names(self) -> AbstractContextManager[None]:
        return client_names(prompt=self._prompt_name, form="structured_outputs")
