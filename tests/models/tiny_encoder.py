"""Tiny random encoders: configurations, tensors by their checkpoint names, tokenizers, whole checkpoints.

The second opinion on the name maps of `models.bert`: nothing here is derived from them, and `make oracle` loads the
result into transformers without a missing or unexpected tensor.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

__all__ = [
    "ENCODER_CONFIGS",
    "encoder_checkpoint",
    "encoder_config",
    "encoder_tensors",
    "sentence_files",
    "unigram_tokenizer",
    "word_piece_tokenizer",
]

Shapes = dict[str, tuple[int, ...]]

_COMMON: dict[str, Any] = {
    "hidden_size": 72,
    "intermediate_size": 88,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "vocab_size": 269,
    "layer_norm_eps": 2e-3,
    "hidden_act": "gelu",
}
ENCODER_CONFIGS: dict[str, dict[str, Any]] = {
    "bert": {
        **_COMMON,
        "architectures": ["BertModel"],
        "model_type": "bert",
        "max_position_embeddings": 48,
        "type_vocab_size": 2,
        "pad_token_id": 0,
    },
    "xlm-roberta": {
        **_COMMON,
        "architectures": ["XLMRobertaModel"],
        "model_type": "xlm-roberta",
        "max_position_embeddings": 50,
        "type_vocab_size": 1,
        "pad_token_id": 1,
    },
}


def encoder_config(family: str, **overrides: Any) -> dict[str, Any]:
    """config.json; an override of None removes the key."""
    config = {**ENCODER_CONFIGS[family], **overrides}
    return {key: value for key, value in config.items() if value is not None}


def encoder_tensors(config: Mapping[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """float32 tensors by their Hugging Face names."""
    return {name: _random(name, shape, seed) for name, shape in _shapes(config).items()}


def encoder_checkpoint(
    family: str, folder: Path, seed: int = 0, *, sentence: Mapping[str, Any] | None = None, **overrides: Any
) -> Path:
    """Writes a checkpoint with its tokenizer into `folder / family`.

    Args:
        family: one of ENCODER_CONFIGS.
        folder: where to put it.
        seed: of the weights.
        sentence: sentence-transformers' files by path, or None.
        overrides: config.json keys; None removes one.
    """
    path = folder / family
    path.mkdir(parents=True, exist_ok=True)
    config = encoder_config(family, **overrides)
    save_file(encoder_tensors(config, seed), path / "model.safetensors", metadata={"format": "pt"})
    tokenizer = word_piece_tokenizer() if family == "bert" else unigram_tokenizer()
    files = {"config.json": config, "tokenizer.json": tokenizer, **(sentence or {})}
    for name, content in files.items():
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def sentence_files(
    *, mode: str = "mean_tokens", normalize: bool = True, max_length: int | None = None
) -> dict[str, Any]:
    """What sentence-transformers keeps beside a model."""
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), *([("2_Normalize", "Normalize")] if normalize else [])]
    modes = ("cls_token", "mean_tokens", "max_tokens", "lasttoken")
    return {
        "modules.json": [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(kinds)
        ],
        "1_Pooling/config.json": {f"pooling_mode_{each}": each == mode for each in modes},
        **({"sentence_bert_config.json": {"max_seq_length": max_length}} if max_length else {}),
    }


def word_piece_tokenizer() -> dict[str, Any]:
    """tokenizer.json of BERT's kind: five special tokens, then letters, pieces and words; 269 in all."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'中文é"
    words = ["the", "cat", "sat", "on", "mat", "dog", "in", "rain", "##s", "##ing", "##ed", "is", "a", "what"]
    tokens = [*special, *letters, *(f"##{letter}" for letter in letters), *words]
    tokens += [f"[unused{i}]" for i in range(269 - len(tokens))]
    processor = {
        "type": "TemplateProcessing",
        "single": [_special("[CLS]"), _part("A"), _special("[SEP]")],
        "pair": [_special("[CLS]"), _part("A"), _special("[SEP]"), _part("B", 1), _special("[SEP]", 1)],
        "special_tokens": {name: {"id": name, "ids": [tokens.index(name)], "tokens": [name]} for name in special[2:4]},
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(tokens.index(name), name) for name in special],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": processor,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {token: index for index, token in enumerate(dict.fromkeys(tokens))},
        },
    }


