"""An encoder that is ready to run: tokenizer, limits and runner of one loaded model.

Above: `embedder`, `reranker`, serving. Below: `encoder_runner`, `models`, `tokenizer`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from glm_crush.config import CrushSettings, EncoderSettings
from glm_crush.engine.cache_plan import kv_bytes_per_token
from glm_crush.engine.encoder_runner import EncoderExecutor, EncoderRunner
from glm_crush.engine.machine import physical_cores, release_free_memory
from glm_crush.errors import ConfigError, ContextLengthError, InvalidParameterError, UnsupportedModelError
from glm_crush.models.heads import Readout
from glm_crush.models.loader import LoadedModel
from glm_crush.tokenizer.encoded_text import EncodedText
from glm_crush.tokenizer.tokenizer import Tokenizer

__all__ = ["Encoder", "MakeEncoderExecutor", "TextInput", "build_encoder", "encoder_cache_bytes"]

TextInput = str | Sequence[int]

_BLOCK_SIZE = 16
# Beyond this a text takes much memory for little meaning in one vector; `encoders.max_length` raises it.
_DEFAULT_LONGEST = 8192

MakeEncoderExecutor = Callable[[LoadedModel, CrushSettings, int, int], EncoderExecutor]


@dataclass(frozen=True)
class Encoder:
    """One model that turns whole texts into numbers.

    Attributes:
        max_length: longest text in tokens, special ones included. vocab_size: ids lie below it.
    """

    runner: EncoderRunner
    tokenizer: Tokenizer
    max_length: int
    vocab_size: int

    @property
    def readout(self) -> Readout:
        """What a result is."""
        return self.runner.readout

    def encode(
        self,
        text: TextInput,
        second: str | None = None,
        *,
        truncate_to: int | None = None,
        second_length: int | None = None,
        parameter: str = "input",
    ) -> EncodedText:
        """What the model is given for a text, a pair of texts, or token ids as they are.

        Args:
            text: the text or ids.
            second: the second of a pair; then `text` is a text.
            truncate_to: cut what is longer; None = refuse it. No more than `max_length`.
            second_length: most tokens of the second.
            parameter: what the caller calls it, for errors.

        Raises:
            ContextLengthError: it is longer than `max_length` and may not be cut.
            InvalidParameterError: there is nothing in it, or an id that the model does not have.
        """
        room = None if truncate_to is None else min(truncate_to, self.max_length)
        if isinstance(text, str):
            encoded = self.tokenizer.encode_whole(text, second, max_length=room, second_length=second_length)
        else:
            kept = self._checked_ids(text[:room], parameter)
            encoded = EncodedText(kept, num_cut=len(text) - len(kept))
        if not encoded.token_ids:
            raise InvalidParameterError(f"{parameter} is empty; give at least one token", parameter=parameter)
        if len(encoded.token_ids) > self.max_length:
            raise ContextLengthError(
                f"{parameter} has {len(encoded.token_ids)} tokens; this model takes {self.max_length}. "
                "Shorten it, split it, or ask for it to be truncated.",
                parameter=parameter,
            )
        return encoded

    def _checked_ids(self, token_ids: Sequence[int], parameter: str) -> list[int]:
        for token_id in token_ids:
            if not 0 <= token_id < self.vocab_size:
                raise InvalidParameterError(
                    f"{parameter} holds the token id {token_id}; this model's ids lie in [0, {self.vocab_size})",
                    parameter=parameter,
                )
        return list(token_ids)


def build_encoder(
    loaded: LoadedModel,
    settings: EncoderSettings,
    crush: CrushSettings,
    *,
    make_executor: MakeEncoderExecutor | None = None,
) -> Encoder:
    """Make the executor of a loaded encoder.

    Args:
        loaded: the model, its weights mapped.
        settings: lengths and batches.
        crush: threads and kernels.
        make_executor: (model, settings, tokens per call, texts per call) → executor; None = the native one.

    Raises:
        ConfigError: `max_length` is more than the model takes.
        UnsupportedModelError: the model generates text.
    """
    compiled = loaded.compiled
    if compiled.readout.task == "generate":
        raise UnsupportedModelError(
            f"family {compiled.family} generates text; load it with a pooling to use it as an embedding model"
        )
    max_length, batch_tokens, batch_texts = _lengths(loaded, settings)
    runner = EncoderRunner(
        (make_executor or _native_executor)(loaded, crush, batch_tokens, batch_texts),
        compiled.readout,
        width=compiled.program.output_size,
        max_batch_tokens=settings.max_num_batched_tokens,
        max_batch_texts=batch_texts,
        block_size=_BLOCK_SIZE,
    )
    tokenizer = loaded.tokenizer
    release_free_memory()  # what loading took for a moment
    return Encoder(runner, tokenizer, max_length, compiled.program.vocab_size)


def encoder_cache_bytes(loaded: LoadedModel, settings: EncoderSettings) -> int:
    """What the keys and values of one call take at most.

    Raises:
        ConfigError: `max_length` is more than the model takes.
    """
    _, batch_tokens, batch_texts = _lengths(loaded, settings)
    num_tokens = _num_blocks(batch_tokens, batch_texts) * _BLOCK_SIZE
    return num_tokens * kv_bytes_per_token(loaded.compiled.program, _kv_dtype(loaded))


def _lengths(loaded: LoadedModel, settings: EncoderSettings) -> tuple[int, int, int]:
    """Longest text, and tokens and texts of one call."""
    max_length = _max_length(loaded, settings)
    batch_tokens = max(settings.max_num_batched_tokens, max_length)
    # Texts of a token or two would otherwise bring as many sequences as tokens.
    return max_length, batch_tokens, max(1, batch_tokens // 4)


def _num_blocks(batch_tokens: int, batch_texts: int) -> int:
    return batch_tokens // _BLOCK_SIZE + batch_texts + 1


def _kv_dtype(loaded: LoadedModel) -> Literal["f32", "bf16"]:
    """Exact only where all else is; not int8: nothing stays in it."""
    return "f32" if loaded.packed.weight_formats() == {"f32"} else "bf16"


def _max_length(loaded: LoadedModel, settings: EncoderSettings) -> int:
    possible = loaded.compiled.max_position
    if settings.max_length is not None:
        if settings.max_length > possible:
            raise ConfigError(f"encoders.max_length is {settings.max_length}; this model takes {possible}. Lower it.")
        return settings.max_length
    sentence = loaded.compiled.sentence
    published = None if sentence is None else sentence.max_length
    return min(possible, published or _DEFAULT_LONGEST)


def _native_executor(loaded: LoadedModel, crush: CrushSettings, batch_tokens: int, batch_texts: int) -> EncoderExecutor:
    # Imported here: with another executor there is no need for the compiled module.
    from glm_crush.kernels.native import Executor

    return Executor(
        loaded.compiled.program,
        loaded.packed,
        num_threads=crush.threads or physical_cores(),
        num_blocks=_num_blocks(batch_tokens, batch_texts),
        max_tokens=batch_tokens,
        kv_dtype=_kv_dtype(loaded),
        kernels=crush.force_kernels,
    )
