"""`glm rm`: take a model out of the store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from glm_crush.cli.completion import stored_names
from glm_crush.cli.options import settings_from

__all__ = ["rm"]


def rm(
    ctx: typer.Context,
    names: Annotated[
        list[str], typer.Argument(metavar="NAME", help="Names (see glm list).", autocompletion=stored_names)
    ],
) -> None:
    """Remove models and their packed weights, and free the space. Files of registered paths stay where they are."""
    from rich.markup import escape

    from glm_crush.cli.console import format_bytes, standard_error
    from glm_crush.cli.models import open_store

    settings = settings_from(ctx)
    store = open_store(settings)
    for name in names:
        model = store.show(name)
        packed = _packed_files(settings.store.home / "packed", model.path)
        freed = 0 if model.linked else _bytes_of_its_own(model.path)
        store.remove(name)
        shared = {file for model in store.list() for file in _packed_files(settings.store.home / "packed", model.path)}
        for file in packed - shared:
            freed += file.stat().st_size
            file.unlink()
        standard_error().print(f"[green]removed[/] {escape(name)} [dim]({format_bytes(freed)} freed)[/]")


def _bytes_of_its_own(path: Path) -> int:
    """Size of a pulled model's files that no copy shares (`glm cp` makes hard links)."""
    states = [file.stat() for file in (path if path.is_dir() else path.parent).rglob("*") if file.is_file()]
    return sum(state.st_size for state in states if state.st_nlink == 1)


def _packed_files(cache_dir: Path, model: Path) -> set[Path]:
    """The packed forms of a model in every weight format and layout; none if its files are gone or no checkpoint."""
    from glm_crush.errors import ModelError
    from glm_crush.weights.checkpoint_files import checkpoint_files
    from glm_crush.weights.source_hash import source_hash

    try:
        source = source_hash(checkpoint_files(model))
    except ModelError:
        return set()
    return set(cache_dir.glob(f"{source[:32]}-*.glm"))
