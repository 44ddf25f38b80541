"""Which tokens a request has seen, and how often its reply has used them: what penalties look at.

Above: the sampler. Grows by one token a step instead of being counted again.
"""

from __future__ import annotations

from collections.abc import Sequence

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

    @property
    def ids(self) -> Int32:
        """int32 `[num_distinct]`; a view that the next `update` may extend elsewhere."""
        return self._ids[: self._length]

    @property
    def counts(self) -> Int32:
        """int32 `[num_distinct]`, occurrences in the reply (0 = in the prompt only)."""
        return self._counts[: self._length]

    def after(self, drafts: Sequence[int]) -> tuple[Int32, Int32]:
        """`ids` and `counts` as they would be if the reply went on with `drafts`."""
        if not drafts:
            return self.ids, self.counts
        new = [token for token in dict.fromkeys(drafts) if token not in self._place]
        ids = np.concatenate([self.ids, np.array(new, np.int32)])
        counts = np.concatenate([self.counts, np.zeros(len(new), np.int32)])
        for token in drafts:
            counts[self._place[token] if token in self._place else self._length + new.index(token)] += 1
        return ids, counts

    def _append(self, token: int) -> int:
        place = self._length
        if place == len(self._ids):
            self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        self._ids[place] = token
        self._place[token] = place
        self._length += 1
        return place
