"""Best of n: which of several replies are returned, and by whose judgement."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from glm_crush import RerankModel
from glm_crush.engine.best_of import LikelihoodScorer, MeanLogprob, RewardScorer, best_of_params, select_best
from glm_crush.errors import InvalidParameterError
from glm_crush.types import CompletionOutput, RequestOutput, SamplingParams, TokenLogprobs, Usage
from tests.engine.scripted import greedy, sampled
from tests.engine.tiny_encoders import RERANKER
from tests.engine.tiny_model import make_llm
from tests.models.tiny_encoder import encoder_checkpoint

pytestmark = pytest.mark.requirement("E1")


def make_output(*replies: tuple[str, Sequence[float]]) -> RequestOutput:
    outputs = tuple(
        CompletionOutput(
            i, text, (1,) * len(logprobs), "stop", logprobs=tuple(TokenLogprobs(1, x, ()) for x in logprobs)
        )
        for i, (text, logprobs) in enumerate(replies)
    )
    return RequestOutput("r", (1, 2), outputs, Usage(2, 9))


def test_the_mean_logprob_does_not_punish_length() -> None:
    output = make_output(("short", [-2.0]), ("long", [-1.0, -1.5, -0.5]), ("bad", [-3.0, -3.0]))
    best = select_best(output, 2, MeanLogprob())
    assert [(reply.index, reply.text, reply.score) for reply in best.outputs] == [(0, "long", -1.0), (1, "short", -2.0)]
    assert best.usage.completion_tokens == 9  # what was drawn was paid for


def test_of_equal_scores_the_reply_drawn_first_wins() -> None:
    best = select_best(make_output(("a", [-1.0]), ("b", [-1.0])), 1, MeanLogprob(), keep_logprobs=False)
    assert [(reply.text, reply.logprobs) for reply in best.outputs] == [("a", None)]


def test_as_many_are_drawn_as_are_compared() -> None:
    params = best_of_params(SamplingParams(n=2, seed=3), 5)
    assert (params.n, params.logprobs, params.seed) == (5, 0, 3)


def test_a_scorer_that_miscounts_is_refused() -> None:
    class Lazy:
        def scores(self, output: RequestOutput) -> list[float]:
            return [1.0]

    with pytest.raises(InvalidParameterError, match="1 scores for 2 replies"):
        select_best(make_output(("a", [-1.0]), ("b", [-1.0])), 1, Lazy())


def test_an_llm_returns_the_reply_it_finds_likeliest_of_those_drawn(tmp_path) -> None:
    with make_llm(tmp_path) as llm:
        [best] = llm.best_of("hello", sampled(6, seed=4, n=2), best_of=5)
        [drawn] = llm.generate("hello", sampled(6, seed=4, n=5, logprobs=0))
    means = {reply.text: sum(t.logprob for t in reply.logprobs) / len(reply.logprobs) for reply in drawn.outputs}
    ranked = sorted(means, key=lambda text: -means[text])[:2]
    assert [reply.text for reply in best.outputs] == ranked
    assert [reply.score for reply in best.outputs] == [means[text] for text in ranked]
    assert best.outputs[0].logprobs is None


def test_a_function_of_prompt_and_reply_may_judge(tmp_path) -> None:
    seen = []

    def shortest(prompt: str, reply: str) -> float:
        seen.append(prompt)
        return -len(reply)

    with make_llm(tmp_path) as llm:
        [best] = llm.best_of("hello", sampled(6, seed=4), best_of=4, scorer=shortest)
        [drawn] = llm.generate("hello", sampled(6, seed=4, n=4))
    assert best.outputs[0].text == min((reply.text for reply in drawn.outputs), key=len)
    assert seen == ["hello"] * 4


def test_another_model_may_judge_by_how_likely_it_finds_the_reply(tmp_path) -> None:
    with make_llm(tmp_path / "a") as llm, make_llm(tmp_path / "b", family="glm4") as judge:
        [best] = llm.best_of("hello", sampled(4, seed=4), best_of=3, scorer=LikelihoodScorer(judge, llm.codec.decode))
        [drawn] = llm.generate("hello", sampled(4, seed=4, n=3))
        wanted = {}
        for reply in drawn.outputs:
            prompt_length = len(judge.codec.encode("hello"))
            [whole] = judge.generate("hello" + reply.text, greedy(1, prompt_logprobs=0))
            tail = [token.logprob for token in whole.prompt_logprobs[prompt_length:]]
            wanted[reply.text] = sum(tail) / len(tail)
    assert best.outputs[0].text == max(wanted, key=wanted.__getitem__)
    assert best.outputs[0].score == pytest.approx(max(wanted.values()))


def test_a_reward_model_rates_all_replies_of_a_prompt_at_once_and_none_without_text() -> None:
    @dataclass
    class Rating:
        scores: list[float]

    class Judge:
        def score(self, query: str, documents: Sequence[str]) -> Rating:
            assert query == "prompt [1, 2]"
            return Rating([{"good": 0.9, "poor": 0.1}[text] for text in documents])

    output = make_output(("poor", [-1.0]), (" ", [-1.0]), ("good", [-9.0]))
    best = select_best(output, 3, RewardScorer(Judge(), lambda ids: f"prompt {list(ids)}"))
    assert [(reply.text, reply.score) for reply in best.outputs] == [("good", 0.9), ("poor", 0.1), (" ", -math.inf)]


def test_a_real_cross_encoder_may_be_the_reward_model(tmp_path) -> None:
    judge = RerankModel(encoder_checkpoint("bert", tmp_path / "judge", **RERANKER))
    with make_llm(tmp_path / "model") as llm:
        scorer = RewardScorer(judge, llm.codec.decode)
        [best] = llm.best_of("hello", sampled(6, seed=4, n=2), best_of=4, scorer=scorer)
        [drawn] = llm.generate("hello", sampled(6, seed=4, n=4))
        texts = [reply.text for reply in drawn.outputs if reply.text.strip()]
        rated = judge.score("hello", texts).scores
    assert [reply.score for reply in best.outputs] == sorted(rated, reverse=True)[:2]


def test_presets_sample_by_purpose_and_leave_everything_else() -> None:
    published = SamplingParams(temperature=0.6, top_p=0.95, top_k=20, max_tokens=None, seed=3)
    assert SamplingParams.preset("chat", max_tokens=5) == SamplingParams(temperature=0.7, top_p=0.9, max_tokens=5)
    assert published.with_preset("code") == SamplingParams(temperature=0.0, max_tokens=None, seed=3)
    assert published.with_preset("creative") == SamplingParams(temperature=1.0, top_k=50, max_tokens=None, seed=3)
    assert published.with_preset("precise") == SamplingParams(temperature=0.3, max_tokens=None, seed=3)
    assert published.with_preset("default") == published
    with pytest.raises(InvalidParameterError, match="there are chat, code, creative, precise, default"):
        SamplingParams.preset("loud")
