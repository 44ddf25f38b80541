"""`glm keys`: who may use the server, and how much.

Works on the database of this installation, whether a server runs or not; running servers see a change within a second.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from glm_crush.cli.options import JsonOption, settings_from
from glm_crush.cli.verbs import Verbs

if TYPE_CHECKING:
    from glm_crush.serving.gateway.key_store import KeyStore
    from glm_crush.serving.gateway.records import Key

__all__ = ["app"]

Result = TypeVar("Result")

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

app = Verbs(no_args_is_help=True, help="Make and end keys: who may use the server, and how much.")

KeyArgument = Annotated[
    str, typer.Argument(metavar="KEY", help="The id of a key, or the first part of its secret (glm_...).")
]


@app.callback()
def keys() -> None:
    """Make and end keys: who may use the server, and how much.

    A change holds at once, also in servers that run.
    """


@app.command("create")
def create(
    ctx: typer.Context,
    application: Annotated[str, typer.Argument(metavar="APPLICATION", help="Whose key; registered if it is new.")],
    name: Annotated[str, typer.Option("--name", help="What to call the key.")] = "default",
    scope: Annotated[
        list[str] | None, typer.Option("--scope", metavar="GROUP", help="Routes it is for; default: all but admin.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", metavar="PATTERN", help="Models it is for, e.g. 'glm-*'.")
    ] = None,
    requests_per_minute: Annotated[int | None, typer.Option("--rpm", min=1, help="Requests per minute.")] = None,
    tokens_per_minute: Annotated[int | None, typer.Option("--tpm", min=1, help="Tokens per minute.")] = None,
    concurrency: Annotated[int | None, typer.Option("--concurrency", min=1, help="Requests at a time.")] = None,
    tokens_per_day: Annotated[int | None, typer.Option("--tokens-per-day", min=1, help="Budget.")] = None,
    tokens_per_month: Annotated[int | None, typer.Option("--tokens-per-month", min=1, help="Budget.")] = None,
    money_per_day: Annotated[float | None, typer.Option("--money-per-day", min=0, help="Budget.")] = None,
    money_per_month: Annotated[float | None, typer.Option("--money-per-month", min=0, help="Budget.")] = None,
    expires: Annotated[str | None, typer.Option("--expires", metavar="TIME", help="Lifetime, e.g. 90d or 12h.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key. It is printed once: only its hash is kept."""
    from glm_crush.serving.gateway.records import KeyLimits

    limits = KeyLimits(
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        concurrency=concurrency,
        tokens_per_day=tokens_per_day,
        tokens_per_month=tokens_per_month,
        money_per_day=money_per_day,
        money_per_month=money_per_month,
    )
    expires_at = None if expires is None else time.time() + _seconds(expires, "--expires")

    async def work(store: KeyStore) -> tuple[Key, str]:
        known = {a.name: a.id for a in await store.applications()} | {a.id: a.id for a in await store.applications()}
        owner = known.get(application) or (await store.register(application)).id
        key, secret = await store.create(
            owner, name, scopes=tuple(scope or ("*",)), models=tuple(model or ()), limits=limits, expires_at=expires_at
        )
        return key, secret.text

    key, secret = _with_store(ctx, work)
    _print_secret(key, secret, as_json)


@app.command("list")
def list_keys(
    ctx: typer.Context,
    application: Annotated[str | None, typer.Option("--application", help="Only those of one.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the keys."""

    async def work(store: KeyStore) -> tuple[list[Key], dict[str, str]]:
        owner = None if application is None else (await store.application(application)).id
        return await store.keys(owner), {a.id: a.name for a in await store.applications()}

    found, names = _with_store(ctx, work)
    from glm_crush.serving.gateway.views import key_view, moment

    views = [key_view(key, time.time()) for key in found]
    if as_json:
        _print_json(views)
        return
    from rich.markup import escape
    from rich.table import Table

    from glm_crush.cli.console import standard_error, standard_output

    if not found:
        standard_error().print("[dim]no keys yet: glm keys create APPLICATION[/]")
        return
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("key", "application", "name", "status", "scopes", "limits", "last used"):
        table.add_column(column, style="cyan" if column == "key" else "", overflow="fold", no_wrap=column == "key")
    for key, view in zip(found, views, strict=True):
        limits = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in view["limits"].items())
        texts = (key.id, names[key.application_id], key.name, view["status"], " ".join(key.scopes), limits or "-")
        table.add_row(*(escape(text) for text in texts), moment(view["last_used_at"]))
    standard_output().print(table)


@app.command("show")
def show(ctx: typer.Context, key: KeyArgument) -> None:
    """Show one key as JSON: rights, limits, and the secrets it has without their hidden parts."""

    async def work(store: KeyStore) -> Key:
        return await store.key(key)

    found = _with_store(ctx, work)
    from glm_crush.serving.gateway.views import key_view

    _print_json(key_view(found, time.time()))


@app.command("rotate")
def rotate(
    ctx: typer.Context,
    key: KeyArgument,
    overlap: Annotated[
        str, typer.Option("--overlap", metavar="TIME", help="How long older secrets go on working, e.g. 1h; 0 = not.")
    ] = "1d",
    as_json: JsonOption = False,
) -> None:
    """Give a key a new secret; limits, budgets and usage go on."""
    seconds = _seconds(overlap, "--overlap")

    async def work(store: KeyStore) -> tuple[Key, str]:
        changed, secret = await store.rotate(key, seconds)
        return changed, secret.text

    changed, secret = _with_store(ctx, work)
    _print_secret(changed, secret, as_json)


@app.command("revoke")
def revoke(ctx: typer.Context, key: KeyArgument) -> None:
    """End a key with all its secrets, now."""

    async def work(store: KeyStore) -> Key:
        return await store.revoke(key)

    ended = _with_store(ctx, work)
    from glm_crush.cli.console import standard_error

    standard_error().print(f"{ended.id} ({ended.name}) is revoked")


def _with_store(ctx: typer.Context, work: Callable[[KeyStore], Awaitable[Result]]) -> Result:
    from glm_crush.cli.key_database import with_key_store

    return with_key_store(settings_from(ctx), work)


def _seconds(text: str, option: str) -> float:
    """A length of time such as 90d, 12h, 30m or 45s; a number alone is seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if match is None:
        raise typer.BadParameter(f"{text!r} is not a time such as 90d, 12h, 30m or 45s", param_hint=option)
    return float(match[1]) * _UNITS[match[2] or "s"]


def _print_secret(key: Key, secret: str, as_json: bool) -> None:
    """The secret alone on standard output, so that it can be put into a file; the rest beside it."""
    if as_json:
        from glm_crush.serving.gateway.views import key_view

        _print_json(key_view(key, time.time(), secret))
        return
    from glm_crush.cli.console import standard_error

    typer.echo(secret)
    standard_error().print(f"[dim]key {key.id}; it cannot be shown again[/]")


def _print_json(value: object) -> None:
    import json

    typer.echo(json.dumps(value, indent=2))
