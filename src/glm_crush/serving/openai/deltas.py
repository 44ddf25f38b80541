"""What is new in a reply: the difference between one `RequestOutput` and the one before."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from glm_crush.errors import EngineError
from glm_crush.types import CompletionOutput, RequestOutput, TokenLogprobs

__all__ = ["Delta", "DeltaTracker", "merge_streams"]


@dataclass(frozen=True, slots=True)
class Delta:
    """The new part of choice `index`; `first` marks its first one, `finish_reason` its last."""

    index: int
    text: str
    first: bool
    finish_reason: str | None
    logprobs: Sequence[TokenLogprobs] | None


class DeltaTracker:
    """Remembers how much of each choice has been sent.

    Args:
        first_index: number of choice 0 of this prompt (several prompts in one completion request).
    """

    def __init__(self, first_index: int = 0) -> None:
        self._first_index = first_index
        self._sent: dict[int, tuple[int, int]] = {}
        self._finished: set[int] = set()

    def update(self, output: RequestOutput) -> list[Delta]:
        """The deltas that `output` adds to what was seen before.

        Raises:
            EngineError: the engine aborted a choice.
        """
        return [delta for reply in output.outputs if (delta := self._delta(reply)) is not None]

    def _delta(self, reply: CompletionOutput) -> Delta | None:
        if reply.index in self._finished:
            return None
        if reply.finish_reason == "abort":
            raise EngineError("the request was aborted before it was finished; send it again")
        first = reply.index not in self._sent
        num_chars, num_logprobs = self._sent.get(reply.index, (0, 0))
        text = reply.text[num_chars:]
        logprobs = reply.logprobs[num_logprobs:] if reply.logprobs is not None else None
        if not text and not first and not reply.finish_reason:
            return None  # half a character so far, or text held back because it may become a stop string
        self._sent[reply.index] = (len(reply.text), len(reply.logprobs or ()))
        if reply.finish_reason:
            self._finished.add(reply.index)
        return Delta(self._first_index + reply.index, text, first, reply.finish_reason, logprobs)


async def merge_streams(streams: Sequence[AsyncIterator[RequestOutput]]) -> AsyncIterator[tuple[int, RequestOutput]]:
    """Outputs of several requests as they come, each with the number of its stream; closes all at the end."""
    if len(streams) == 1:
        try:
            async for output in streams[0]:
                yield 0, output
        finally:
            await _close(streams[0])
        return
    queue: asyncio.Queue[tuple[int, RequestOutput | BaseException | None]] = asyncio.Queue()

    async def pump(number: int, stream: AsyncIterator[RequestOutput]) -> None:
        try:
            async for output in stream:
                queue.put_nowait((number, output))
            queue.put_nowait((number, None))
        except Exception as error:  # noqa: BLE001 - handed to the consumer, which raises it
            queue.put_nowait((number, error))

    pumps = [asyncio.create_task(pump(number, stream)) for number, stream in enumerate(streams)]
    try:
        open_streams = len(streams)
        while open_streams:
            number, item = await queue.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                open_streams -= 1
            else:
                yield number, item
    finally:
        for task in pumps:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        for stream in streams:
            await _close(stream)


async def _close(stream: AsyncIterator[RequestOutput]) -> None:
    close = getattr(stream, "aclose", None)
    if close is not None:
        await close()
