"""What the parent knows of a request until its last reply has ended: enough to run it again.

Above: the supervisor. A reply does not depend on who runs it or beside whom, so a second run yields the same tokens:
what the reader already has is left out of it.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from dataclasses import dataclass, field, replace

import msgspec

from glm_crush.engine.output import RequestDelta
from glm_crush.engine.process.wire import Submit
from glm_crush.engine.stream import TokenStream
from glm_crush.errors import EngineError

__all__ = ["OpenRequest"]


@dataclass
class _Reply:
    """One of the `n` replies: what its reader has, and how far the present run has come."""

    token_ids: array[int] = field(default_factory=lambda: array("i"))
    num_characters: int = 0
    finished: bool = False
    num_seen_tokens: int = 0
    num_seen_characters: int = 0


@dataclass(eq=False)
class OpenRequest:
    """A request that has been taken and has not ended.

    Attributes:
        submit: what the child is sent. resume: whether a reply that has begun may be gone on with by another child.
        patience_until: when it is refused if no child has it. deadline: when it must be done; None = some time. Both on
            the supervisor's clock.
        num_runs: how often a child has been sent it. begun: its reader has something.
    """

    stream: TokenStream
    submit: Submit
    resume: bool
    patience_until: float
    deadline: float | None = None
    num_runs: int = 0
    begun: bool = False
    num_open: int = field(init=False)
    _replies: defaultdict[int, _Reply] = field(init=False, default_factory=lambda: defaultdict(_Reply))

    def __post_init__(self) -> None:
        self.num_open = self.submit.params.n

    def start_again(self, now: float) -> None:
        """The next delta is the first of another run, which has what is left of the time."""
        if self.deadline is not None:
            self.submit = msgspec.structs.replace(self.submit, deadline_seconds=max(0.0, self.deadline - now))
        for reply in self._replies.values():
            reply.num_seen_tokens = reply.num_seen_characters = 0

    def absorb(self, delta: RequestDelta) -> RequestDelta | None:
        """What of a delta is new to the reader, if anything is.

        Raises:
            EngineError: this run does not say what the one before had said.
        """
        self.begun = self.begun or delta.progress is None  # how far a prompt was read is no part of the reply
        reply = self._replies[delta.index] if self.resume else None
        if reply is not None and reply.finished:
            return None
        self.num_open -= delta.finish_reason is not None
        return delta if reply is None else self._new_part(reply, delta)

    @staticmethod
    def _new_part(reply: _Reply, delta: RequestDelta) -> RequestDelta | None:
        num_old_tokens = min(len(reply.token_ids) - reply.num_seen_tokens, len(delta.token_ids))
        num_old_characters = min(reply.num_characters - reply.num_seen_characters, len(delta.text))
        old = reply.token_ids[reply.num_seen_tokens : reply.num_seen_tokens + num_old_tokens]
        if tuple(old) != delta.token_ids[:num_old_tokens]:
            raise EngineError("The engine died, and its successor went on with other tokens; send the request again.")
        reply.num_seen_tokens += len(delta.token_ids)
        reply.num_seen_characters += len(delta.text)
        reply.finished = delta.finish_reason is not None
        if num_old_tokens or num_old_characters:
            delta = _without_beginning(delta, num_old_tokens, num_old_characters, had_some=bool(reply.token_ids))
        reply.token_ids.extend(delta.token_ids)
        reply.num_characters += len(delta.text)
        is_new = delta.token_ids or delta.text or delta.finish_reason is not None or delta.progress is not None
        return delta if is_new else None


def _without_beginning(delta: RequestDelta, num_tokens: int, num_characters: int, *, had_some: bool) -> RequestDelta:
    return replace(
        delta,
        token_ids=delta.token_ids[num_tokens:],
        text=delta.text[num_characters:],
        logprobs=None if delta.logprobs is None else delta.logprobs[num_tokens:],
        prompt_logprobs=None if had_some else delta.prompt_logprobs,
    )
