"""Our own chat templates, for checkpoints that bring none.

Below it: `ChatTemplate`. Above it: whoever opens a model for chat. GLM-4.5 and 4.6 write the same text, so they share
a file; 4.7, 4.7-Flash and 5 have another format.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources

from glm_crush.chat.template import ChatTemplate
from glm_crush.errors import TemplateError

__all__ = ["builtin_template", "builtin_template_name", "chat_template_for"]

_FILES = {"glm45": "glm45.jinja", "glm46": "glm45.jinja", "glm47": "glm47.jinja"}
# GLM-4.7 has the model type of 4.5, and always comes with a template; a bare glm4_moe checkpoint is an older one
_MODEL_TYPES = {"glm4_moe": "glm45", "glm4_moe_lite": "glm47", "glm_moe_dsa": "glm47"}


def builtin_template(name: str) -> str:
    """The Jinja text of one of our templates. Raises TemplateError for a name we do not have."""
    if name not in _FILES:
        raise TemplateError(f"there is no built-in chat template {name!r}; there are {', '.join(sorted(_FILES))}")
    return resources.files("glm_crush.chat").joinpath("templates", _FILES[name]).read_text(encoding="utf-8")


def builtin_template_name(model_type: str) -> str | None:
    """Which of our templates suits a `model_type` of config.json, or None."""
    return _MODEL_TYPES.get(model_type)


def chat_template_for(
    source: str | None, tokenizer_config: Mapping[str, object], model_type: str
) -> ChatTemplate | None:
    """The template a model is used with: its own, else one of ours for its family, else None (not made for chat).

    Args:
        source: what came with the checkpoint.
        tokenizer_config: names the tokens that templates print.
        model_type: of config.json.
    """
    if source is None:
        name = builtin_template_name(model_type)
        source = None if name is None else builtin_template(name)
    return None if source is None else ChatTemplate(source, tokenizer_config)
