"""The settings of a server of several models.

Above: `config.py`, of which this is a section. It knows nothing of what the values do.
"""

from __future__ import annotations

from dataclasses import dataclass

from glm_crush.config_field import setting

__all__ = ["ServingSettings"]


@dataclass(frozen=True, kw_only=True)
class ServingSettings:
    """Which models a server has in memory, and for how long."""

    models: str | None = setting(
        None,
        "models that a server starts with, such as 'smollm2:135m, big=./big.gguf'; the first is the default one; "
        "unset = model.name",
    )
    pin: bool = setting(True, "whether they stay in memory until the server ends: true or false")
    load_on_demand: bool = setting(
        True, "whether requests may name any other model of the store, which is loaded then: true or false"
    )
    model_memory_bytes: int | None = setting(
        None, "memory for weights and caches of all models, such as '8G'; unset = what is free at the start, less 15 %"
    )
    model_ttl_seconds: float | None = setting(
        300.0, "how long a model that is not pinned stays after its last request; none = until room is needed", low=0
    )
