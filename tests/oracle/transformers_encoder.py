"""Results of a tiny encoder by transformers. Needs torch and transformers."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import numpy as np

from tests.golden.encoder_cases import EncoderCase, encoder_texts
from tests.models.tiny_encoder import encoder_checkpoint, encoder_config

__all__ = ["transformers_rows"]


def transformers_rows(case: EncoderCase) -> np.ndarray:
    """Writes the tiny checkpoint, loads it and returns the rows of all texts, float32 `[rows, width]`.

    Raises:
        AssertionError: a tensor is missing or unexpected.
    """
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        import torch
        import transformers
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        path = encoder_checkpoint(case.family, Path(folder), case.seed, **case.overrides)
        architecture = encoder_config(case.family, **case.overrides)["architectures"][0]
        model, info = getattr(transformers, architecture).from_pretrained(
            path, dtype=torch.float32, output_loading_info=True, attn_implementation="eager"
        )
        assert not info["missing_keys"], info["missing_keys"]
        assert not info["mismatched_keys"], info["mismatched_keys"]
        assert not info["unexpected_keys"], info["unexpected_keys"]
        rows = []
        with torch.no_grad():
            for ids, types in encoder_texts(case):
                result = model.eval()(input_ids=torch.tensor([ids]), token_type_ids=torch.tensor([types]))
                rows.append(result[0].numpy().reshape(-1, result[0].shape[-1]))
        return np.concatenate(rows).astype(np.float32)
