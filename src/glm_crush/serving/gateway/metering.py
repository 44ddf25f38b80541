"""The engine's door: what runs on behalf of a request is metered here, whatever protocol it came by.

Above: `ServedModel.generate`, which every adapter calls. Below: the engine. Without an admission (Python's own API,
tests, warm-up) nothing is metered.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from glm_crush.engine.output import RequestDelta
from glm_crush.serving.gateway.admission import Reservation, current_admission
from glm_crush.types import SamplingParams, Usage

__all__ = ["metered", "metered_prompt"]

Submit = Callable[[], AsyncGenerator[RequestDelta, None]]


async def metered(
    submit: Submit, model: str, prompt_token_ids: Sequence[int], params: SamplingParams
) -> AsyncGenerator[RequestDelta, None]:
    """Reserve before `submit` is called, count what it yields, settle when it ends, however it ends.

    Raises:
        AccessDeniedError, RateLimitError: the key may not, or not now; nothing was queued.
    """
    admission = current_admission()
    reservation: Reservation | None = None
    if admission is not None:
        most = None if params.max_tokens is None else params.max_tokens * max(params.n, params.beam_width or 0)
        reservation = await admission.reserve(model, len(prompt_token_ids), most)
    stream = submit()
    num_tokens = num_cached = 0
    try:
        async for delta in stream:
            num_tokens += len(delta.token_ids)
            if delta.stats is not None:
                num_cached = max(num_cached, delta.stats.num_cached_tokens)
            yield delta
    except Exception:
        if reservation is not None and not num_tokens:
            reservation.cancel()  # refused, or failed: it costs nothing
        raise
    finally:
        await stream.aclose()
        if reservation is not None:  # a client that left before the first token pays for its prompt
            reservation.settle(Usage(len(prompt_token_ids), _num_computed(num_tokens, params), num_cached))


def _num_computed(num_tokens: int, params: SamplingParams) -> int:
    """Tokens that were computed for those that came out: beams that lost have cost as much as those that won."""
    return num_tokens if params.beam_width is None else num_tokens * params.beam_width // params.n


@asynccontextmanager
async def metered_prompt(model: str, num_tokens: int) -> AsyncIterator[None]:
    """Charge what reads tokens and writes none, as embedding does; if the block fails it costs nothing.

    Raises:
        AccessDeniedError, RateLimitError: see `metered`.
    """
    admission = current_admission()
    if admission is None:
        yield
        return
    reservation = await admission.reserve(model, num_tokens, 0)
    try:
        yield
    except BaseException:
        reservation.cancel()
        raise
    reservation.settle(Usage(num_tokens, 0))
