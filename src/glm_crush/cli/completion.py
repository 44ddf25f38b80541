"""Names of stored models for a shell that completes a command line.

A shell that asks shows nothing but names: where there is no store or no readable configuration, there are none.
"""

from __future__ import annotations

__all__ = ["stored_names"]


def stored_names(incomplete: str) -> list[str]:
    """Names in the store that begin so."""
    from glm_crush.cli.models import open_store
    from glm_crush.config import load_settings
    from glm_crush.errors import GlmError

    try:
        return [model.name for model in open_store(load_settings()).list() if model.name.startswith(incomplete)]
    except (GlmError, OSError):
        return []
