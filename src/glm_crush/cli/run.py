"""`glm run`: one prompt, one answer."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glm_crush.cli.completion import stored_names
from glm_crush.cli.options import (
    DraftModelOption,
    JsonOption,
    PrefixStoreOption,
    SpeculationOption,
    ThreadsOption,
    WeightFormatOption,
    settings_from,
)
from glm_crush.cli.sampling_options import (
    MaxTokensOption,
    MinPOption,
    PresetOption,
    RepetitionPenaltyOption,
    SeedOption,
    StopOption,
    TemperatureOption,
    TopKOption,
    TopPOption,
)

if TYPE_CHECKING:
    from glm_crush.cli.backend import ReplyStats, Turn
    from glm_crush.cli.local_backend import LocalBackend
    from glm_crush.config import Settings
    from glm_crush.types import StructuredOutput

__all__ = ["run"]

_ADAPTER = "lora"


def run(
    ctx: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL] PROMPT",
            help="A model and a prompt, or the prompt for the default model.",
            autocompletion=stored_names,
        ),
    ] = None,
    system: Annotated[str | None, typer.Option("--system", "-s", help="System prompt.")] = None,
    preset: PresetOption = None,
    temperature: TemperatureOption = None,
    top_p: TopPOption = None,
    top_k: TopKOption = None,
    min_p: MinPOption = None,
    repetition_penalty: RepetitionPenaltyOption = None,
    seed: SeedOption = None,
    max_tokens: MaxTokensOption = None,
    stop: StopOption = None,
    think: Annotated[
        bool | None, typer.Option("--think/--no-think", help="Let the model reason first, where its template can.")
    ] = None,
    json_schema: Annotated[
        Path | None,
        typer.Option(
            "--json-schema",
            metavar="FILE",
            help="Answer with JSON that this schema accepts; no reasoning unless --think.",
        ),
    ] = None,
    beams: Annotated[
        int | None, typer.Option("--beams", metavar="N", help="Search for the likeliest answer with N beams.", min=1)
    ] = None,
    length_penalty: Annotated[
        float | None, typer.Option("--length-penalty", help="Of --beams: above 0 favours longer answers; default: 1.")
    ] = None,
    best_of: Annotated[
        int, typer.Option("--best-of", metavar="N", help="Make N answers and show the likeliest.", min=1, max=128)
    ] = 1,
    raw: Annotated[bool, typer.Option("--raw", help="Complete the prompt as it is, without a chat template.")] = False,
    stream: Annotated[bool, typer.Option("--stream/--no-stream", help="Show the answer as it is made.")] = True,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show token counts and speed.")] = False,
    lora: Annotated[
        Path | None, typer.Option("--lora", metavar="PATH", help="Answer with this LoRA adapter on the model.")
    ] = None,
    threads: ThreadsOption = None,
    weight_format: WeightFormatOption = None,
    speculation: SpeculationOption = None,
    draft_model: DraftModelOption = None,
    prefix_store: PrefixStoreOption = None,
    explain_cache: Annotated[
        bool, typer.Option("--explain-cache", help="Show where and why the prompt was not cached any further.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Answer one prompt. Standard input, if it is not a terminal, goes along with the prompt."""
    from glm_crush.cli.local_backend import LocalBackend
    from glm_crush.cli.models import open_model
    from glm_crush.cli.sampling_options import given_params

    settings = settings_from(
        ctx,
        crush__threads=threads,
        crush__weight_format=weight_format,
        crush__speculation=speculation,
        crush__draft_model=draft_model,
        crush__prefix_store=prefix_store,
    )
    model_name, prompt = _model_and_prompt(words or [], settings)
    with open_model(settings, model_name) as model:
        backend = LocalBackend(model)
        params = given_params(
            backend.default_params,
            preset=preset,
            beam_width=beams,
            length_penalty=length_penalty,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
            max_tokens=max_tokens,
            stop=stop,
            structured=None if json_schema is None else _schema_in(json_schema),
        )
        if lora is not None:
            model.engine.load_adapter(_ADAPTER, lora)
            params = replace(params, adapter=_ADAPTER)
        if json_schema is not None and think is None:
            think = False
        turn = _turn(backend, prompt, system=system, raw=raw, params=params, thinking=think, best_of=best_of)
        if as_json or not stream:
            stats = _print_whole(backend, turn, as_json=as_json, verbose=verbose, load_seconds=model.load_seconds)
        else:
            stats = _print_stream(backend, turn, verbose=verbose, load_seconds=model.load_seconds)
        if explain_cache and not as_json:
            from glm_crush.cli.cache_view import print_cache

            print_cache(stats.cache)


