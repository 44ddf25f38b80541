"""How one model's replies are asked for and read: with tools or without, free or to the letter.

Above: the protocol adapters. Below: prompt codec, markers, grammars, the reply parser. It knows no protocol: a request
comes as a `ReplyWish`, and what follows from it for prompt, sampling and parsing is decided here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from glm_crush.chat.messages import called_functions
from glm_crush.chat.prompt_codec import PromptCodec
from glm_crush.chat.reply_markers import ReplyMarkers, StartState
from glm_crush.chat.reply_parser import ReplyParser
from glm_crush.chat.tool_grammar import answer_or_call_grammar, call_grammar
from glm_crush.chat.tool_schema import ToolSchema
from glm_crush.tokenizer.detokenizer import IncrementalDetokenizer
from glm_crush.types import Message, SamplingParams, StructuredOutput

__all__ = ["ReplyFormat", "ReplyWish"]


@dataclass(frozen=True, kw_only=True)
class ReplyWish:
    """What a request wants of its reply.

    Attributes:
        tools: descriptions in the OpenAI shape. schemas: the same by name.
        choice: "none", "auto", "required", or the name of the tool that must be called.
        parallel: more than one call may be made. answer: what the answer must look like.
    """

    tools: Sequence[Mapping[str, Any]] = ()
    schemas: Mapping[str, ToolSchema] = field(default_factory=dict)
    choice: str = "none"
    parallel: bool = True
    answer: StructuredOutput | None = None

    @property
    def callable(self) -> Mapping[str, ToolSchema]:
        """The tools that the reply may call."""
        if self.choice in ("auto", "required"):
            return self.schemas
        return {name: tool for name, tool in self.schemas.items() if name == self.choice}

    @property
    def must_call(self) -> bool:
        return self.choice not in ("none", "auto")


class ReplyFormat:
    """One model's way of writing replies."""

    def __init__(self, codec: PromptCodec) -> None:
        self.markers = ReplyMarkers.of(codec.tokenizer.added_ids)
        self._tokenizer = codec.tokenizer
        template = codec.chat_template
        self._renders_tools = template is not None and any("tools" in text for text in template.sources.values())

    def messages_for(
        self, messages: Sequence[Message], wish: ReplyWish
    ) -> tuple[list[Message], Sequence[Mapping[str, Any]] | None]:
        """Messages and tools for the chat template.

        A template that takes no tools gets them in a system message, and earlier calls as the text they were.
        """
        if self._renders_tools:
            return list(messages), wish.tools if wish.callable else None
        messages = [_with_calls_as_text(message, f"messages[{index}]") for index, message in enumerate(messages)]
        if not wish.callable:
            return messages, None
        told = _description(wish)
        if messages and messages[0].get("role") == "system":
            told = f"{messages[0].get('content') or ''}\n\n{told}"
            messages = messages[1:]
        return [{"role": "system", "content": told}, *messages], None

    def call_bias(self, wish: ReplyWish) -> Mapping[int, float]:
        """Logit bias that keeps a model from calling tools that are there but must not be called."""
        banned = wish.choice == "none" and wish.tools and "tool_call" in self.markers.ids
        return {self.markers.ids["tool_call"]: -100.0} if banned else {}

    def start_state(self, prompt_token_ids: Sequence[int]) -> StartState:
        """Where a reply to this prompt begins; "answer" for models that do not reason."""
        return self.markers.start_state(prompt_token_ids, self._tokenizer) if self.markers.can_reason else "answer"

    def structured(self, prompt_token_ids: Sequence[int], wish: ReplyWish) -> StructuredOutput | None:
        """The grammar that makes the reply what was wished for; None = it is free.

        Raises:
            InvalidParameterError: the wishes cannot be had together, or not from this model.
        """
        tools = wish.callable
        if wish.must_call:
            grammar = call_grammar(self.markers, tools, number="some" if wish.parallel else "one")
        elif tools and wish.answer is not None:
            grammar = answer_or_call_grammar(self.markers, tools, wish.answer)
        elif tools and self.markers.tool_format is not None:
            grammar = call_grammar(self.markers, tools, number="one")
            return replace(grammar, begins="at_call", ends_reply=not wish.parallel)
        elif wish.answer is not None:
            grammar = wish.answer
        else:
            return None
        return self.after_reasoning(prompt_token_ids, grammar)

    def after_reasoning(self, prompt_token_ids: Sequence[int], grammar: StructuredOutput) -> StructuredOutput:
        """The same grammar, but free to reason before it where this prompt has the model reason."""
        if not self.markers.can_reason:
            return grammar
        begins: dict[StartState, Literal["now", "after_reasoning", "open"]]
        begins = {"reasoning": "after_reasoning", "open": "open", "answer": "now"}
        think = (self.markers.ids["think"], self.markers.ids["/think"])
        return replace(grammar, begins=begins[self.start_state(prompt_token_ids)], think_token_ids=think)

    def limited(
        self, prompt_token_ids: Sequence[int], structured: StructuredOutput | None, max_reasoning_tokens: int
    ) -> StructuredOutput | None:
        """The same form with bounded reasoning; a model that does not reason needs no bound."""
        start = self.start_state(prompt_token_ids)
        if not self.markers.can_reason or start == "answer":
            return structured
        grammar = replace(structured or StructuredOutput.anything(), max_reasoning_tokens=max_reasoning_tokens)
        if grammar.begins != "at_call":
            return grammar
        think = (self.markers.ids["think"], self.markers.ids["/think"])
        return replace(grammar, reasoning="begun" if start == "reasoning" else "open", think_token_ids=think)

    def held(self, prompt_token_ids: Sequence[int], params: SamplingParams) -> SamplingParams:
        """The parameters of a reply to a conversation: what it is held to begins after its reasoning."""
        if params.structured is None or params.structured.begins != "now":
            return params
        return replace(params, structured=self.after_reasoning(prompt_token_ids, params.structured))

    def needs_parser(self, wish: ReplyWish) -> bool:
        """Whether a reply can be anything but its text."""
        return self.markers.can_reason or bool(wish.callable)

    def parser(
        self, prompt_token_ids: Sequence[int], wish: ReplyWish, *, skip_special_tokens: bool = True
    ) -> ReplyParser:
        """A parser for one reply to this prompt."""

        def make_detokenizer() -> IncrementalDetokenizer:
            return IncrementalDetokenizer(
                self._tokenizer, skip_special_tokens=skip_special_tokens, continues=prompt_token_ids
            )

        return ReplyParser(
            self.markers,
            make_detokenizer,
            start=self.start_state(prompt_token_ids),
            tools=wish.callable,
            answer_may_be_call=bool(wish.callable) and self.markers.tool_format is None,
            calls_are_held=wish.must_call or self.markers.tool_format is not None,
        )


def _with_calls_as_text(message: Message, where: str) -> Message:
    functions = called_functions(message, where)
    if not functions:
        return message
    texts = [str(message["content"])] if message.get("content") else []
    for function in functions:
        arguments = function.get("arguments") or {}
        if not isinstance(arguments, str):  # a text is as the model wrote it, to the letter
            arguments = json.dumps(arguments, ensure_ascii=False)
        texts.append(f'{{"name": {json.dumps(function["name"])}, "arguments": {arguments}}}')
    return {"role": message["role"], "content": "\n".join(texts)}


def _description(wish: ReplyWish) -> str:
    lines = [json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in wish.tools]
    functions = "\n".join(lines)
    return (
        f"You can call these functions:\n{functions}\n"
        'To call one, answer with nothing but a JSON object {"name": <its name>, "arguments": {<its arguments>}}.'
    )
