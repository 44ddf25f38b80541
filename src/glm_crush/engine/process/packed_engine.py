"""What the child builds when a packed model is served: called by name, in the child, with plain values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from glm_crush.config import CrushSettings

if TYPE_CHECKING:
    from glm_crush.engine.build import BuiltEngine

__all__ = ["MAKE", "build_packed_engine", "packed_engine_arguments"]

MAKE = "glm_crush.engine.process.packed_engine:build_packed_engine"


def packed_engine_arguments(
    path: Path, settings: CrushSettings, max_context: int | None, draft_path: Path | None = None
) -> dict[str, Any]:
    """The arguments of `build_packed_engine` as they cross to the child."""
    return {
        "path": str(path.absolute()),
        "settings": msgspec.to_builtins(settings),
        "max_context": max_context,
        "draft_path": None if draft_path is None else str(draft_path.absolute()),
    }


def build_packed_engine(
    path: str, settings: Mapping[str, Any], max_context: int | None, draft_path: str | None
) -> BuiltEngine:
    """Map packed files, of a model and of its draft model, and build the engine over them.

    Raises as `load_model` and `build_engine` do.
    """
    # Imported here: the parent, which needs the arguments only, does without the engine.
    from glm_crush.engine.build import build_engine
    from glm_crush.models.loader import load_model

    packed = Path(path)
    return build_engine(
        load_model(packed, cache_dir=packed.parent),
        msgspec.convert(settings, CrushSettings),
        max_context=max_context,
        draft=None if draft_path is None else load_model(draft_path, cache_dir=packed.parent),
    )