def _schema_in(path: Path) -> StructuredOutput:
    """The form that a schema file asks for.

    Raises:
        GlmError: the file cannot be read or holds no JSON object.
    """
    import json

    from glm_crush.cli.models import read_text
    from glm_crush.errors import GlmError
    from glm_crush.types import StructuredOutput

    try:
        schema = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise GlmError(f"{path}: not JSON: {error}") from error
    if not isinstance(schema, dict):
        raise GlmError(f"{path}: holds {schema!r:.60}; give a JSON schema, which is an object")
    return StructuredOutput.json_schema(schema)


def _model_and_prompt(words: list[str], settings: Settings) -> tuple[str, str]:
    """Sort out what was given: a model, a prompt, both, or a prompt on standard input.

    Raises:
        typer.BadParameter: nothing to answer.
    """
    from glm_crush.cli.models import is_model

    piped = "" if sys.stdin.isatty() else sys.stdin.read().strip()
    match words:
        case [model, *prompt] if prompt:
            text = " ".join(prompt)
        case [only] if is_model(settings, only):
            model, text = only, ""
        case [only]:
            model, text = settings.model.name, only
        case _:
            model, text = settings.model.name, ""
    prompt_text = f"{text}\n\n{piped}" if text and piped else text or piped
    if not prompt_text.strip():
        chat = f"glm chat {words[0]}" if len(words) == 1 and words[0].strip() else "glm chat"
        raise typer.BadParameter(f'give a prompt: glm run "Why is the sky blue?" (or {chat})', param_hint="PROMPT")
    return model, prompt_text


def _turn(backend: LocalBackend, prompt: str, *, system: str | None, raw: bool, **rest: Any) -> Turn:
    from glm_crush.cli.backend import Turn
    from glm_crush.cli.console import print_warning
    from glm_crush.types import Message

    if not raw and not backend.can_chat:
        print_warning(f"{backend.name} has no chat template: it completes the prompt as text (--raw says so)")
        raw = True
    if raw:
        if system:
            raise typer.BadParameter("a raw prompt has no system prompt", param_hint="--system")
        return Turn(raw_prompt=prompt, **rest)
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    return Turn(messages=[*messages, {"role": "user", "content": prompt}], **rest)


def _print_stream(backend: LocalBackend, turn: Turn, *, verbose: bool, load_seconds: float) -> ReplyStats:
    from glm_crush.cli.reply_view import print_reply, print_stats

    _, stats = print_reply(backend.reply(turn), sys.stdout)
    if stats is None:
        raise typer.Exit(130)
    _warn_of_limit(stats)
    if verbose:
        print_stats(stats, load_seconds=load_seconds)
    return stats


def _print_whole(backend: LocalBackend, turn: Turn, *, as_json: bool, verbose: bool, load_seconds: float) -> ReplyStats:
    from glm_crush.cli.reply_view import collect_reply, print_stats

    text, stats = collect_reply(backend.reply(turn))
    if as_json:
        import json
        from dataclasses import asdict

        rates = {
            "prefill_tokens_per_second": stats.prefill_tokens_per_second,
            "decode_tokens_per_second": stats.decode_tokens_per_second,
        }
        reply = {"model": backend.name, "text": text, **asdict(stats), **rates, "load_seconds": load_seconds}
        typer.echo(json.dumps(reply, ensure_ascii=False))
        return stats
    typer.echo(text)
    _warn_of_limit(stats)
    if verbose:
        print_stats(stats, load_seconds=load_seconds)
    return stats


def _warn_of_limit(stats: ReplyStats) -> None:
    from glm_crush.cli.console import print_warning

    if stats.finish_reason == "length":
        print_warning("the answer reached its limit (--max-tokens)")
