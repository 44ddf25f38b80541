"""Deltas of several engine requests as one stream, numbered as the choices of one API reply."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence

from glm_crush.engine.output import RequestDelta
from glm_crush.errors import EngineError

__all__ = ["check_delta", "merge_streams"]


def check_delta(delta: RequestDelta) -> RequestDelta:
    """The delta, unless it says that the reply cannot be finished.

    Raises:
        EngineError: the reply failed or was aborted by somebody else than its client.
    """
    if delta.error is not None:
        raise delta.error
    if delta.finish_reason == "abort":
        raise EngineError("the request was aborted before it was finished; send it again")
    return delta


async def merge_streams(
    streams: Sequence[AsyncGenerator[RequestDelta, None]],
) -> AsyncGenerator[tuple[int, RequestDelta], None]:
    """Deltas of several requests as they come, each with the number of its stream; closes all at the end."""
    if len(streams) == 1:
        try:
            async for delta in streams[0]:
                yield 0, check_delta(delta)
        finally:
            await streams[0].aclose()
        return
    queue: asyncio.Queue[tuple[int, RequestDelta | Exception | None]] = asyncio.Queue()

    async def pump(number: int, stream: AsyncGenerator[RequestDelta, None]) -> None:
        try:
            async for delta in stream:
                queue.put_nowait((number, check_delta(delta)))
            queue.put_nowait((number, None))
        except Exception as error:  # noqa: BLE001 - handed to the consumer, which raises it
            queue.put_nowait((number, error))

    pumps = [asyncio.create_task(pump(number, stream)) for number, stream in enumerate(streams)]
    try:
        open_streams = len(streams)
        while open_streams:
            number, item = await queue.get()
            if isinstance(item, Exception):
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
            await stream.aclose()
