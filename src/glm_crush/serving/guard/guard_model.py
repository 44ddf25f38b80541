"""A served chat model as a judge of texts: held to a verdict by a grammar, scored by the verdict's probability.

Above: checks of whole texts, the moderator. Below: the turn, without a guard of its own. Its tokens are the server's,
not the caller's.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from glm_crush.chat.reply_format import ReplyWish
from glm_crush.errors import EngineError
from glm_crush.serving.chat_turn import TurnRequest, prepare_turn
from glm_crush.serving.gateway.admission import acting_for_server
from glm_crush.serving.served_model import ServedModel
from glm_crush.serving.served_models import ServedModels
from glm_crush.types import Message, SamplingParams, StructuredOutput, TokenLogprobs

__all__ = ["QUESTIONS", "GuardModel", "Style"]

Style = Literal["questions", "llama-guard"]

# What OpenAI's categories are, as a question asks for it.
QUESTIONS: Mapping[str, str] = MappingProxyType(
    {
        "harassment": "insults, bullying or harassing language towards somebody",
        "harassment/threatening": "harassment together with threats of violence",
        "hate": "hatred of people for their race, gender, religion, nationality, sexual orientation or disability",
        "hate/threatening": "such hatred together with threats of violence",
        "illicit": "instructions or advice on how to commit a crime",
        "illicit/violent": "instructions for violent crimes or for getting weapons",
        "self-harm": "suicide, self-injury or eating disorders being promoted or described",
        "self-harm/instructions": "instructions on how to harm oneself",
        "self-harm/intent": "somebody saying that they harm themselves or intend to",
        "sexual": "sexually explicit content",
        "sexual/minors": "sexual content about somebody under 18",
        "violence": "death, violence or physical injury",
        "violence/graphic": "violence in graphic detail",
    }
)
_HARM = "hatred, harassment, threats, sexual content, self-harm, violence or help with a crime"
# MLCommons' hazards, which Llama Guard 3 answers with, as OpenAI's categories; what has none keeps a name of its own.
_HAZARDS: Mapping[str, str] = MappingProxyType(
    {
        "S1": "illicit/violent",
        "S2": "illicit",
        "S3": "sexual",
        "S4": "sexual/minors",
        "S5": "defamation",
        "S6": "specialised_advice",
        "S7": "privacy",
        "S8": "intellectual_property",
        "S9": "illicit/violent",
        "S10": "hate",
        "S11": "self-harm",
        "S12": "sexual",
        "S13": "elections",
        "S14": "illicit",
    }
)
_CODES = " | ".join(f'"{code}"' for code in _HAZARDS)
_HAZARD_FORM = StructuredOutput.lark(f'start: "safe" | "unsafe\\n" code ("," code)*\ncode: {_CODES}')
_YES_OR_NO = StructuredOutput.choice(["yes", "no"])
_NEUTRAL = "The meeting begins at ten in the morning."
_NEUTRAL_LOGIT = math.log(0.05 / 0.95)  # a harmless text scores no higher than 0.05


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What the model said, and the log-odds of its first token being the one that begins the worse verdict."""

    text: str
    logit: float


class GuardModel:
    """Asks a served model.

    A small model says yes more often than it should, so each question is asked once about a harmless text too, and
    where that scores above 0.05 all scores of the question are lowered by as much (in log-odds).

    Args:
        models: it is one of these. name: of the model. style: how it is asked.
    """

    def __init__(self, models: ServedModels, name: str, style: Style) -> None:
        self.name = name
        self._models = models
        self._style: Style = style
        self._shifts: dict[str, float] = {}

    async def harm(self, text: str) -> float:
        """How likely a text is harmful at all, in [0, 1].

        Raises:
            OverloadedError, EngineError: it cannot judge now.
        """
        if self._style == "llama-guard":
            return max((await self.categories(text)).values(), default=0.0)
        return await self._answer(text, _HARM)

    async def categories(self, text: str) -> Mapping[str, float]:
        """The same for each category. Raises as `harm`."""
        if self._style == "llama-guard":
            return await self._hazards(text)
        scores = await asyncio.gather(*(self._answer(text, question) for question in QUESTIONS.values()))
        return dict(zip(QUESTIONS, scores, strict=True))

    async def _answer(self, text: str, question: str) -> float:
        if question not in self._shifts:
            neutral = await self._ask(_question(_NEUTRAL, question), _YES_OR_NO, ("yes", "no"))
            self._shifts[question] = min(0.0, _NEUTRAL_LOGIT - neutral.logit)
        verdict = await self._ask(_question(text, question), _YES_OR_NO, ("yes", "no"))
        return _probability(verdict.logit + self._shifts[question])

    async def _hazards(self, text: str) -> Mapping[str, float]:
        verdict = await self._ask([{"role": "user", "content": text}], _HAZARD_FORM, ("unsafe", "safe"))
        codes = verdict.text.partition("\n")[2].split(",")
        found = {_HAZARDS[code] for code in codes if code in _HAZARDS}
        score = _probability(verdict.logit)
        return {name: score if name in found else 0.0 for name in dict.fromkeys(_HAZARDS.values())}

    async def _ask(self, messages: Sequence[Message], form: StructuredOutput, words: tuple[str, str]) -> _Verdict:
        params = SamplingParams(max_tokens=48, temperature=0.0, logprobs=20)
        request = TurnRequest(
            messages=messages,
            params=params,
            wish=ReplyWish(answer=form),
            variables={"enable_thinking": False},
            context_policy="truncate",
        )
        with acting_for_server():
            async with self._models.use(self.name) as model:
                model = replace(model, guard=None)
                reply = (await (await prepare_turn(model, request)).result()).replies[0]
                if not reply.logprobs:
                    raise EngineError(f"the guard model {self.name} gave no verdict; send the request again")
                return _Verdict(reply.content, _log_odds(reply.logprobs[0], words, model))


def _question(text: str, question: str) -> list[Message]:
    """The text first: questions about the same one share what is computed of it."""
    return [
        {"role": "system", "content": "You check texts for a moderator. You answer with yes or no."},
        {
            "role": "user",
            "content": f"The text, between the marks:\n<text>\n{text}\n</text>\n\nDoes this text contain {question}? "
            "Answer yes or no.",
        },
    ]


def _log_odds(token: TokenLogprobs, words: tuple[str, str], model: ServedModel) -> float:
    """Of the first word against the second, by the tokens that begin one of them and not the other."""
    likely = {token.token_id: token.logprob, **dict(token.top)}
    logprobs: dict[str, list[float]] = {word: [] for word in words}
    for token_id, logprob in likely.items():
        piece = model.codec.decode([token_id]).strip().lower()
        begun = [word for word in words if piece and word.startswith(piece)]
        if len(begun) == 1:
            logprobs[begun[0]].append(logprob)
    least = min(likely.values())  # of a word that is not among the likely ones no more is known
    worse, better = (_sum(logprobs[word]) if logprobs[word] else least for word in words)
    return worse - better


def _sum(logprobs: Sequence[float]) -> float:
    largest = max(logprobs)
    if largest == -math.inf:
        return -1000.0
    return largest + math.log(sum(math.exp(logprob - largest) for logprob in logprobs))


def _probability(logit: float) -> float:
    return round(1.0 / (1.0 + math.exp(-max(-60.0, min(60.0, logit)))), 6)
