"""Values that cross layers: messages, sampling parameters, finished outputs.

Nothing here imports anything of ours but errors; everything is frozen.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, Literal, TypedDict

from glm_crush.errors import InvalidParameterError

__all__ = [
    "PRESETS",
    "CacheReport",
    "CompletionOutput",
    "ContextNote",
    "FinishReason",
    "Message",
    "RequestOutput",
    "SamplingParams",
    "StructuredOutput",
    "TokenLogprobs",
    "Usage",
]

FinishReason = Literal["stop", "length", "abort", "content_filter"]  # the last one is said by the guard alone


class Message(TypedDict, total=False):
    """One chat message in the OpenAI shape, as chat templates expect it."""

    role: str
    content: str | list[dict[str, object]] | None
    name: str
    reasoning_content: str | None
    tool_calls: list[dict[str, object]]
    tool_call_id: str


@dataclass(frozen=True, kw_only=True)
class StructuredOutput:
    """What a reply must look like, to the letter; made by `json_schema`, `json_object`, `regex`, `choice` or `lark`.

    Attributes:
        kind, grammar: the language and the text in it (a schema as JSON text).
        begins: "now": with the first token. "after_reasoning": the reply begins inside the model's reasoning, which is
            free, and the grammar holds after it. "open": the model may reason first. "at_call": the reply is free, and
            the grammar holds from each `call_token_id` until it is complete.
        think_token_ids: `<think>` and `</think>`, for models that reason.
        call_token_id: the token that begins the grammar wherever it comes, and is its first token.
        ends_reply: the reply ends as soon as the grammar is complete.
        reasoning: where "at_call": whether the reply begins inside the model's reasoning, or may open it.
        max_reasoning_tokens: after so many tokens of reasoning comes its end.
    """

    kind: Literal["json_schema", "regex", "lark"]
    grammar: str
    begins: Literal["now", "after_reasoning", "open", "at_call"] = "now"
    think_token_ids: tuple[int, int] | None = None
    call_token_id: int | None = None
    ends_reply: bool = True
    reasoning: Literal["no", "begun", "open"] = "no"
    max_reasoning_tokens: int | None = None

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any] | bool) -> StructuredOutput:
        """JSON that a schema accepts. Raises InvalidParameterError when it is not itself JSON."""
        try:
            return cls(kind="json_schema", grammar=json.dumps(schema, allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidParameterError(f"the JSON schema is not JSON: {error}", parameter="structured") from error

    @classmethod
    def json_object(cls) -> StructuredOutput:
        """Any JSON object."""
        return cls.json_schema({"type": "object"})

    @classmethod
    def regex(cls, pattern: str) -> StructuredOutput:
        """Text that a regular expression (Rust's syntax) matches from start to end."""
        return cls(kind="regex", grammar=pattern)

    @classmethod
    def choice(cls, choices: Sequence[str]) -> StructuredOutput:
        """One of several texts. Raises InvalidParameterError when there is none, or an empty one."""
        texts: Sequence[object] = choices
        if isinstance(choices, str) or not choices or not all(isinstance(text, str) and text for text in texts):
            raise InvalidParameterError(
                f"choice is {choices!r:.100}; give a list of texts that are not empty", parameter="structured"
            )
        return cls(kind="lark", grammar="start: " + " | ".join(json.dumps(c, ensure_ascii=False) for c in choices))

    @classmethod
    def anything(cls) -> StructuredOutput:
        """Free text, so that only the reasoning before it is bounded."""
        return cls(kind="regex", grammar="(?s:.*)", begins="at_call", ends_reply=False)

    @classmethod
    def lark(cls, grammar: str) -> StructuredOutput:
        """A context-free grammar in Lark's syntax, with llguidance's additions; it begins at `start`."""
        return cls(kind="lark", grammar=grammar)


PRESETS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "chat": MappingProxyType({"temperature": 0.7, "top_p": 0.9}),
        "code": MappingProxyType({"temperature": 0.0}),
        "creative": MappingProxyType({"temperature": 1.0, "top_k": 50}),
        "precise": MappingProxyType({"temperature": 0.3}),
        "default": MappingProxyType({}),
    }
)
"""Sampling by purpose; "default" is what the model's publisher recommends."""

