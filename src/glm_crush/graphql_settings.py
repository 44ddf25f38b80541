"""The settings of GraphQL: what one document, one operation and one connection may cost.

Above: `config.py`, of which this is a section. It knows nothing of what the values do.
"""

from __future__ import annotations

from dataclasses import dataclass

from glm_crush.config_field import setting

__all__ = ["GraphqlSettings"]


@dataclass(frozen=True, kw_only=True)
class GraphqlSettings:
    """Bounds on what GraphQL clients may ask for."""

    introspection: bool = setting(True, "whether clients may ask for the schema: true or false")
    max_document_tokens: int = setting(
        5000, "words and signs of one document; long texts belong in its variables", low=1
    )
    max_depth: int = setting(10, "fields within fields within fields of one operation", low=1)
    max_complexity: int = setting(500, "fields of one operation, where one that computes counts as 50", low=1)
    max_operations: int = setting(64, "operations under way on one connection", low=1)
