"""Logits of a tiny checkpoint by transformers, the oracle of every family. Needs torch and transformers."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import numpy as np

from tests.golden.cases import GoldenCase, golden_token_ids
from tests.models.tiny import tiny_checkpoint, tiny_config

__all__ = ["transformers_logits"]


def transformers_logits(case: GoldenCase) -> np.ndarray:
    """Writes the tiny checkpoint, loads it into transformers and returns float32 logits `[48, 269]`.

    Raises:
        AssertionError: a tensor is missing or unexpected (multi-token prediction layers aside, which
            transformers leaves out).
    """
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        path = tiny_checkpoint(case.family, Path(folder), case.seed, **case.overrides)
        model, info = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, output_loading_info=True, attn_implementation="eager"
        )
        next_token_layer = f"model.layers.{tiny_config(case.family, **case.overrides)['num_hidden_layers']}."
        unexpected = {name for name in info["unexpected_keys"] if not name.startswith(next_token_layer)}
        assert not info["missing_keys"], info["missing_keys"]
        assert not info["mismatched_keys"], info["mismatched_keys"]
        assert not unexpected, unexpected
        with torch.no_grad():
            logits = model.eval()(torch.tensor([golden_token_ids(case)])).logits[0]
        return np.asarray(logits.numpy(), np.float32)
