"""Which tokens a request has seen, and how often its reply has used them: what penalties look at.

Above: the sampler. Grows by one token a step instead of being counted again.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from glm_crush.engine.request import Request

__all__ = ["PenaltyHistory"]

Int32 = npt.NDArray[np.int32]


class PenaltyHistory:
    """Distinct tokens of prompt and reply, with their number of occurrences in the reply."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self._num_seen = request.num_prompt_tokens
        prompt = np.frombuffer(request.token_ids, np.int32)[: request.num_prompt_tokens]
        distinct = np.unique(prompt)
        self._length = len(distinct)
        self._ids = np.concatenate([distinct, np.zeros(256, np.int32)])
        self._counts = np.zeros(len(self._ids), np.int32)
        self._place = {token: place for place, token in enumerate(distinct.tolist())}

    def update(self) -> None:
        """Take in the tokens that the reply has gained since the last call."""
        for token in self.request.token_ids[self._num_seen :]:
            place = self._place.get(token)
            if place is None:
                place = self._append(token)
            self._counts[place] += 1
        self._num_seen = self.request.num_tokens

    def __len__(self) -> int:
        return self._length

    @property
    def ids(self) -> Int32:
        """int32 `[len(self)]`; a view that the next `update` may extend elsewhere."""
        return self._ids[: self._length]

    @property
    def counts(self) -> Int32:
        """int32 `[len(self)]`, occurrences in the reply (0 = in the prompt only)."""
        return self._counts[: self._length]

    def _append(self, token: int) -> int:
        place = self._length
        if place == len(self._ids):
            self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        self._ids[place] = token
        self._place[token] = place
        self._length += 1
        return place
