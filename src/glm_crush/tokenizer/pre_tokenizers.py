"""How each byte-level BPE vocabulary cuts text into words before merging: the table behind `tokenizer.ggml.pre`.

A GGUF file names its pre-tokenizer and nothing more; tokenizer.json spells it out. This file is that dictionary, and
holds no logic beyond writing the JSON. Patterns are Oniguruma, as the `tokenizers` library reads them, and are those
of the models' own tokenizer.json files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from tokenizers import Regex, pre_tokenizers

from glm_crush.errors import TokenizerError

__all__ = ["PreTokenizer", "pre_tokenizer"]

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# cl100k_base: digits in runs of one to three
_CL100K = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _TAIL
# the same with single digits
_QWEN2 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _TAIL
_QWEN35 = (
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_WORD = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+%s|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*%s"
_SLASH_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TEKKEN = _WORD % ("", "") + r"|\p{N}" + _SLASH_TAIL
_O200K = _WORD % (f"{_CONTRACTIONS}?", f"{_CONTRACTIONS}?") + r"|\p{N}{1,3}" + _SLASH_TAIL
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# DeepSeek-LLM names its letters one by one: code points in hexadecimal, so that no editor normalises them
_CASED_LETTERS = (
    "41-5A 61-7A B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376 377 37B-37D 37F 386 388-38A 38C 38E-3A1 "
    "3A3-3F5 3F7-481 48A-52F 531-556 10A0-10C5 13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF 1D00-1D2B 1D6B-1D77 1D79-1D9A "
    "1E00-1F15 1F18-1F1D 1F20-1F45 1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D 1F5F-1F7D 1F80-1FB4 1FB6-1FBC 1FBE 1FC2-1FC4 "
    "1FC6-1FCC 1FD0-1FD3 1FD6-1FDB 1FE0-1FEC 1FF2-1FF4 1FF6-1FFC 2102 2107 210A-2113 2115 2119-211D 2124 2126 2128 "
    "212A-212D 212F-2134 2139 213C-213F 2145-2149 214E 2183 2184 2C00-2C7B 2C7E-2CE4 2CEB-2CEE 2CF2 2CF3 A640-A66D "
    "A680-A69B A722-A76F A771-A787 A78B-A78E AB70-ABBF FB00-FB06 FB13-FB17 FF21-FF3A FF41-FF5A 10400-1044F "
    "104B0-104D3 104D8-104FB 10C80-10CB2 10CC0-10CF2 118A0-118DF 1E900-1E943 "
)
_CJK = r"[\x{4E00}-\x{9FA5}\x{0800}-\x{4E00}\x{AC00}-\x{D7FF}]+"
_DEEPSEEK_V3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class PreTokenizer:
    """One way to cut text.

    Attributes:
        splits: patterns applied one after the other, each match becoming a piece of its own.
        gpt2_words: whether GPT-2's own word pattern is applied last (the library's ByteLevel does it).
        ignore_merges: a piece that is in the vocabulary is taken whole, without merging up to it.
        nfc: text is brought to Unicode normal form C first.
    """

    splits: tuple[str, ...] = ()
    gpt2_words: bool = False
    ignore_merges: bool = False
    nfc: bool = False

    def to_json(self) -> dict[str, Any]:
        """The `pre_tokenizer` of tokenizer.json."""
        byte_level = {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": self.gpt2_words,
        }
        steps = [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
            for pattern in self.splits
        ]
        return {"type": "Sequence", "pretokenizers": [*steps, byte_level]}

    def to_library(self) -> pre_tokenizers.PreTokenizer:
        """The same as an object of the library, for training."""
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=self.gpt2_words)
        steps = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in self.splits]
        return pre_tokenizers.Sequence([*steps, byte_level])


def _character_class(ranges: str) -> str:
    bounds = [part.partition("-") for part in ranges.split()]
    return "[" + "".join(rf"\x{{{low}}}" + (rf"-\x{{{high}}}" if high else "") for low, _, high in bounds) + "]"


_DIGITS = PreTokenizer((r"\p{N}",), gpt2_words=True)
_GPT2_ONLY = PreTokenizer(gpt2_words=True)
_LLAMA3 = PreTokenizer((_CL100K,), ignore_merges=True)
_QWEN = PreTokenizer((_QWEN2,), nfc=True)
_SINGLE_DIGIT = PreTokenizer((_QWEN2,))

_TABLE: Final[Mapping[str, PreTokenizer]] = MappingProxyType(
    {
        # what files written before `pre` existed, and those of unknown vocabularies, are read with
        "default": PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")),
        "gpt-2": _GPT2_ONLY,
        "phi-2": _GPT2_ONLY,
        "mpt": PreTokenizer(gpt2_words=True, nfc=True),
        "olmo": PreTokenizer(gpt2_words=True, nfc=True),
        "jais": _GPT2_ONLY,
        "gigachat": _GPT2_ONLY,
        "smollm": _DIGITS,
        "starcoder": _DIGITS,
        "refact": _DIGITS,
        "codeshell": _DIGITS,
        "exaone": _DIGITS,
        "minerva-7b": _DIGITS,
        "command-r": PreTokenizer((r"\p{N}",), gpt2_words=True, nfc=True),
        "llama3": _LLAMA3,
        "llama-v3": _LLAMA3,
        "llama-bpe": _LLAMA3,
        "falcon3": _LLAMA3,
        "pixtral": _LLAMA3,
        "lfm2": _LLAMA3,
        "dbrx": PreTokenizer((_CL100K,)),
        "smaug-bpe": PreTokenizer((_CL100K,)),
        "chatglm-bpe": PreTokenizer((_CL100K,)),
        "glm4": _LLAMA3,
        "glm5": _LLAMA3,
        "qwen2": _QWEN,
        "deepseek-r1-qwen": _SINGLE_DIGIT,
        "megrez": _SINGLE_DIGIT,
        "hunyuan": _SINGLE_DIGIT,
        "grok-2": _SINGLE_DIGIT,
        "solar-open": _SINGLE_DIGIT,
        "stablelm2": _QWEN,
        "qwen35": PreTokenizer((_QWEN35,)),
        "tekken": PreTokenizer((_TEKKEN,), ignore_merges=True),
        "gpt-4o": PreTokenizer((_O200K,)),
        "llama4": PreTokenizer((_O200K,)),
        "minimax-m2": PreTokenizer((_O200K,)),
        "falcon": PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, r"[0-9][0-9][0-9]")),
        "deepseek-llm": PreTokenizer(
            (
                r"[\r\n]",
                r"\s?" + _character_class(_CASED_LETTERS) + "+",
                r"\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+",
                r"\s+$",
                _CJK,
                r"\p{N}",
            )
        ),
        "deepseek-coder": PreTokenizer((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, r"\p{N}")),
        "deepseek-v3": PreTokenizer(
            (r"\p{N}{1,3}", r"[\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+", _DEEPSEEK_V3)
        ),
    }
)


def pre_tokenizer(name: str) -> PreTokenizer:
    """The pre-tokenizer that GGUF calls `name`.

    Raises:
        TokenizerError: we do not know it; guessing would give wrong ids without a word.
    """
    found = _TABLE.get(name)
    if found is None:
        raise TokenizerError(
            f"tokenizer.ggml.pre is {name!r}, which is not known here; known are {', '.join(sorted(_TABLE))}. "
            "Use the model's original tokenizer.json"
        )
    return found
