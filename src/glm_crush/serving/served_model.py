"""A model as the protocol adapters see it: text in, a stream of `RequestDelta` out.

Above: the adapters. Below: a tokenizer, a chat template and an engine behind the protocol `GenerationEngine`.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from glm_crush.chat.context_policy import ContextPolicy
from glm_crush.chat.conversation_summary import SummaryCache
from glm_crush.chat.reply_format import ReplyFormat
from glm_crush.engine.output import RequestDelta
from glm_crush.errors import InvalidParameterError
from glm_crush.serving.client_names import client_names
from glm_crush.serving.gateway.admission import current_admission
from glm_crush.serving.gateway.metering import metered
from glm_crush.serving.model_details import ModelDetails
from glm_crush.serving.priority import current_priority
from glm_crush.serving.turn_guard import TurnGuard
from glm_crush.types import Message, SamplingParams, StructuredOutput

__all__ = [
    "AdapterEngine",
    "ChatPrompt",
    "Generation",
    "GenerationEngine",
    "Grammars",
    "ServedModel",
    "TextCodec",
    "Watch",
]

# Rendering and encoding less than this takes well under a millisecond: not worth a thread switch.
_INLINE_CHARACTERS = 2_000


class GenerationEngine(Protocol):
    """What serving needs of an engine."""

    def submit(
        self,
        request_id: str,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
        *,
        priority: int = 0,
        cache_salt: str = "",
        tenant: str = "",
        resume: bool = False,
    ) -> AsyncGenerator[RequestDelta, None]:
        """Queue a request and yield what each step adds to it; closing the generator aborts the request.

        Lower `priority` goes first, and tenants share the engine fairly. Only requests of the same `cache_salt` share
        computed prompts. An engine that can be replaced goes on with a reply that has begun if `resume` allows it.

        Raises:
            RequestError, OverloadedError, EngineError: it was refused, before anything was yielded.
        """
        ...

    @property
    def is_alive(self) -> bool:
        """Whether new requests can be answered."""
        ...


@runtime_checkable
class AdapterEngine(Protocol):
    """An engine that takes LoRA adapters; both calls block."""

    def load_adapter(self, name: str, path: str | Path) -> None:
        """Make an adapter known by a name."""

    def unload_adapter(self, name: str) -> None:
        """Forget it; refused while a request uses it."""


class Watch(Protocol):
    """Sees the deltas of a generation as they pass, and passes them on unchanged."""

    def __call__(
        self, model: str, params: SamplingParams, deltas: AsyncGenerator[RequestDelta, None]
    ) -> AsyncGenerator[RequestDelta, None]:
        """The same deltas; closing the returned generator closes `deltas`."""
        ...


class Grammars(Protocol):
    """Checks forms of replies; called off the event loop."""

    def check(self, structured: StructuredOutput) -> None:
        """Compile a grammar, so that the engine has it ready.

        Raises:
            InvalidParameterError: it cannot be used; says what is wrong.
        """
        ...


class TextCodec(Protocol):
    """Tokenizer and chat template of one model."""

    @property
    def chat_template(self) -> object | None:
        """What renders conversations; None = the model takes plain prompts only."""
        ...

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of plain text as a prompt, with the tokens the model wants at the start unless told otherwise."""
        ...

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool, **variables: Any) -> list[int]:
        """Token ids of a conversation.

        Raises:
            TemplateError: the template refuses the conversation, or the model has none.
        """
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of token ids, special tokens included."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes one token stands for; not always whole characters."""
        ...


@dataclass(frozen=True)
class ChatPrompt:
    """A conversation to render: `variables` go to the template (`enable_thinking`, ...), and so do `tools`.

    `prefill` is how the reply begins already.
    """

    messages: Sequence[Message]
    add_generation_prompt: bool = True
    variables: Mapping[str, Any] = field(default_factory=dict)
    tools: Sequence[Mapping[str, Any]] | None = None
    prefill: str = ""


