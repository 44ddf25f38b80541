"""OpenTelemetry's names for generative AI. None of them is stable yet, so this is the only module that spells them."""

from __future__ import annotations

__all__ = [
    "CACHED_TOKENS",
    "ERROR_TYPE",
    "FINISH_REASONS",
    "INPUT_TOKENS",
    "MAX_TOKENS",
    "OPERATION",
    "OUTPUT_TOKENS",
    "PROVIDER",
    "REQUEST_MODEL",
    "SEED",
    "TEMPERATURE",
    "TIME_TO_FIRST_TOKEN",
    "TOP_P",
]

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
MAX_TOKENS = "gen_ai.request.max_tokens"
TEMPERATURE = "gen_ai.request.temperature"
TOP_P = "gen_ai.request.top_p"
SEED = "gen_ai.request.seed"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CACHED_TOKENS = "gen_ai.usage.cache_read.input_tokens"
FINISH_REASONS = "gen_ai.response.finish_reasons"
TIME_TO_FIRST_TOKEN = "gen_ai.server.time_to_first_token"
ERROR_TYPE = "error.type"
