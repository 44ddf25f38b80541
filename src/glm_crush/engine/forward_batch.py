"""From a scheduled step to the integer arrays that an executor takes.

Above: the runner. Below: `kernels.program.ForwardBatch`. The arrays are allocated once and reused: this runs
for every token, and most steps change a few numbers only.
"""

from __future__ import annotations

import numpy as np

from glm_crush.engine.scheduler import ScheduledBatch, SchedulerLimits
from glm_crush.kernels.program import ForwardBatch

__all__ = ["ForwardBatchBuilder"]


class ForwardBatchBuilder:
    """Builds one `ForwardBatch` a step; the views in it are valid until the next `build`."""

    def __init__(self, limits: SchedulerLimits, *, block_size: int) -> None:
        num_tokens, num_seqs = limits.token_budget, limits.max_num_seqs
        max_blocks = -(-limits.max_context // block_size)
        self._token_ids = np.zeros(num_tokens, np.int32)
        self._positions = np.zeros(num_tokens, np.int32)
        self._query_start = np.zeros(num_seqs + 1, np.int32)
        self._context_lens = np.zeros(num_seqs, np.int32)
        self._adapter_ids = np.zeros(num_seqs, np.int32)
        self._block_tables = np.full((num_seqs, max_blocks), -1, np.int32)
        self._logit_rows = np.zeros(num_tokens + num_seqs, np.int32)  # forks have rows without tokens
        self._all_positions = np.arange(limits.max_context, dtype=np.int32)
        # What each row of _block_tables holds: the request's own list (a new one at each admission) and how much of it.
        self._row_table: list[list[int] | None] = [None] * num_seqs
        self._row_length = [0] * num_seqs

    def build(self, batch: ScheduledBatch) -> ForwardBatch:
        """Lay out the tokens of all requests back to back.

        Logit rows are, per request in order: one for each scored prompt position, then, if it samples, one for its
        last token and one for each draft. A fork has no tokens and no sequence: its row is that of the request before.
        """
        token = row = num_rows = 0
        has_adapters = False
        for scheduled in batch.requests:
            request, start, count = scheduled.request, scheduled.start, scheduled.num_tokens
            end = start + count
            if count == 0:
                self._logit_rows[num_rows] = token - 1
                num_rows += 1
                continue
            num_drafts = len(scheduled.drafts)
            num_known = count - num_drafts
            if num_known == 1:
                self._token_ids[token] = request.token_ids[start]
                self._positions[token] = start
            else:
                known = np.frombuffer(request.token_ids, np.int32)[start : start + num_known]
                self._token_ids[token : token + num_known] = known
                self._positions[token : token + num_known] = self._all_positions[start : start + num_known]
            if num_drafts:
                self._token_ids[token + num_known : token + count] = scheduled.drafts
                self._positions[token + num_known : token + count] = self._all_positions[start + num_known : end]
            for position in scheduled.scored:
                self._logit_rows[num_rows] = token + position - 1 - start
                num_rows += 1
            token += count
            if scheduled.samples:
                for logit_row in range(token - 1 - num_drafts, token):
                    self._logit_rows[num_rows] = logit_row
                    num_rows += 1
            self._context_lens[row] = end
            self._adapter_ids[row] = request.adapter_slot
            has_adapters = has_adapters or request.adapter_slot >= 0
            self._set_block_table(row, request.block_table)
            row += 1
            self._query_start[row] = token
        return ForwardBatch(
            token_ids=self._token_ids[:token],
            positions=self._positions[:token],
            query_start=self._query_start[: row + 1],
            context_lens=self._context_lens[:row],
            block_tables=self._block_tables[:row],
            logit_rows=self._logit_rows[:num_rows],
            adapter_ids=self._adapter_ids[:row] if has_adapters else None,
        )

    def _set_block_table(self, row: int, table: list[int]) -> None:
        """Bring a row up to date: nothing to do in most steps, an append in most others."""
        known, length = self._row_length[row], len(table)
        if self._row_table[row] is not table:
            self._row_table[row] = table
            self._block_tables[row, length:known] = -1
            known = 0
        if known < length:
            self._block_tables[row, known:length] = table[known:]
        self._row_length[row] = length
