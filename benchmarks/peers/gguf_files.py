"""A GGUF file written tensor by tensor: metadata of a shape, the vocabulary of another file, quantised matrices."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import gguf
import numpy as np
import numpy.typing as npt

from model_shapes import Config

if TYPE_CHECKING:
    from random_model import Tensor

_F32 = gguf.GGMLQuantizationType.F32
_FILE_TYPES = {
    gguf.GGMLQuantizationType.Q4_0: gguf.LlamaFileType.MOSTLY_Q4_0,
    gguf.GGMLQuantizationType.Q8_0: gguf.LlamaFileType.MOSTLY_Q8_0,
}


class GgufFile:
    """Writes the tensors of `plan` in order; the file gets its name when it is whole."""

    def __init__(
        self,
        path: Path,
        config: Config,
        vocabulary: Path,
        plan: Sequence[Tensor],
        quant: gguf.GGMLQuantizationType,
    ) -> None:
        self.path = path
        self.quant = quant
        self._part = path.with_suffix(".gguf.part")
        architecture = "glm4moe" if config["model_type"] == "glm4_moe" else "llama"
        self._writer = gguf.GGUFWriter(self._part, architecture)
        self._metadata(config, path.stem)
        self._copy_vocabulary(vocabulary)
        for tensor in plan:
            kind = quant if tensor.quantised else _F32
            shape = gguf.quants.quant_shape_to_byte_shape(tensor.shape, kind) if tensor.quantised else tensor.shape
            dtype = np.dtype(np.uint8 if tensor.quantised else np.float32)
            nbytes = int(np.prod(shape)) * dtype.itemsize
            self._writer.add_tensor_info(tensor.gguf_name, shape, dtype, nbytes, raw_dtype=kind)
        self._writer.write_header_to_file()
        self._writer.write_kv_data_to_file()
        self._writer.write_ti_data_to_file()

    def write(self, tensor: Tensor, value: npt.NDArray[np.float32]) -> None:
        """Quantise and append one tensor."""
        if not tensor.quantised:
            self._writer.write_tensor_data(value)
        else:
            self._writer.write_tensor_data(gguf.quants.quantize(value, self.quant))

    def close(self) -> None:
        """Give the whole file its name."""
        self._writer.close()
        os.replace(self._part, self.path)

    def _metadata(self, c: Config, name: str) -> None:
        w = self._writer
        w.add_name(name)
        w.add_file_type(_FILE_TYPES[self.quant])
        w.add_quantization_version(gguf.GGML_QUANT_VERSION)
        w.add_vocab_size(c["vocab_size"])
        w.add_context_length(c["max_position_embeddings"])
        w.add_embedding_length(c["hidden_size"])
        w.add_block_count(c["num_hidden_layers"])
        w.add_feed_forward_length(c["intermediate_size"])
        w.add_head_count(c["num_attention_heads"])
        w.add_head_count_kv(c["num_key_value_heads"])
        w.add_key_length(c["head_dim"])
        w.add_value_length(c["head_dim"])
        w.add_layer_norm_rms_eps(c["rms_norm_eps"])
        w.add_rope_freq_base(c["rope_theta"])
        w.add_rope_dimension_count(int(c["head_dim"] * c.get("partial_rotary_factor", 1.0)))
        if "n_routed_experts" in c:
            w.add_expert_count(c["n_routed_experts"])
            w.add_expert_used_count(c["num_experts_per_tok"])
            w.add_expert_feed_forward_length(c["moe_intermediate_size"])
            w.add_expert_shared_count(c["n_shared_experts"])
            w.add_expert_group_count(c["n_group"])
            w.add_expert_group_used_count(c["topk_group"])
            w.add_leading_dense_block_count(c["first_k_dense_replace"])
            w.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
            w.add_expert_weights_scale(c["routed_scaling_factor"])
            w.add_expert_weights_norm(c["norm_topk_prob"])
            w.add_nextn_predict_layers(c["num_nextn_predict_layers"])

    def _copy_vocabulary(self, source: Path) -> None:
        """Every `tokenizer.` field of another GGUF file, with its type."""
        for key, field in gguf.GGUFReader(source).fields.items():
            if key.startswith("tokenizer."):
                element = field.types[-1] if len(field.types) > 1 else None
                self._writer.add_key_value(key, field.contents(), field.types[0], element)
