"""What `usage` says of the prefix cache where the operator lets it: `glm serve --explain-cache`.

Above: the protocol adapters. Below: `chat.cache_explanation`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from glm_crush.chat.cache_explanation import explain_cache
from glm_crush.serving.gateway.admission import current_admission
from glm_crush.serving.served_model import ServedModel
from glm_crush.types import CacheReport

__all__ = ["cache_headers", "cache_usage"]


def cache_usage(model: ServedModel, prompt_token_ids: Sequence[int], report: CacheReport | None) -> dict[str, Any]:
    """`{"cache": {...}}` for the counts of a reply; nothing where it is not to be told or not known."""
    if report is None or not model.explains_cache:
        return {}
    admission = current_admission()
    shared = admission is None or admission.shares_prefixes
    return {"cache": asdict(explain_cache(report, prompt_token_ids, model.codec.decode, shared_with_others=shared))}


def cache_headers(model: ServedModel, prompt_token_ids: Sequence[int], report: CacheReport | None) -> dict[str, str]:
    """The same as a header, for protocols whose counts take nothing more."""
    told = cache_usage(model, prompt_token_ids, report)
    return {"x-cache-report": json.dumps(told["cache"])} if told else {}
