"""What `glm serve` says when it is ready: how to talk to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from glm_crush.cli.console import Pieces
    from glm_crush.serving.served_models import ServedModels

__all__ = ["banner", "labelled"]


def banner(url: str, models: ServedModels, *, needs_key: bool) -> list[Pieces]:
    """A curl line, an OpenAI client line and the chat command, ready to be copied; see `console.print_lines`."""
    from glm_crush.serving.served_model import ServedModel

    model, *others = (resident.served for resident in models.pool.residents())
    key = "KEY" if needs_key else "none"
    header = " -H 'authorization: Bearer KEY'" if needs_key else ""
    generates = isinstance(model, ServedModel)
    body = '{"messages": [{"role": "user", "content": "Hello"}]}' if generates else '{"input": "Hello"}'
    lines = [
        ("curl", f"curl {url}/v1/{'chat/completions' if generates else 'embeddings'}{header} -d '{body}'"),
        ("Python", f'openai.OpenAI(base_url="{url}/v1", api_key="{key}")'),
        ("chat", f"glm chat --url {url}{' --api-key KEY' if needs_key else ''}"),
        ("API", f"{url}/docs"),
    ]
    stored = len(models.not_loaded())
    beside = [other.name for other in others] + ([f"{stored} more of the store on demand"] if stored else [])
    lines += [("models", ", ".join([model.name, *beside]))] if beside else []
    if not generates:
        lines = [line for line in lines if line[0] != "chat"]
    length = model.context_length if isinstance(model, ServedModel) else model.encoder.max_length
    # Plain lines and no frame: a line that is copied must not carry a border with it.
    title = [
        ("ready", "bold green"),
        ("  ", ""),
        (model.name, "bold"),
        (" at ", ""),
        (url, "bold"),
        (f" ({length:,} tokens of context)", "dim"),
    ]
    return [title, *(labelled(label, line) for label, line in lines)]


def labelled(label: str, text: str) -> Pieces:
    """One row beneath the title."""
    return [("  ", ""), (f"{label:<7}", "cyan"), (f" {text}", "")]
