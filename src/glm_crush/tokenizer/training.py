"""Learn a new byte-level BPE vocabulary from text.

Below it: the table of pre-tokenizers and the library's trainer. Above it: tuning, and tests that need a small
tokenizer. The result is a tokenizer.json like any other: every byte is in the vocabulary, so no text is unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import tokenizers
from tokenizers import decoders, models, normalizers, trainers

from glm_crush.errors import TokenizerError
from glm_crush.tokenizer.pre_tokenizers import pre_tokenizer
from glm_crush.tokenizer.token_text import byte_alphabet

__all__ = ["train_byte_level_bpe"]


def train_byte_level_bpe(
    texts: Iterable[str],
    vocab_size: int,
    *,
    special_tokens: Sequence[str] = (),
    pre: str = "glm4",
    min_frequency: int = 2,
) -> bytes:
    """Train and return the bytes of a tokenizer.json.

    Args:
        texts: training text, in any number of pieces; read once.
        vocab_size: ids in all, special tokens included; reached only if the texts have enough pairs.
        special_tokens: they take the first ids, in this order.
        pre: how text is cut into words, by its GGUF name.
        min_frequency: pairs seen less often are not merged.

    Raises:
        TokenizerError: `vocab_size` leaves no room for the 256 bytes, or `pre` is unknown.
    """
    smallest = 256 + len(special_tokens)
    if vocab_size < smallest:
        raise TokenizerError(
            f"vocab_size is {vocab_size}; 256 bytes and {len(special_tokens)} special tokens need {smallest}"
        )
    cut = pre_tokenizer(pre)
    library = tokenizers.Tokenizer(models.BPE(ignore_merges=cut.ignore_merges))
    library.pre_tokenizer = cut.to_library()
    library.decoder = decoders.ByteLevel()
    if cut.nfc:
        library.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=list(special_tokens),
        initial_alphabet=sorted(byte_alphabet()),
        show_progress=False,
    )
    library.train_from_iterator(texts, trainer)
    return library.to_str().encode()
