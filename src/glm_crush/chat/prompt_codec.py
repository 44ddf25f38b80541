"""Text and conversations to token ids and back, as one model wants them.

Above: `llm` and the server. Below: the tokenizer, the chat template, the loaded model. This module knows no engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from glm_crush.chat.builtin_templates import chat_template_for
from glm_crush.chat.template import ChatTemplate
from glm_crush.errors import TemplateError
from glm_crush.models.loader import LoadedModel
from glm_crush.tokenizer.tokenizer import Tokenizer

__all__ = ["PromptCodec"]


class PromptCodec:
    """A tokenizer with its chat template; `chat_template` is None for models that are not made for chat."""

    def __init__(self, tokenizer: Tokenizer, chat_template: ChatTemplate | None) -> None:
        self.tokenizer = tokenizer
        self.chat_template = chat_template

    @classmethod
    def for_model(cls, loaded: LoadedModel) -> PromptCodec:
        """The codec of a loaded model, with the template it came with or else ours for its family.

        Raises:
            TokenizerError: its tokenizer is malformed or missing.
            TemplateError: its template is malformed.
        """
        model_type = str(loaded.packed.header.config.get("model_type", ""))
        template = chat_template_for(loaded.chat_template, loaded.tokenizer_config, model_type)
        return cls(loaded.tokenizer, template)

    def with_template(self, source: str) -> PromptCodec:
        """The same tokenizer with another template, which may print the same tokens.

        Raises:
            TemplateError: the source is malformed.
        """
        template = ChatTemplate(source, {} if self.chat_template is None else self.chat_template.tokens)
        template.check()
        return PromptCodec(self.tokenizer, template)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of plain text as a prompt, with the tokens the model wants at the start unless told otherwise."""
        return self.tokenizer.encode(text, add_special_tokens=add_special_tokens)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        prefill: str = "",
        **variables: Any,
    ) -> list[int]:
        """Token ids of a conversation.

        Args:
            messages: in the OpenAI shape.
            tools: function descriptions in the OpenAI shape.
            add_generation_prompt: end with the start of the assistant's turn.
            prefill: how that turn begins already.
            **variables: switches of the template, such as `enable_thinking`.

        Raises:
            TemplateError: the template refuses the conversation, or the model has none.
            InvalidParameterError: a message or tool is malformed.
        """
        if self.chat_template is None:
            raise TemplateError("This model has no chat template; send a plain prompt instead of messages.")
        text = self.chat_template.render(messages, tools, add_generation_prompt, **variables)
        return self.tokenizer.encode(text + prefill)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of token ids, special tokens included."""
        return self.tokenizer.decode(token_ids, skip_special_tokens=False)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes one token stands for; not always whole characters."""
        return self.tokenizer.piece(token_id)
