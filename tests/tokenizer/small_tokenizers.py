"""Small tokenizers of every kind, trained here, and the same written as GGUF metadata."""

from __future__ import annotations

import json
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from glm_crush.tokenizer.training import train_byte_level_bpe

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog's not happy: it's 12345 o'clock!",
    "Olá, você não está aqui? A ação começou às 10h30. \u00c9 só isso, então.",
    "模型在中央处理器上运行得很快。今天天气很好，我们去公园散步吧。",
    "def main(args):\n    return [x ** 2 for x in range(10)]\n\n\tprint('hello, hello, hello')\r\n",
    "Emoji 😀😃 and more 👩‍👩‍👧‍👦 text; naïve café façade — “quoted” …   spaces   ",
] * 3
CHAT_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
GLM_TOKENS = ["<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]
GLM_MARKS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "/nothink"]  # added, but not special


def byte_level(pre: str = "smollm", vocab_size: int = 420) -> dict[str, Any]:
    """tokenizer.json of a byte-level BPE with three special tokens first."""
    return json.loads(train_byte_level_bpe(CORPUS, vocab_size, special_tokens=CHAT_TOKENS, pre=pre))


def glm() -> dict[str, Any]:
    """A byte-level BPE with GLM's special tokens after the vocabulary and its marks as added, not special tokens."""
    definition = json.loads(train_byte_level_bpe(CORPUS, 400, pre="glm4"))
    first = len(definition["model"]["vocab"])
    for offset, token in enumerate(GLM_TOKENS + GLM_MARKS):
        added = {"id": first + offset, "content": token, "special": token in GLM_TOKENS}
        definition["added_tokens"].append(
            {**added, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        )
    return definition


def sentencepiece(vocab_size: int = 500) -> dict[str, Any]:
    """tokenizer.json in the form that Llama 2 and Mistral have: BPE over U+2581 with bytes to fall back on."""
    library = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    library.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=special, show_progress=False, limit_alphabet=60)
    library.train_from_iterator([part for text in CORPUS for part in text.split(" ")], trainer)
    library.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    library.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A $B:1", [("<s>", 1)])
    definition = json.loads(library.to_str())
    # byte tokens are plain vocabulary, as in the real files
    definition["added_tokens"] = [entry for entry in definition["added_tokens"] if entry["id"] < 3]
    return definition


def word_piece(*, lowercase: bool = True) -> dict[str, Any]:
    """tokenizer.json of a BERT vocabulary."""
    library = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    library.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=lowercase)
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    library.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    )
    library.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return json.loads(library.to_str())


def metaspace() -> dict[str, Any]:
    """tokenizer.json of a Unigram vocabulary with Metaspace, as XLM-RoBERTa has."""
    library = tokenizers.Tokenizer(models.Unigram())
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    library.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=["<s>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    library.train_from_iterator(CORPUS, trainer)
    return json.loads(library.to_str())


def as_bytes(definition: dict[str, Any]) -> bytes:
    return json.dumps(definition, ensure_ascii=False).encode()


def library_of(definition: dict[str, Any]) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_str(json.dumps(definition, ensure_ascii=False))


def gguf_metadata(definition: dict[str, Any], model: str, pre: str = "default", **extra: object) -> dict[str, object]:
    """What llama.cpp's converter writes for this tokenizer.json."""
    library = library_of(definition)
    size = library.get_vocab_size(with_added_tokens=True)
    added = {entry["id"]: entry for entry in definition["added_tokens"]}
    tokens = [library.id_to_token(token_id) for token_id in range(size)]
    types = [_type(token_id, token, added) for token_id, token in enumerate(tokens)]
    metadata: dict[str, object] = {"tokenizer.ggml.model": model, "tokenizer.ggml.pre": pre}
    if model == "bert":
        tokens = [t if kind == 3 else _phantom_space(t) for t, kind in zip(tokens, types, strict=True)]
    elif model == "llama":
        # SentencePiece's score of a BPE piece is minus its rank
        ranks = {"".join(pair): rank for rank, pair in reversed(list(enumerate(definition["model"]["merges"])))}
        metadata["tokenizer.ggml.scores"] = [-float(ranks.get(token, len(ranks))) for token in tokens]
    else:
        metadata["tokenizer.ggml.merges"] = [" ".join(pair) for pair in definition["model"]["merges"]]
    metadata |= {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types}
    return metadata | {f"tokenizer.ggml.{key}": value for key, value in extra.items()}


def _type(token_id: int, token: str, added: dict[int, dict[str, Any]]) -> int:
    if token_id in added:
        return 2 if token == "<unk>" else 3 if added[token_id]["special"] else 4
    return 6 if token.startswith("<0x") else 1


def _phantom_space(token: str) -> str:
    return token[2:] if token.startswith("##") else "\u2581" + token