_PRESET_FIELDS = ("temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty")


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How to choose tokens. Defaults: the model's own distribution, 128 tokens.

    Filters apply in the order penalties, bias, temperature, top_k, top_p, min_p, typical_p.

    Attributes:
        temperature: 0 is greedy. top_k: keep the k likeliest (0 = all). top_p: smallest set with this mass.
        min_p: drop tokens below this share of the likeliest. typical_p: locally typical mass (Meister 2022).
        repetition_penalty: divides positive, multiplies negative logits of tokens seen in prompt or reply (1 = off).
        presence_penalty, frequency_penalty: subtracted once, or per occurrence, for tokens of the reply.
        logit_bias: added to the logits of token ids.
        seed: fixes the random stream of this request, alone or in any batch; None draws one.
        stop: strings that end the reply and are not part of it. stop_token_ids: ids that do.
        max_tokens: None = up to the end of the context. min_tokens: no stop before this many.
        logprobs: number of alternatives to report per token, None = none. prompt_logprobs: the same for the prompt.
        n: independent replies. ignore_eos: do not stop at the model's end-of-text ids.
        structured: what the reply must look like; None = free text.
        beam_width: search for the likeliest replies with this many beams, and return the `n` best; None = draw them.
            Temperature, filters and seed have no part in it.
        length_penalty: of beam search; a reply's rank is its log-probability over its length to this power.
        early_stopping: of beam search; True: end when `beam_width` replies have ended; False: when no beam could beat
            them if it ended now; "never": when none could beat them however it goes on.
        return_progress: tell how far the prompt has been read, step by step.
        adapter: name of the loaded LoRA adapter that computes prompt and reply; None = the model itself.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    stop: Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    max_tokens: int | None = 128
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    n: int = 1
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    structured: StructuredOutput | None = None
    beam_width: int | None = None
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    adapter: str | None = None
    return_progress: bool = False

    def __post_init__(self) -> None:
        """Raises InvalidParameterError naming the parameter, its value and its range."""
        _check("temperature", self.temperature, 0.0, 100.0)
        _check_integer("top_k", self.top_k, 0, 2**31 - 1)
        _check("top_p", self.top_p, 0.0, 1.0, low_open=True)
        _check("min_p", self.min_p, 0.0, 1.0)
        _check("typical_p", self.typical_p, 0.0, 1.0, low_open=True)
        _check("repetition_penalty", self.repetition_penalty, 0.0, 100.0, low_open=True)
        _check("presence_penalty", self.presence_penalty, -100.0, 100.0)
        _check("frequency_penalty", self.frequency_penalty, -100.0, 100.0)
        _check_integer("min_tokens", self.min_tokens, 0, 2**31 - 1)
        _check_integer("n", self.n, 1, 128)
        if self.max_tokens is not None:
            _check_integer("max_tokens", self.max_tokens, 1, 2**31 - 1)
        if self.seed is not None:
            _check_integer("seed", self.seed, -(2**63), 2**64 - 1)
        if self.logprobs is not None:
            _check_integer("logprobs", self.logprobs, 0, 20)
        if self.prompt_logprobs is not None:
            _check_integer("prompt_logprobs", self.prompt_logprobs, 0, 20)
        self._check_beams()
        for token_id, bias in self.logit_bias.items():
            _check(f"logit_bias[{token_id}]", bias, -100.0, 100.0)
        for token_id in (*self.logit_bias, *self.stop_token_ids):
            if isinstance(token_id, bool) or not isinstance(token_id, int):
                name = "logit_bias" if token_id in self.logit_bias else "stop_token_ids"
                raise InvalidParameterError(f"{name} names token {token_id!r}; give token ids", parameter=name)
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        if any(not s for s in self.stop):
            raise InvalidParameterError("stop contains an empty string; give non-empty strings", parameter="stop")

    @classmethod
    def preset(cls, name: str, **changes: Any) -> SamplingParams:
        """The parameters for a purpose: "chat", "code", "creative" or "precise"; with `changes`."""
        return replace(cls().with_preset(name), **changes)

    def with_preset(self, name: str) -> SamplingParams:
        """These parameters, sampled as the preset says; "default" leaves them as they are.

        Raises:
            InvalidParameterError: there is no such preset.
        """
        if name not in PRESETS:
            raise InvalidParameterError(f"preset is {name!r:.40}; there are {', '.join(PRESETS)}", parameter="preset")
        if name == "default":
            return self
        values: dict[str, Any] = {spec.name: spec.default for spec in fields(self) if spec.name in _PRESET_FIELDS}
        return replace(self, **{**values, **PRESETS[name]})

    def _check_beams(self) -> None:
        """What a reply must be for beams to be ranked by the model's own probabilities."""
        _check("length_penalty", self.length_penalty, -10.0, 10.0)
        if self.early_stopping not in (True, False, "never"):
            raise InvalidParameterError(
                f'early_stopping is {self.early_stopping!r:.40}; give true, false or "never"',
                parameter="early_stopping",
            )
        if self.beam_width is None:
            return
        _check_integer("beam_width", self.beam_width, 1, 128)
        if self.n > self.beam_width:
            raise InvalidParameterError(
                f"n is {self.n} and beam_width is {self.beam_width}; n best of the beams are returned: lower n",
                parameter="n",
            )
        neutral: dict[str, object] = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
        neutral |= {"logit_bias": {}, "structured": None}
        for name, value in neutral.items():
            if getattr(self, name) != value:
                raise InvalidParameterError(
                    f"{name} is given with beam search, which ranks by the model's own probabilities; leave it out",
                    parameter=name,
                )


