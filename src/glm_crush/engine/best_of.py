"""Best of n: draw several replies, keep those that a scorer likes best.

Above: `llm`, the completions route, `glm run`. Below: `types`. A scorer sees finished outputs only; it may be a
function, a mean, or another model behind the protocol `Generates`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from glm_crush.errors import InvalidParameterError
from glm_crush.types import RequestOutput, SamplingParams

__all__ = [
    "Generates",
    "LikelihoodScorer",
    "MeanLogprob",
    "Rates",
    "ReplyScorer",
    "RewardScorer",
    "TextScorer",
    "best_of_params",
    "select_best",
]


class ReplyScorer(Protocol):
    """Says how good the replies of one prompt are."""

    def scores(self, output: RequestOutput) -> Sequence[float]:
        """One number for each reply, in order; higher is better."""
        ...


class Generates(Protocol):
    """What a scorer needs of another model; `LLM` is one."""

    def generate(self, prompts: Sequence[str], params: SamplingParams) -> list[RequestOutput]:
        """Complete prompts; see `LLM.generate`."""
        ...


class Rating(Protocol):
    """What a rater says; `encoder_protocols.Scores` is one."""

    @property
    def scores(self) -> Sequence[float]:
        """One number for each text, in order; higher is better."""
        ...


class Rates(Protocol):
    """What a scorer needs of a reward model: a classifier of prompt and reply; a `Reranker` is one."""

    def score(self, query: str, documents: Sequence[str]) -> Rating:
        """How good each text is as an answer."""
        ...


class MeanLogprob:
    """The model's own mean log-probability of a reply's tokens."""

    def scores(self, output: RequestOutput) -> list[float]:
        """Raises InvalidParameterError when the replies come without logprobs."""
        means = []
        for reply in output.outputs:
            if reply.logprobs is None:
                raise InvalidParameterError(
                    "replies have no logprobs to be scored by; ask for them", parameter="logprobs"
                )
            means.append(sum(token.logprob for token in reply.logprobs) / max(1, len(reply.logprobs)))
        return means


class TextScorer:
    """A function of prompt and reply, such as a test that the reply passes or a reward model's score.

    Args:
        score: called with the texts of prompt and reply. decode: token ids to text.
    """

    def __init__(self, score: Callable[[str, str], float], decode: Callable[[Sequence[int]], str]) -> None:
        self._score = score
        self._decode = decode

    def scores(self, output: RequestOutput) -> list[float]:
        prompt = self._decode(output.prompt_token_ids)
        return [float(self._score(prompt, reply.text)) for reply in output.outputs]


class RewardScorer:
    """A reward model, or a cross-encoder that says how well a reply answers.

    Args:
        judge: reads the texts of prompt and replies.
        decode: token ids to text.
    """

    def __init__(self, judge: Rates, decode: Callable[[Sequence[int]], str]) -> None:
        self._judge = judge
        self._decode = decode

    def scores(self, output: RequestOutput) -> list[float]:
        """Replies without text, which a judge cannot read, come last."""
        texts = [reply.text for reply in output.outputs if reply.text.strip()]
        rated = iter(self._judge.score(self._decode(output.prompt_token_ids), texts).scores if texts else ())
        return [float(next(rated)) if reply.text.strip() else -math.inf for reply in output.outputs]


class LikelihoodScorer:
    """Another model's mean log-probability of the reply after the prompt.

    Args:
        judge: the other model; it may have another tokenizer. decode: token ids of the first model to text.
    """

    def __init__(self, judge: Generates, decode: Callable[[Sequence[int]], str]) -> None:
        self._judge = judge
        self._decode = decode

    def scores(self, output: RequestOutput) -> list[float]:
        prompt = self._decode(output.prompt_token_ids)
        params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0)
        judged = self._judge.generate([prompt, *(prompt + reply.text for reply in output.outputs)], params)
        alone, *whole = [[token.logprob for token in out.prompt_logprobs or () if token] for out in judged]
        # Where the prompt's last token merges with the reply's first, one token counts to the reply.
        tails = [logprobs[min(len(alone), len(logprobs) - 1) :] for logprobs in whole]
        return [sum(tail) / max(1, len(tail)) for tail in tails]


def best_of_params(params: SamplingParams, best_of: int) -> SamplingParams:
    """The parameters that draw `best_of` replies with what `MeanLogprob` needs.

    Raises:
        InvalidParameterError: fewer are drawn than are wanted, or they are searched for with beams.
    """
    if best_of < params.n:
        raise InvalidParameterError(
            f"best_of is {best_of} and n is {params.n}; the n best of best_of replies are returned: raise best_of",
            parameter="best_of",
        )
    if params.beam_width is not None:
        raise InvalidParameterError(
            "best_of is given with beam search, which returns the best by itself; give beam_width", parameter="best_of"
        )
    return replace(params, n=best_of, logprobs=params.logprobs or 0)


def select_best(output: RequestOutput, n: int, scorer: ReplyScorer, *, keep_logprobs: bool = True) -> RequestOutput:
    """The `n` best replies with their scores, best first; of equal ones the one drawn first. Usage counts them all.

    Raises:
        InvalidParameterError: the scorer gave another number of scores than there are replies.
    """
    scores = list(scorer.scores(output))
    if len(scores) != len(output.outputs):
        raise InvalidParameterError(
            f"the scorer gave {len(scores)} scores for {len(output.outputs)} replies; give one for each",
            parameter="scorer",
        )
    ranked = sorted(zip(scores, output.outputs, strict=True), key=lambda pair: -pair[0])[:n]
    best = tuple(
        replace(reply, index=index, score=score, logprobs=reply.logprobs if keep_logprobs else None)
        for index, (score, reply) in enumerate(ranked)
    )
    return replace(output, outputs=best)