def unigram_tokenizer() -> dict[str, Any]:
    """tokenizer.json of XLM-RoBERTa's kind: SentencePiece's unigram model behind `<s>`, `<pad>`, `</s>`, `<unk>`."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = ["▁", *"abcdefghijklmnopqrstuvwxyz0123456789.,!?'中文é", "▁the", "▁cat", "▁s", "ing", "▁dog", "▁rain"]
    vocab: list[list[Any]] = [[token, 0.0] for token in special]
    vocab += [[piece, -2.0 - 0.01 * index - (1.0 if len(piece) == 1 else 0.0)] for index, piece in enumerate(pieces)]
    vocab += [[f"▁unused{i}", -20.0] for i in range(269 - len(vocab) - 1)] + [["<mask>", 0.0]]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(index, name) for index, name in enumerate(special)] + [_added(268, "<mask>")],
        "normalizer": {"type": "NFKC"},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [_special("<s>"), _part("A"), _special("</s>")],
            "pair": [_special("<s>"), _part("A"), _special("</s>"), _special("</s>"), _part("B"), _special("</s>")],
            "special_tokens": {
                name: {"id": name, "ids": [special.index(name)], "tokens": [name]} for name in ("<s>", "</s>")
            },
        },
        "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        "model": {"type": "Unigram", "unk_id": 3, "vocab": vocab, "byte_fallback": False},
    }


def _special(name: str, kind: int = 0) -> dict[str, Any]:
    return {"SpecialToken": {"id": name, "type_id": kind}}


def _part(name: str, kind: int = 0) -> dict[str, Any]:
    return {"Sequence": {"id": name, "type_id": kind}}


def _added(index: int, name: str) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": index, "content": name, "special": True, **flags}


def _shapes(config: Mapping[str, Any]) -> Shapes:
    hidden, inner, architecture = config["hidden_size"], config["intermediate_size"], config["architectures"][0]
    is_bert = config["model_type"] == "bert"
    base = "" if architecture.endswith("Model") else "bert." if is_bert else "roberta."
    shapes: Shapes = {
        f"{base}embeddings.word_embeddings.weight": (config["vocab_size"], hidden),
        f"{base}embeddings.position_embeddings.weight": (config["max_position_embeddings"], hidden),
        f"{base}embeddings.token_type_embeddings.weight": (config["type_vocab_size"], hidden),
        **_biased(f"{base}embeddings.LayerNorm", hidden),
    }
    for index in range(config["num_hidden_layers"]):
        prefix = f"{base}encoder.layer.{index}"
        for part in ("query", "key", "value"):
            shapes |= _biased(f"{prefix}.attention.self.{part}", hidden, hidden)
        shapes |= _biased(f"{prefix}.attention.output.dense", hidden, hidden)
        shapes |= _biased(f"{prefix}.attention.output.LayerNorm", hidden)
        shapes |= _biased(f"{prefix}.intermediate.dense", inner, hidden)
        shapes |= _biased(f"{prefix}.output.dense", hidden, inner)
        shapes |= _biased(f"{prefix}.output.LayerNorm", hidden)
    return shapes | _head(config, architecture, base, is_bert=is_bert)


def _head(config: Mapping[str, Any], architecture: str, base: str, *, is_bert: bool) -> Shapes:
    hidden, labels = config["hidden_size"], len(config.get("id2label", "ab"))
    if architecture.endswith("Model"):
        return _biased("pooler.dense", hidden, hidden)
    if architecture.endswith("ForTokenClassification"):
        return _biased("classifier", labels, hidden)
    if architecture.endswith("ForSequenceClassification"):
        if is_bert:
            return _biased(f"{base}pooler.dense", hidden, hidden) | _biased("classifier", labels, hidden)
        return _biased("classifier.dense", hidden, hidden) | _biased("classifier.out_proj", labels, hidden)
    if is_bert:
        transform = "cls.predictions.transform"
        names = _biased(f"{transform}.dense", hidden, hidden) | _biased(f"{transform}.LayerNorm", hidden)
        return {**names, "cls.predictions.bias": (config["vocab_size"],)}
    names = _biased("lm_head.dense", hidden, hidden) | _biased("lm_head.layer_norm", hidden)
    return {**names, "lm_head.bias": (config["vocab_size"],)}


def _biased(name: str, rows: int, *cols: int) -> Shapes:
    return {f"{name}.weight": (rows, *cols), f"{name}.bias": (rows,)}


def _random(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    state = np.random.RandomState((zlib.crc32(name.encode()) + 7919 * seed) % 2**32)
    values = state.standard_normal(shape)
    if len(shape) == 1:
        centre = 1.0 if name.endswith(("LayerNorm.weight", "layer_norm.weight")) else 0.0
        return (centre + 0.2 * values).astype(np.float32)
    scale = 0.7 if "embeddings" in name else 1.4 / np.sqrt(shape[-1])
    return (scale * values).astype(np.float32)
