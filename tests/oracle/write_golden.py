"""Writes `tests/golden/logits` anew with transformers: `python -m tests.oracle.write_golden`."""

from __future__ import annotations

import numpy as np

from tests.golden.cases import CASES, golden_path
from tests.golden.encoder_cases import ENCODER_CASES, encoder_path
from tests.oracle.transformers_encoder import transformers_rows
from tests.oracle.transformers_logits import transformers_logits


def main() -> None:
    """Writes one file per case and removes those of cases that are no more."""
    _write_encoders()
    folder = golden_path(CASES[0]).parent
    folder.mkdir(exist_ok=True)
    for stale in set(folder.glob("*.npy")) - {golden_path(case) for case in CASES}:
        stale.unlink()
    for case in CASES:
        logits = transformers_logits(case)
        np.save(golden_path(case), logits)
        print(f"{case.name:28} {logits.shape} spread {logits.std():.3f}")


def _write_encoders() -> None:
    folder = encoder_path(ENCODER_CASES[0]).parent
    folder.mkdir(exist_ok=True)
    for stale in set(folder.glob("*.npy")) - {encoder_path(case) for case in ENCODER_CASES}:
        stale.unlink()
    for case in ENCODER_CASES:
        rows = transformers_rows(case)
        np.save(encoder_path(case), rows)
        print(f"{case.name:28} {rows.shape} spread {rows.std():.3f}")


if __name__ == "__main__":
    main()
