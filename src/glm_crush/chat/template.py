"""Chat templates: messages and tools in, the text of the prompt out.

Below it: the sandbox and the normalised messages. Above it: the chat backends and the server. A template is compiled
once per `ChatTemplate`; rendering is safe from several threads.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2

from glm_crush.chat.messages import normalize_messages, normalize_tools
from glm_crush.chat.sandbox import ChatEnvironment
from glm_crush.chat.sandbox_budget import Budget, TemplateLimits
from glm_crush.errors import TemplateError

__all__ = ["ChatTemplate", "TemplateLimits"]

_TOKEN_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token", "cls_token", "sep_token", "mask_token")


class ChatTemplate:
    """One model's chat template, or several by name of which `tool_use` serves requests with tools.

    Attributes:
        sources: template text by name; "default" is the usual one.
        tokens: the special tokens that it may print, by their names in tokenizer_config.json.
    """

    def __init__(
        self,
        source: str | Mapping[str, str] | Sequence[Mapping[str, str]],
        tokenizer_config: Mapping[str, object] | None = None,
        *,
        limits: TemplateLimits | None = None,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        """Compile nothing yet; a template is compiled when first used.

        Args:
            source: Jinja text, or the named templates that some tokenizer_config.json files have.
            tokenizer_config: names bos_token, eos_token and so on, which templates may print.
            limits: what one render may use.
            now: the clock behind `strftime_now`.

        Raises:
            TemplateError: the source is of another form or too long.
        """
        self.sources = _named(source)
        self._limits = TemplateLimits() if limits is None else limits
        self._now = now
        self.tokens = _special_tokens(tokenizer_config or {})
        self._environment = ChatEnvironment(
            {"raise_exception": _raise_exception, "strftime_now": self._strftime_now}, {"tojson": self._to_json}
        )
        self._compiled: dict[str, jinja2.Template] = {}
        self._compiling = threading.Lock()
        for name, text in self.sources.items():
            if len(text) > self._limits.source_chars:
                raise TemplateError(
                    f"chat template {name!r} has {len(text)} characters; at most {self._limits.source_chars} may be"
                )

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **kwargs: Any,
    ) -> str:
        """Return the prompt text; encode it without adding special tokens.

        Args:
            messages: in the OpenAI shape; tool arguments may be JSON text, content may be a list of text parts.
            tools: function descriptions in the OpenAI shape.
            add_generation_prompt: end with the start of the assistant's turn.
            **kwargs: switches of the template, such as `enable_thinking` and `clear_thinking`.

        Raises:
            InvalidParameterError: a message or tool is malformed.
            TemplateError: the template failed, refused the messages or ran over its limits.
        """
        ready = normalize_messages(messages)
        ready_tools = normalize_tools(tools)
        name = "tool_use" if ready_tools and "tool_use" in self.sources else "default"
        variables = {
            **self.tokens,
            **kwargs,
            "messages": ready,
            "tools": ready_tools,
            "add_generation_prompt": add_generation_prompt,
        }
        return self._run(lambda: self._generate(name, variables))

    def check(self) -> None:
        """Compile every template now. Raises TemplateError where one is malformed."""
        self._run(lambda: "".join(str(self._template(name)) for name in self.sources))

    def _generate(self, name: str, variables: Mapping[str, object]) -> str:
        pieces: list[str] = []
        left = self._limits.output_chars
        for piece in self._template(name).generate(variables):
            left -= len(piece)
            if left < 0:
                raise TemplateError(f"chat template writes more than {self._limits.output_chars} characters")
            pieces.append(piece)
        return "".join(pieces)

    def _template(self, name: str) -> jinja2.Template:
        with self._compiling:
            if name not in self._compiled:
                self._compiled[name] = self._environment.from_string(self.sources[name])
            return self._compiled[name]

    def _run(self, work: Callable[[], str]) -> str:
        """Run template code under a budget; whatever it raises becomes a TemplateError."""
        self._environment.local.budget = Budget(self._limits)
        try:
            return work()
        except TemplateError:
            raise
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(f"chat template, line {error.lineno}: {error.message}") from error
        except RecursionError as error:
            raise TemplateError("chat template nests or recurses too deeply") from error
        except Exception as error:  # the template's own operations on its values can raise anything
            raise TemplateError(f"chat template failed: {type(error).__name__}: {error}") from error
        finally:
            del self._environment.local.budget

    def _to_json(
        self,
        value: object,
        ensure_ascii: bool = False,
        indent: int | str | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        """JSON as transformers' templates get it: no HTML escapes, other scripts kept as they are."""
        budget = self._environment.budget
        options = {"ensure_ascii": ensure_ascii, "separators": separators, "sort_keys": sort_keys}
        if indent is None:
            budget.spend_text(value)
            return json.dumps(value, **options)  # type: ignore[arg-type]
        # indentation multiplies: pay piece by piece
        pieces = []
        for piece in json.JSONEncoder(indent=indent, **options).iterencode(value):  # type: ignore[arg-type]
            budget.spend(len(piece))
            pieces.append(piece)
        return "".join(pieces)

    def _strftime_now(self, form: str) -> str:
        if len(form) > 100:
            raise TemplateError(f"chat template: strftime_now got {len(form)} characters; at most 100 are allowed")
        return self._now().strftime(form)


def _raise_exception(message: object) -> NoReturn:
    raise TemplateError(f"chat template refused the messages: {str(message)[:500]}")


def _named(source: str | Mapping[str, str] | Sequence[Mapping[str, str]]) -> dict[str, str]:
    if isinstance(source, str):
        return {"default": source}
    if not isinstance(source, Mapping):
        try:
            source = {entry["name"]: entry["template"] for entry in source}
        except (TypeError, KeyError) as error:
            raise TemplateError("chat_template is a list, but not of objects with name and template") from error
    if "default" not in source or not all(isinstance(text, str) for text in source.values()):
        raise TemplateError(f"chat_template names {', '.join(map(str, source))}; a text called 'default' is needed")
    return dict(source)


def _special_tokens(config: Mapping[str, object]) -> dict[str, str]:
    tokens = {}
    for name in _TOKEN_NAMES:
        value = config.get(name)
        value = value.get("content") if isinstance(value, Mapping) else value
        if isinstance(value, str):
            tokens[name] = value
    return tokens
