"""Text to token ids and back."""

from glm_crush.tokenizer.detokenizer import IncrementalDetokenizer
from glm_crush.tokenizer.gguf_tokenizer import tokenizer_json_from_gguf
from glm_crush.tokenizer.tokenizer import Tokenizer

__all__ = ["IncrementalDetokenizer", "Tokenizer", "tokenizer_json_from_gguf"]
