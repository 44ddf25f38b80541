"""A served model as judge: its verdict is always one, whatever the model is, and its score is a probability."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from glm_crush.errors import ConfigError, ContentBlockedError
from glm_crush.guard_settings import GuardSettings
from glm_crush.serving.guard.build import build_guard
from glm_crush.serving.guard.guard_model import QUESTIONS, GuardModel
from glm_crush.serving.guard.part import GuardPart
from glm_crush.serving.guard.policy_file import Topic
from glm_crush.serving.guard.served_checks import TopicCheck
from glm_crush.serving.served_encoder import EmbeddedTexts
from glm_crush.serving.served_model import ServedModel
from glm_crush.serving.served_models import ServedModels
from glm_crush.types import SamplingParams, TokenLogprobs
from tests.serving.scripted import ByteCodec, RunningServer, ScriptedEngine, scripted_model

pytestmark = pytest.mark.requirement("S7")


class AnyGrammar:
    """Takes every form; the scripted engine writes what its script says."""

    def check(self, structured: object) -> None:
        pass


class JudgingEngine(ScriptedEngine):
    """Says yes to texts with the word `bomb`; how sure it is comes from `odds(prompt)`."""

    odds: Callable[[str], float] = staticmethod(lambda prompt: 3.0 if "bomb" in prompt else -5.0)

    def _delta(self, request_id: str, index: int, character: str, reason: Any, params: SamplingParams) -> Any:  # type: ignore[override]
        delta = ScriptedEngine._delta(request_id, index, character, reason, SamplingParams())
        odds = self.odds(self.prompts[-1])
        yes = -math.log1p(math.exp(-odds))
        top = ((ord(self.yes), yes), (ord(self.no), yes - odds))
        return replace(delta, logprobs=(TokenLogprobs(ord(character), max(top[0][1], top[1][1]), top),))

    yes, no = "y", "n"


def judge(engine: ScriptedEngine, style: Any = "questions") -> GuardModel:
    model = ServedModel(
        name="judge", engine=engine, codec=ByteCodec(), context_length=4000, vocab_size=256, grammars=AnyGrammar()
    )
    engine.context_length = 4000
    return GuardModel(ServedModels([model]), "judge", style)


def verdict(prompt: str) -> str:
    return "yes" if "bomb" in prompt else "no"


def test_the_score_is_the_probability_of_yes() -> None:
    model = judge(JudgingEngine(script=verdict))
    assert asyncio.run(model.harm("How do I build a bomb?")) == pytest.approx(1 / (1 + math.exp(-3)), abs=1e-5)
    assert asyncio.run(model.harm("How do I bake bread?")) == pytest.approx(1 / (1 + math.exp(5)), abs=1e-5)


def test_a_model_that_says_yes_to_everything_is_lowered_to_what_a_harmless_text_deserves() -> None:
    engine = JudgingEngine(script=lambda _: "yes")
    engine.odds = lambda prompt: 4.0 if "bomb" in prompt else 2.0  # type: ignore[method-assign]
    model = judge(engine)
    assert asyncio.run(model.harm("bread")) == pytest.approx(0.05, abs=1e-5)
    assert asyncio.run(model.harm("bomb")) == pytest.approx(1 / (1 + math.exp(-(4 - 2 - math.log(19)))), abs=1e-5)


def test_each_category_is_a_question_about_the_same_text() -> None:
    engine = JudgingEngine(script=verdict)
    scores = asyncio.run(judge(engine).categories("a bomb"))
    assert set(scores) == set(QUESTIONS)
    prompts = [prompt for prompt in engine.prompts if "a bomb" in prompt]
    assert len({prompt.partition("</text>")[0] for prompt in prompts}) == 1


def test_llama_guard_names_hazards_of_its_own() -> None:
    engine = JudgingEngine(script=lambda prompt: "unsafe\nS9,S10" if "bomb" in prompt else "safe")
    engine.yes, engine.no = "u", "s"
    scores = asyncio.run(judge(engine, "llama-guard").categories("a bomb"))
    assert {name for name, score in scores.items() if score > 0.9} == {"illicit/violent", "hate"}
    assert max(asyncio.run(judge(engine, "llama-guard").categories("bread")).values()) == 0.0
    assert engine.prompts[-1] == "user:bread|enable_thinking=False|assistant:"


def test_a_real_model_gives_a_verdict_whatever_its_weights_say(glm_models: list[ServedModel]) -> None:
    models = ServedModels(glm_models[1:2])
    for style in ("questions", "llama-guard"):
        score = asyncio.run(GuardModel(models, "default", style).harm("Hello"))  # type: ignore[arg-type]
        assert 0.0 <= score <= 1.0


def test_what_the_model_takes_for_harmful_is_blocked(tmp_path: Path) -> None:
    engine = JudgingEngine(script=verdict, context_length=4000)
    served = ServedModel(
        name="judge", engine=engine, codec=ByteCodec(), context_length=4000, vocab_size=256, grammars=AnyGrammar()
    )
    guard = build_guard(GuardSettings(input="model=block", model="judge"), models=ServedModels([served])).guard
    assert guard is not None
    assert asyncio.run(guard.text("bread", "prompt")) == "bread"
    with pytest.raises(ContentBlockedError, match="rule model"):
        asyncio.run(guard.text("a bomb", "prompt"))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"input": "model=block"}, "name a served one in guard.model"),
        ({"input": "model=block", "model": "other"}, "not served; there is scripted"),
    ],
)
def test_a_judge_that_is_not_there_is_refused_at_the_start(settings: Any, reason: str) -> None:
    models = ServedModels([scripted_model(ScriptedEngine())])
    with pytest.raises(ConfigError, match=reason):
        build_guard(GuardSettings(**settings), models=models)


def test_topics_need_an_embedding_model(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text("[topics.weapons]\nexamples = ['how do I build a bomb']\n")
    with pytest.raises(ConfigError, match="start the server with --embedding-model"):
        build_guard(GuardSettings(rules_file=path, input="topics=block"), models=ServedModels())


class LetterEncoders:
    """One embedding model, whose vectors are counts of letters."""

    task, name = "embed", "letters"
    encoder: Any = type("Encoder", (), {"max_length": 100})

    def __iter__(self) -> Any:
        return iter([self])

    @asynccontextmanager
    async def use(self, name: str | None, wanted: str) -> Any:
        yield self

    async def embed(self, texts: Sequence[str], *, truncate_to: int) -> EmbeddedTexts:
        vectors = np.array([[text.count(letter) for letter in "abcdefgh"] for text in texts], np.float32)
        return EmbeddedTexts(vectors, 1)


def test_topics_are_told_by_their_likeness_to_examples() -> None:
    encoders: Any = LetterEncoders()
    denied = TopicCheck(Topic(name="topics.x", examples=("aab", "ccc"), threshold=0.9), encoders)
    allowed = TopicCheck(replace(denied.topic, is_allowed=True), encoders)
    for text, is_like in (("aaaabb", True), ("c", True), ("hhh", False), ("x" * 600 + "ccc", True)):
        assert asyncio.run(denied.applies(text, "input")) is is_like
        assert asyncio.run(allowed.applies(text, "input")) is not is_like


def test_moderations_by_a_model_have_openais_categories(start_server: Callable[..., RunningServer]) -> None:
    engine = JudgingEngine(script=verdict)
    settings = GuardSettings(model="default")
    server = start_server(engine, parts=lambda models: [GuardPart(with_grammars(models), settings)])
    reply = httpx2.post(f"{server.url}/v1/moderations", json={"input": ["bread", "a bomb"]}).json()
    assert reply["model"] == "default"
    clean, harmful = reply["results"]
    assert (clean["flagged"], clean["categories"]["violence"]) == (False, False)
    assert (harmful["flagged"], harmful["categories"]["violence"]) == (True, True)
    assert harmful["category_scores"]["violence"] == pytest.approx(0.952574, abs=1e-5)


def with_grammars(models: ServedModels) -> ServedModels:
    return ServedModels([replace(model, grammars=AnyGrammar()) for model in models])
