"""From token ids to token ids: requests, scheduling, paged cache, sampling, stopping.

Above: `chat` and `llm` (which know text and templates) and `serving`. Below: `models` and `kernels`.
"""
