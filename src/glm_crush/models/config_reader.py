"""Strict reading of config.json: every key is used, listed as ignorable, or fails the load.

A key that nobody read is a feature of the checkpoint that nobody runs, so the text would come out
wrong without any sign. Below: errors. Above: the family files and `rotary.py`. This module knows
no family.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping

from glm_crush.errors import CheckpointError, UnsupportedModelError

__all__ = ["IGNORABLE_KEYS", "ConfigReader", "nearest"]

_MAX_INTEGER = 2**31 - 1

_GENERATION = "generation default of older transformers; ours come from generation_config.json"
_TOKENIZER = "tokenizer setting"
_ORIGIN = "where the file came from"

# Keys that every family may carry and that do not change the forward pass, with the reason. The base class of all
# transformers configurations writes most of them into any file.
IGNORABLE_KEYS: Mapping[str, str] = {
    "_attn_implementation": "which transformers kernel to use",
    "_attn_implementation_autoset": "which transformers kernel to use",
    "_name_or_path": "where the author kept the model",
    "add_cross_attention": "encoder-decoder setting of the transformers base class",
    "architectures": "read by the registry",
    "attention_dropout": "training only",
    "auto_map": "remote code for transformers; our own code runs instead",
    "bos_token_id": _TOKENIZER,
    "cache_implementation": "which transformers cache to use",
    "chunk_size_feed_forward": "transformers memory setting",
    "cross_attention_hidden_size": "encoder-decoder setting of the transformers base class",
    "decoder_start_token_id": "encoder-decoder setting of the transformers base class",
    "dtype": "each tensor carries its own type",
    "eos_token_id": "read by the compiler, with generation_config.json",
    "finetuning_task": "a note of the author",
    "hidden_dropout": "training only",
    "id2label": "classifier labels of the transformers base class",
    "initializer_range": "training only",
    "is_decoder": "encoder-decoder setting of the transformers base class",
    "is_encoder_decoder": "encoder-decoder setting of the transformers base class",
    "is_llama_config": "a note of the author",
    "label2id": "classifier labels of the transformers base class",
    "max_length": "generation default",
    "model_type": "read by the registry",
    "output_attentions": "transformers return value",
    "output_hidden_states": "transformers return value",
    "output_router_logits": "transformers return value",
    "pad_token_id": "training only",
    "prefix": "a note of the author",
    "pretraining_tp": "splits a matmul into equal parts; the sum is the same",
    "problem_type": "classifier setting of the transformers base class",
    "pruned_heads": "transformers base class, unused",
    "quantization_config": "read by the checkpoint reader",
    "compression_config": "read by the checkpoint reader",
    "return_dict": "transformers return value",
    "router_aux_loss_coef": "training only",
    "router_jitter_noise": "training only",
    "sep_token_id": _TOKENIZER,
    "task_specific_params": "generation default",
    "tf_legacy_loss": "training only",
    "tokenizer_class": _TOKENIZER,
    "torch_dtype": "each tensor carries its own type",
    "torchscript": "transformers export setting",
    "transformers.js_config": "settings of another engine",
    "transformers_version": "which version wrote the file",
    "unsloth_fixed": "a note of the author",
    "unsloth_version": "a note of the author",
    "use_bfloat16": "each tensor carries its own type",
    "use_cache": "generation default",
    "_model_name_or_path": _ORIGIN,
    "name_or_path": _ORIGIN,
    "_commit_hash": _ORIGIN,
    "_from_auto": _ORIGIN,
    "_attn_implementation_internal": "which transformers kernel to use",
    "_experts_implementation": "which transformers kernel to use",
    "base_model_pp_plan": "how transformers splits a model over devices",
    "base_model_tp_plan": "how transformers splits a model over devices",
    "cls_token_id": _TOKENIZER,
    "mask_token_id": _TOKENIZER,
    "unk_token_id": _TOKENIZER,
    "gradient_checkpointing": "training only",
    "loss_type": "training only",
    "num_labels": "classifier setting of the transformers base class",
    "tie_encoder_decoder": "encoder-decoder setting of the transformers base class",
    **dict.fromkeys(
        (
            *("bad_words_ids", "begin_suppress_tokens", "diversity_penalty", "do_sample", "early_stopping"),
            *("encoder_no_repeat_ngram_size", "exponential_decay_length_penalty", "forced_bos_token_id"),
            *("forced_eos_token_id", "length_penalty", "max_new_tokens", "min_length", "no_repeat_ngram_size"),
            *("num_beam_groups", "num_beams", "num_return_sequences", "output_scores", "remove_invalid_values"),
            *("repetition_penalty", "return_dict_in_generate", "suppress_tokens", "temperature", "top_k", "top_p"),
            "typical_p",
        ),
        _GENERATION,
    ),
}


def nearest(word: str, choices: Collection[str]) -> str:
    """The choice most like `word`, as `; did you mean ...?`, or an empty string when none is near."""
    found = difflib.get_close_matches(word, sorted(choices), n=1, cutoff=0.6)
    return f"; did you mean {found[0]!r}?" if found else ""


class ConfigReader:
    """Reads one JSON object and remembers which keys were asked for.

    Raises (all readers): CheckpointError naming the key when it is missing or malformed.
    """

    def __init__(self, values: Mapping[str, object], where: str = "config.json") -> None:
        self.where = where
        self._values = values
        self._known: set[str] = set()

    def has(self, key: str) -> bool:
        """True when `key` is there and not null."""
        return self._values.get(key) is not None

    def integer(self, key: str, default: int | None = None, *, minimum: int = 1, maximum: int = _MAX_INTEGER) -> int:
        """A whole number in `[minimum, maximum]`."""
        value = self._value(key, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.malformed(key, value, "a whole number")
        if not minimum <= value <= maximum:
            raise self.malformed(key, value, f"a whole number in [{minimum}, {maximum}]")
        return value

    def optional_integer(self, key: str, *, minimum: int = 1) -> int | None:
        """A whole number, or None when the key is missing or null."""
        self._known.add(key)
        return self.integer(key, minimum=minimum) if self.has(key) else None

    def nullable_integer(self, key: str, absent: int) -> int | None:
        """A whole number, None when the key is null (switched off), or `absent` when it is not there at all."""
        return self.optional_integer(key) if key in self._values else absent

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise self.malformed(key, value, "a finite number")
        return float(value)

    def positive(self, key: str, default: float | None = None) -> float:
        """A number in `[1e-12, 1e12]`: above zero, and safe in float32 arithmetic."""
        value = self.number(key, default)
        if not 1e-12 <= value <= 1e12:
            raise self.malformed(key, value, "a number in [1e-12, 1e12]")
        return value

    def optional_number(self, key: str) -> float | None:
        """A finite number, or None when the key is missing or null."""
        self._known.add(key)
        return self.number(key) if self.has(key) else None

    def flag(self, key: str, default: bool | None = None) -> bool:
        """True or false."""
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise self.malformed(key, value, "true or false")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """A string."""
        value = self._value(key, default)
        if not isinstance(value, str):
            raise self.malformed(key, value, "a string")
        return value

    def integers(self, key: str) -> tuple[int, ...] | None:
        """A list of whole numbers (a single number counts as a list of one), or None when absent."""
        self._known.add(key)
        value = self._values.get(key)
        if value is None:
            return None
        items = value if isinstance(value, list) else [value]
        if not all(isinstance(item, int) and not isinstance(item, bool) for item in items):
            raise self.malformed(key, value, "whole numbers")
        return tuple(items)

    def texts(self, key: str) -> tuple[str, ...] | None:
        """A list of strings, or None when absent."""
        self._known.add(key)
        value = self._values.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.malformed(key, value, "a list of strings")
        return tuple(value)

    def labels(self, key: str) -> tuple[str, ...] | None:
        """Names of classes from an object of class number → name, in order of the numbers, or None when absent."""
        self._known.add(key)
        value = self._values.get(key)
        if value is None:
            return None
        wanted = "an object of the numbers from 0 on and their names"
        if not isinstance(value, Mapping) or {str(i) for i in range(len(value))} != set(map(str, value)):
            raise self.malformed(key, value, wanted)
        names = {int(number): name for number, name in value.items()}
        return tuple(str(names[number]) for number in range(len(names)))

    def section(self, key: str) -> ConfigReader | None:
        """A nested object as a reader of its own (finish it too), or None when absent."""
        self._known.add(key)
        value = self._values.get(key)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self.malformed(key, value, "an object")
        return ConfigReader(value, f"{self.where}: {key}")

    def expect(self, key: str, default: object, *allowed: object) -> None:
        """Checks that a setting has one of the values that this engine runs.

        Raises:
            UnsupportedModelError: it has another value.
        """
        value = self._value(key, default)
        if not any(value == choice and type(value) is type(choice) for choice in allowed):
            choices = " or ".join(repr(choice) for choice in allowed)
            raise UnsupportedModelError(f"{self.where}: {key} is {value!r}; this engine runs {choices} only")

    def finish(self, ignorable: Mapping[str, str] | None = None) -> None:
        """Checks that no key is left over; `ignorable` maps further keys to the reason why they do not matter.

        A null value counts as an absent key.

        Raises:
            UnsupportedModelError: a key was neither read nor ignorable; names the nearest known one.
        """
        ignored = {*IGNORABLE_KEYS, *(ignorable or {})}
        known = self._known | ignored
        for key in self._values:
            if key not in known and self.has(key):
                raise UnsupportedModelError(
                    f"{self.where}: key {key!r} is unknown to this model family{nearest(key, known)} "
                    "A key that is not read would change the model's output unnoticed."
                )

    def malformed(self, key: str, value: object, wanted: str) -> CheckpointError:
        """The error that says what `key` is and what it must be."""
        return CheckpointError(f"{self.where}: {key} is {value!r}; it must be {wanted}")

    def _value(self, key: str, default: object) -> object:
        self._known.add(key)
        value = self._values.get(key)
        if value is not None:
            return value
        if default is None:
            raise CheckpointError(f"{self.where}: key {key!r} is missing{nearest(key, list(self._values))}")
        return default