@dataclass(frozen=True)
class Generation:
    """A request on its way through the engine; it is queued when its first delta is asked for."""

    prompt_token_ids: Sequence[int]
    deltas: AsyncGenerator[RequestDelta, None]


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """One model behind the API.

    Attributes:
        name: what clients call it. context_length: largest prompt + reply. vocab_size: ids must lie below it.
        default_params: the model's published sampling defaults, for what a request leaves out.
        replies: how it writes reasoning and calls; None = its replies are text. grammars: what replies can be held to;
            None = they are free.
        resume_streams: whether replies that a client has begun to read may be gone on with by another engine.
        explains_cache: whether replies say where and why their prompts left what was cached.
        preface: messages before every conversation; its system message only where the conversation has none.
        details: for those who ask what it is.
        context_policy: for conversations that are too long and say nothing. summaries: of their older turns.
        fingerprint: changes when the same request could give other tokens (weights, format, version).
        watches: see every generation, the first one closest to the engine.
        guard: sees what goes in and what comes out of turns and completions; None = nobody does.
        adapter: the engine's LoRA adapter behind this name; parent: the model it changes; root: where it lies.
    """

    name: str
    engine: GenerationEngine
    codec: TextCodec
    context_length: int
    vocab_size: int
    default_params: SamplingParams = field(default_factory=SamplingParams)
    replies: ReplyFormat | None = None
    grammars: Grammars | None = None
    preface: Sequence[Message] = ()
    details: ModelDetails = field(default_factory=ModelDetails)
    context_policy: ContextPolicy = "refuse"
    summaries: SummaryCache = field(default_factory=SummaryCache)
    fingerprint: str = "glm-crush"
    resume_streams: bool = False
    explains_cache: bool = False
    created: int = field(default_factory=lambda: int(time.time()))
    watches: tuple[Watch, ...] = ()
    guard: TurnGuard | None = None
    adapter: str | None = None
    parent: str | None = None
    root: str | None = None

    async def encode_chat(self, prompt: ChatPrompt) -> list[int]:
        """Token ids of a conversation; large ones are rendered off the event loop."""
        size = sum(len(str(message.get("content") or "")) for message in prompt.messages)
        size += sum(len(str(tool)) for tool in prompt.tools or ())
        return await self._off_loop(size, self.render, prompt)

    async def encode_text(self, text: str) -> list[int]:
        """Token ids of a plain prompt."""
        return await self._off_loop(len(text), self.codec.encode, text)

    def check_holds_forms(self, parameter: str) -> None:
        """Raises InvalidParameterError, which names the client's `parameter`, if its replies are free.

        Whether a grammar can be used is the engine's to say, when the request is queued.
        """
        if self.grammars is None:
            raise InvalidParameterError(
                f"{parameter} asks for a form that {self.name} cannot be held to; leave it out", parameter=parameter
            )

    async def check_grammar(self, structured: StructuredOutput, parameter: str) -> None:
        """Compile a grammar that is not queued now, off the event loop.

        Raises:
            InvalidParameterError: it cannot be used; names the client's `parameter`.
        """
        self.check_holds_forms(parameter)
        assert self.grammars is not None
        with client_names(prompt="prompt", form=parameter):
            await asyncio.to_thread(self.grammars.check, structured)

    def check_token_ids(self, token_ids: Sequence[int], parameter: str) -> list[int]:
        """Token ids a client sent, if this model has them.

        Raises:
            InvalidParameterError: an id outside the vocabulary.
        """
        for token_id in token_ids:
            if not 0 <= token_id < self.vocab_size:
                raise InvalidParameterError(
                    f"{parameter} holds the token id {token_id}; this model's ids lie in [0, {self.vocab_size})",
                    parameter=parameter,
                )
        return list(token_ids)

    def generate(self, prompt_token_ids: Sequence[int], params: SamplingParams, *, whole: bool = False) -> Generation:
        """Queue one request on behalf of whoever is admitted; see `GenerationEngine.submit`, and `metered`.

        `whole`: nobody sees the reply before it has ended.
        """
        resume = whole or self.resume_streams
        if self.adapter is not None:
            params = replace(params, adapter=self.adapter)
        admission = current_admission()
        submit = partial(
            self.engine.submit,
            uuid.uuid4().hex,
            prompt_token_ids,
            params,
            priority=current_priority(),
            cache_salt="" if admission is None else admission.cache_salt,
            tenant="" if admission is None else admission.tenant,
            resume=resume,
        )
        deltas = metered(submit, self.name, prompt_token_ids, params)
        for watch in self.watches:
            deltas = watch(self.name, params, deltas)
        return Generation(prompt_token_ids, deltas)

    def _with_preface(self, messages: Sequence[Message]) -> list[Message]:
        if not messages or messages[0].get("role") != "system":
            return [*self.preface, *messages]
        return [messages[0], *(given for given in self.preface if given.get("role") != "system"), *messages[1:]]

    def render(self, prompt: ChatPrompt) -> list[int]:
        """Token ids of a conversation, here and now; `encode_chat` is for event loops."""
        if self.preface:
            prompt = replace(prompt, messages=self._with_preface(prompt.messages))
        given = {name: value for name in ("tools", "prefill") if (value := getattr(prompt, name))}
        return self.codec.render(
            prompt.messages, add_generation_prompt=prompt.add_generation_prompt, **prompt.variables, **given
        )

    @staticmethod
    async def _off_loop(size: int, function: Any, argument: object) -> list[int]:
        if size < _INLINE_CHARACTERS:
            result: list[int] = function(argument)
            return result
        return await asyncio.to_thread(function, argument)
