"""Drafters for tests: one that knows what the replies will be, and errs as often as it is told to."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from glm_crush.engine.request import Request
from glm_crush.engine.speculation import Drafter
from glm_crush.types import RequestOutput
from tests.engine.scripted import VOCAB_SIZE


class KnownReplies(Drafter):
    """Guesses the rest of replies known from a plain run; each guess is wrong with probability `error`.

    Requests are told apart by prompt, seed and index. `drafts` keeps what was guessed.
    """

    def __init__(
        self,
        outputs: Sequence[RequestOutput],
        *,
        error: float = 0.0,
        rate: float = 0.95,
        seed: int = 0,
        vocab_size: int = VOCAB_SIZE,
    ) -> None:
        self.first_rates: Sequence[float] = (rate,)
        self.drafts: list[tuple[int, ...]] = []
        self.forgotten: list[Request] = []
        self._seed = seed
        self._error = error
        self._vocab_size = vocab_size
        self._replies = {
            (output.prompt_token_ids, completion.index): completion.token_ids
            for output in outputs
            for completion in output.outputs
        }

    def certainty(self, request: Request) -> int | None:
        return 0 if self._rest(request) else None

    def draft(self, lengths: Mapping[Request, int]) -> dict[Request, Sequence[int]]:
        drafts: dict[Request, Sequence[int]] = {}
        for request, length in lengths.items():
            first = request.num_output_tokens
            rest = self._rest(request)[:length]
            drafts[request] = tuple(
                (token + self._errs_at(place)) % self._vocab_size for place, token in enumerate(rest, first)
            )
            self.drafts.append(tuple(drafts[request]))
        return drafts

    def forget(self, request: Request) -> None:
        self.forgotten.append(request)

    def _rest(self, request: Request) -> tuple[int, ...]:
        prompt = tuple(request.token_ids[: request.num_prompt_tokens])
        return self._replies[prompt, request.index][request.num_output_tokens :]

    def _errs_at(self, place: int) -> bool:
        """Of the place alone, not of when it is asked."""
        return random.Random(f"{self._seed}/{place}").random() < self._error
