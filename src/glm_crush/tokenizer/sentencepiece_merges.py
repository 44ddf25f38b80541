"""Merges for a SentencePiece BPE vocabulary that only has scores.

SentencePiece joins the neighbouring pair whose result has the best score; a merge list says the same as an order of
pairs. The order of equal scores follows the converter that wrote the models' own tokenizer.json files, so that ids
agree with those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

__all__ = ["merges_from_scores"]


def merges_from_scores(token_ids: Mapping[str, int], scores: Sequence[float], skipped: Set[str]) -> list[list[str]]:
    """All ways to build each token from two others, best first.

    Args:
        token_ids: token → id.
        scores: one per id; higher is merged earlier.
        skipped: tokens that text can never merge into or from (control, byte, unknown and unused tokens).

    Returns:
        `[left, right]` pairs. Time is linear in the summed length of all tokens, plus sorting.
    """
    found: list[tuple[float, int, int, str, str]] = []
    for token, token_id in token_ids.items():
        if token in skipped or len(token) < 2:
            continue
        splits = []
        for index in range(1, len(token)):
            left, right = token[:index], token[index:]
            if left in token_ids and right in token_ids and left not in skipped and right not in skipped:
                splits.append((token_ids[left], token_ids[right], left, right))
        splits.sort()
        score = scores[token_id]
        found.extend((score, len(left), len(right), left, right) for _, _, left, right in splits)
    found.sort(key=lambda item: item[:3], reverse=True)
    return [[left, right] for _, _, _, left, right in found]