def _check_integer(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, float):
        raise InvalidParameterError(f"{name} is {value!r}; give a whole number", parameter=name)
    _check(name, value, low, high)


def _check(name: str, value: object, low: float, high: float, *, low_open: bool = False) -> None:
    # An integer is always finite, and one of 400 digits cannot be turned into a float to ask.
    finite = math.isfinite(value) if isinstance(value, float) else True
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not finite:
        raise InvalidParameterError(f"{name} is {value!r}; give a number", parameter=name)
    if value < low or value > high or (low_open and value == low):
        bracket = "(" if low_open else "["
        raise InvalidParameterError(f"{name} is {value}; it must lie in {bracket}{low}, {high}]", parameter=name)


@dataclass(frozen=True)
class TokenLogprobs:
    """Log-probability of one chosen token and of the likeliest alternatives, best first."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class CompletionOutput:
    """One finished (or so far) reply.

    Attributes:
        text: decoded so far; a stop string is not part of it. stop_reason: the stop string or id that ended it.
        score: what beam search or best-of ranked it by, higher is better; None where nothing was ranked.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None
    stop_reason: str | int | None = None
    logprobs: tuple[TokenLogprobs, ...] | None = None
    score: float | None = None


@dataclass(frozen=True)
class Usage:
    """Token counts of a request; `cached_tokens` of the prompt were not computed again.

    Tokens that speculation guessed ahead are `accepted` ones, which the replies have, and `rejected` ones.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0


@dataclass(frozen=True, slots=True)
class CacheReport:
    """How much of a prompt was found in the prefix cache, and why it was not more.

    Attributes:
        num_cached_tokens: found. position: of the first token that differs or was not found.
        reason: "complete" (nothing was missing), "new" (nobody had gone on from here), "diverged" (others had gone on,
            with another token at `position`) or "evicted" (the block had been cached, and gave way to others).
        prompt_token_id, cached_token_id: where "diverged": the token at `position`, and the cached one nearest to it.
    """

    num_cached_tokens: int
    position: int
    reason: Literal["complete", "new", "diverged", "evicted"]
    prompt_token_id: int | None = None
    cached_token_id: int | None = None


@dataclass(frozen=True, kw_only=True)
class ContextNote:
    """What was done to a conversation.

    Attributes:
        context_length: of the model. num_tokens_before, num_tokens: of the whole prompt, and as it was given.
        dropped: positions of the messages that were left out, or that stand in the summary now.
        shortened: position of the message whose middle was cut out. summary: what stands for the dropped ones.
    """

    policy: Literal["refuse", "truncate", "window", "summarise"]
    context_length: int
    num_tokens_before: int
    num_tokens: int
    dropped: tuple[int, ...] = ()
    shortened: int | None = None
    summary: str | None = None

    def describe(self) -> str:
        """One line for people and headers."""
        parts = [f"{self.num_tokens_before} tokens became {self.num_tokens}"]
        if self.dropped:
            verb = "summarised" if self.summary is not None else "left out"
            parts.append(f"messages {self.dropped[0]} to {self.dropped[-1]} {verb}")
        if self.shortened is not None:
            parts.append(f"the middle of message {self.shortened} left out")
        return f"{self.policy}: {', '.join(parts)}"


@dataclass(frozen=True)
class RequestOutput:
    """What a request has produced: its prompt and one `CompletionOutput` per reply.

    Attributes:
        cache_report: of the reply that found least; None until it ends, and without a prefix cache.
        context_note: what was left out of a conversation that was too long; None = nothing.
    """

    request_id: str
    prompt_token_ids: tuple[int, ...]
    outputs: tuple[CompletionOutput, ...]
    usage: Usage
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None
    time_to_first_token_seconds: float | None = None
    elapsed_seconds: float | None = None
    cache_report: CacheReport | None = None
    context_note: ContextNote | None = None
