"""What was seen of one kept answer, and how likely it is wrong for a question at some distance.

Above: `semantic.cache`. Below: NumPy. After vCache (Schroeder et al., arXiv 2502.03771): no similarity is safe for all
questions, so each kept answer learns its own. Ours differs in three ways. It bounds the risk of every answer that is
given, not the mean over those that are generated too. It does not take for granted that what is nearer is safer: two
questions that differ in one word are very near, and their answers differ; so answers that were right count only where
they were seen, and those that were wrong also for everything farther. And what answers have in common is learnt from
all of them, so that a new one need not begin from nothing.

Distances (1 - cosine) are counted in bands, each 1.5 times as far as the one before. In a band the unknown rate of
wrong answers has one of the values `_RATES`, weighted by how often answers of this tenant have turned out to have it.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

__all__ = ["NUM_BANDS", "Evidence", "Experience", "band_of"]

Float64 = npt.NDArray[np.float64]

_NEAREST, _FARTHEST = 0.004, 0.6
_EDGES = np.geomspace(_NEAREST, _FARTHEST, 13)
NUM_BANDS = len(_EDGES)

_RATES = np.array([0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 0.98])
# Before anything is seen: three answers in ten are never wrong, the others are wrong at any of these rates.
_FIRST_WEIGHTS = np.array([0.3, *[0.7 / 8] * 8])
_FIRST_WEIGHTS_COUNT = 10.0  # as many answers' worth of it stays, whatever is seen
_BESIDE = 0.5  # what is seen in a band counts so much in the two beside it
_SHARES = np.array([_BESIDE, 1.0, _BESIDE])
_LOG_WRONG = np.log(np.maximum(_RATES, 1e-4))
_LOG_RIGHT = np.log1p(-_RATES)


def band_of(similarity: float) -> int | None:
    """The band of a cosine; None if it is too far for anything to be learnt from it."""
    band = int(np.searchsorted(_EDGES, 1.0 - similarity))
    return band if band < NUM_BANDS else None


class Evidence:
    """How often one kept answer was compared with a new one, and how often they differed, by distance.

    Attributes:
        right, wrong: float64 `[NUM_BANDS]`.
    """

    __slots__ = ("right", "wrong")

    def __init__(self) -> None:
        self.right: Float64 = np.zeros(NUM_BANDS)
        self.wrong: Float64 = np.zeros(NUM_BANDS)

    @property
    def num_seen(self) -> int:
        """Comparisons in all."""
        return int(self.right.sum() + self.wrong.sum())

    def add(self, band: int, *, right: bool) -> None:
        """One comparison more."""
        (self.right if right else self.wrong)[band] += 1


class Experience:
    """What the answers of one tenant have in common; begins with a guess and is fitted to what is seen.

    Each band has weights of the rates (empirical Bayes): an answer's own evidence is judged with them as the prior.
    """

    def __init__(self) -> None:
        self._weights = np.tile(_FIRST_WEIGHTS, (NUM_BANDS, 1))

    def risk(self, evidence: Evidence, band: int) -> float:
        """How likely the answer is wrong for a question in a band."""
        first, end = max(band - 1, 0), min(band + 2, NUM_BANDS)
        shares = _SHARES[first - band + 1 : end - band + 1]
        right = evidence.right[first:end] @ shares
        wrong = max(evidence.wrong[first:end] @ shares, evidence.wrong[: band + 1].sum())
        posterior = self._weights[band] * _likelihood(right * _LOG_RIGHT + wrong * _LOG_WRONG)
        return float(posterior @ _RATES / posterior.sum())

    def fit(self, evidences: Iterable[Evidence]) -> None:
        """One step of expectation-maximisation over the evidence of all answers, beside the first guess."""
        seen = [evidence for evidence in evidences if evidence.num_seen]
        if not seen:
            return
        right = np.stack([evidence.right for evidence in seen])
        wrong = np.stack([evidence.wrong for evidence in seen])
        right, wrong = _nearby(right), np.maximum(_nearby(wrong), np.cumsum(wrong, axis=1))
        posterior = self._weights * _likelihood(right[:, :, None] * _LOG_RIGHT + wrong[:, :, None] * _LOG_WRONG)
        posterior /= posterior.sum(axis=2, keepdims=True)
        posterior *= (right + wrong > 0)[:, :, None]  # bands that say nothing teach nothing
        weights = _FIRST_WEIGHTS_COUNT * _FIRST_WEIGHTS + posterior.sum(axis=0)
        self._weights = weights / weights.sum(axis=1, keepdims=True)


def _likelihood(logarithm: Float64) -> Float64:
    """Of each rate, the best one being 1."""
    likelihood: Float64 = np.exp(logarithm - logarithm.max(axis=-1, keepdims=True))
    return likelihood


def _nearby(counts: Float64) -> Float64:
    """`[num_answers, NUM_BANDS]`: a band with its share of either neighbour."""
    spread = counts.copy()
    spread[:, 1:] += _BESIDE * counts[:, :-1]
    spread[:, :-1] += _BESIDE * counts[:, 1:]
    return spread
