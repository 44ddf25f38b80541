"""`glm chat`: a conversation in the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from glm_crush.cli.completion import stored_names
from glm_crush.cli.options import ContextPolicyOption, ThreadsOption, WeightFormatOption, settings_from
from glm_crush.cli.sampling_options import (
    MaxTokensOption,
    MinPOption,
    PresetOption,
    RepetitionPenaltyOption,
    SeedOption,
    TemperatureOption,
    TopKOption,
    TopPOption,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from glm_crush.cli.backend import ChatBackend
    from glm_crush.config import Settings

__all__ = ["chat"]


def chat(
    ctx: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="A store name or a path; default: the default model.",
            autocompletion=stored_names,
        ),
    ] = None,
    url: Annotated[
        str | None, typer.Option("--url", help="Talk to a server with the OpenAI API instead of loading a model.")
    ] = None,
    api_key: Annotated[str | None, typer.Option("--api-key", help="Key for --url.")] = None,
    system: Annotated[str | None, typer.Option("--system", "-s", help="System prompt.")] = None,
    preset: PresetOption = None,
    temperature: TemperatureOption = None,
    top_p: TopPOption = None,
    top_k: TopKOption = None,
    min_p: MinPOption = None,
    repetition_penalty: RepetitionPenaltyOption = None,
    seed: SeedOption = None,
    max_tokens: MaxTokensOption = None,
    think: Annotated[
        bool | None, typer.Option("--think/--no-think", help="Let the model reason first, where its template can.")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show token counts and speed.")] = False,
    context_policy: ContextPolicyOption = None,
    threads: ThreadsOption = None,
    weight_format: WeightFormatOption = None,
) -> None:
    """Talk with a model. /? lists the commands, Ctrl-C stops a reply, Ctrl-D leaves."""
    from glm_crush.cli.chat_commands import ChatCommands
    from glm_crush.cli.chat_loop import chat_loop, line_reader
    from glm_crush.cli.conversation import Conversation
    from glm_crush.cli.sampling_options import given_params

    settings = settings_from(
        ctx,
        crush__threads=threads,
        crush__weight_format=weight_format,
        crush__context_policy=context_policy,
        api__key=api_key,
    )
    with _open_backend(settings, model, url) as backend:
        params = given_params(
            backend.default_params,
            preset=preset,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
            max_tokens=max_tokens,
        )
        conversation = Conversation(
            params,
            system=system,
            thinking=think,
            verbose=verbose,
            context_policy=settings.crush.context_policy,
        )
        commands = ChatCommands(conversation, backend, settings.store.home / "chats")
        _greet(backend)
        chat_loop(backend, conversation, commands, line_reader(settings.store.home / "chat_history"), sys.stdout)


def _open_backend(settings: Settings, model: str | None, url: str | None) -> AbstractContextManager[ChatBackend]:
    from contextlib import contextmanager

    @contextmanager
    def remote(server: str) -> Iterator[ChatBackend]:
        from dataclasses import replace

        from glm_crush.cli.remote_backend import RemoteBackend
        from glm_crush.client import Client

        there = replace(settings, client=replace(settings.client, url=server))
        backend = RemoteBackend(Client.from_settings(there), model=model)
        try:
            yield backend
        finally:
            backend.close()

    @contextmanager
    def local() -> Iterator[ChatBackend]:
        from glm_crush.cli.local_backend import LocalBackend
        from glm_crush.cli.models import open_model

        with open_model(settings, model or settings.model.name) as opened:
            yield LocalBackend(opened)

    return local() if url is None else remote(url)


def _greet(backend: ChatBackend) -> None:
    from rich.markup import escape

    from glm_crush.cli.console import standard_error

    facts = backend.facts()
    details = ", ".join(facts[key] for key in ("family", "context", "kernels", "server") if key in facts)
    standard_error().print(f"[bold cyan]{escape(backend.name)}[/] [dim]{escape(details)}[/]")
