"""The `metadata` that clients attach to stored objects."""

from __future__ import annotations

from collections.abc import Mapping

from glm_crush.errors import InvalidParameterError

__all__ = ["check_metadata"]

_MOST_ENTRIES, _LONGEST_KEY, _LONGEST_VALUE = 16, 64, 512


def check_metadata(metadata: Mapping[str, str]) -> None:
    """Refuse more than OpenAI takes.

    Raises:
        InvalidParameterError: too many entries, or one too long.
    """
    too_long = [key for key, value in metadata.items() if len(key) > _LONGEST_KEY or len(value) > _LONGEST_VALUE]
    if len(metadata) > _MOST_ENTRIES or too_long:
        raise InvalidParameterError(
            f"metadata has {len(metadata)} entries, {len(too_long)} of them too long; give at most {_MOST_ENTRIES}, "
            f"keys of {_LONGEST_KEY} and values of {_LONGEST_VALUE} characters",
            parameter="metadata",
        )
