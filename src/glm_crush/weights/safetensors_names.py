"""From the tensors of safetensors files to the model's logical tensors.

A logical tensor may be stored in parts (GPTQ's qweight, qzeros, scales), with a scale beside it (FP8), or fused with
others (the experts of one layer as one array). Here the parts are matched; nothing is read until a tensor is made.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from glm_crush.errors import CheckpointError, UnsupportedModelError
from glm_crush.weights.quantized_tensors import AwqTensor, GptqTensor, PackQuantizedTensor, ScaledTensor
from glm_crush.weights.safetensors_reader import RawTensor
from glm_crush.weights.source_tensor import DenseTensor, SourceTensor

__all__ = ["MAX_EXPERTS", "TensorMaker", "logical_tensors", "mixtral_name"]

TensorMaker = Callable[[], SourceTensor]

MAX_EXPERTS: Final = 4096
_FUSED_EXPERTS: Final = re.compile(r"(.*\.experts)\.(gate_up_proj|down_proj)(?:\.weight)?")
_PART_SUFFIXES: Final = (
    "weight_scale",
    "weight_scale_inv",
    "weight_zero_point",
    "weight_shape",
    "weight_g_idx",
    "input_scale",
    "input_zero_point",
    "output_scale",
    "qzeros",
    "scales",
    "g_idx",
)
_MIXTRAL: Final = {"gate": "w1", "down": "w2", "up": "w3"}


def mixtral_name(name: str) -> str:
    """Mixtral's own spelling of a name that transformers 5 or GGUF gives in the common one."""
    name = name.replace(".mlp.", ".block_sparse_moe.")
    return re.sub(r"\.(gate|down|up)_proj(?=\.[^.]+$)", lambda match: f".{_MIXTRAL[match[1]]}", name)


def logical_tensors(raw: Mapping[str, RawTensor], config: Mapping[str, Any]) -> dict[str, TensorMaker]:
    """Makers of the logical tensors, by Hugging Face name.

    Raises:
        UnsupportedModelError: config.json names a quantisation that is not supported.
        CheckpointError: a fused tensor has an impossible shape, or two tensors have one name.
    """
    quantization = _quantization_config(config)
    makers: dict[str, TensorMaker] = {}
    is_mixtral = config.get("model_type") == "mixtral"
    for stored, maker in _all_makers(raw, quantization):
        name = mixtral_name(stored) if is_mixtral and ".mlp." in stored else stored
        if name in makers:
            raise CheckpointError(f"tensor {name!r} is there twice, under different spellings")
        makers[name] = maker
    return makers


def _all_makers(raw: Mapping[str, RawTensor], quantization: Mapping[str, Any]) -> Iterator[tuple[str, TensorMaker]]:
    for name, tensor in raw.items():
        base, _, suffix = name.rpartition(".")
        fused = _FUSED_EXPERTS.fullmatch(name)
        if suffix in _PART_SUFFIXES and any(f"{base}.{s}" in raw for s in ("weight", "weight_packed", "qweight")):
            continue
        if suffix == "weight_packed":
            yield _maker(f"{base}.weight", _pack_quantized, raw, base, quantization)
        elif suffix == "qweight":
            yield _maker(f"{base}.weight", _gptq_or_awq, raw, base, quantization)
        elif fused is not None and tensor.data.ndim == 3:
            yield from _unfused(fused[1], fused[2], tensor)
        elif tensor.dtype.startswith("F8") or (tensor.dtype == "I8" and f"{base}.weight_scale" in raw):
            yield _maker(name, _scaled, raw, base, quantization)
        else:
            yield _maker(name, _dense, raw, name, quantization)


def _maker(
    name: str,
    make: Callable[[str, Mapping[str, RawTensor], str, Mapping[str, Any]], SourceTensor],
    raw: Mapping[str, RawTensor],
    base: str,
    quantization: Mapping[str, Any],
) -> tuple[str, TensorMaker]:
    return name, lambda: make(name, raw, base, quantization)


def _dense(name: str, raw: Mapping[str, RawTensor], base: str, _: Mapping[str, Any]) -> SourceTensor:
    return DenseTensor(name, raw[base].dtype, raw[base].data)


def _unfused(prefix: str, kind: str, tensor: RawTensor) -> Iterator[tuple[str, TensorMaker]]:
    """Experts saved as one array: gate_up_proj `[E, 2I, H]` (gate first), down_proj `[E, H, I]`."""
    experts, rows, _ = tensor.data.shape
    if experts > MAX_EXPERTS or (kind == "gate_up_proj" and rows % 2):
        raise CheckpointError(
            f"{tensor.name!r} has shape {tensor.data.shape}; at most {MAX_EXPERTS} experts, even rows"
        )
    if tensor.dtype.startswith("F8"):
        raise UnsupportedModelError(f"{tensor.name!r}: fused experts in {tensor.dtype} are not supported")
    halves = {"gate_proj": slice(0, rows // 2), "up_proj": slice(rows // 2, rows)}
    parts = halves if kind == "gate_up_proj" else {"down_proj": slice(0, rows)}
    for expert in range(experts):
        for part, span in parts.items():
            name = f"{prefix}.{expert}.{part}.weight"
            yield name, _slice_maker(name, tensor.dtype, tensor.data, expert, span)


def _slice_maker(name: str, dtype: str, data: npt.NDArray[Any], expert: int, span: slice) -> TensorMaker:
    return lambda: DenseTensor(name, dtype, data[expert, span])


def _scaled(name: str, raw: Mapping[str, RawTensor], base: str, quantization: Mapping[str, Any]) -> SourceTensor:
    weight = raw[f"{base}.weight"] if f"{base}.weight" in raw else raw[name]
    scale = raw.get(f"{base}.weight_scale_inv") or raw.get(f"{base}.weight_scale")
    if scale is None:
        raise CheckpointError(f"{name!r} is {weight.dtype} but has no {base}.weight_scale or weight_scale_inv")
    rows = weight.data.shape[0] if weight.data.ndim else 0
    per_row = scale.data.size == 1 or scale.data.shape in ((rows,), (rows, 1))
    block = None if per_row and not scale.name.endswith("_inv") else _block_size(name, quantization)
    if block is not None and scale.data.ndim < 2 and scale.data.size == 1:
        block = None
    return ScaledTensor(name, weight.dtype, weight.data, _float32(scale), block)


def _block_size(name: str, quantization: Mapping[str, Any]) -> tuple[int, int]:
    size = quantization.get("weight_block_size")
    for group in (quantization.get("config_groups") or {}).values():
        size = size or (group.get("weights") or {}).get("block_structure")
    size = size or [128, 128]
    if not (isinstance(size, list) and len(size) == 2 and all(type(n) is int and n > 0 for n in size)):
        raise CheckpointError(f"{name!r}: weight block size {size!r}; two positive numbers are due")
    return size[0], size[1]


def _pack_quantized(name: str, raw: Mapping[str, RawTensor], base: str, _: Mapping[str, Any]) -> SourceTensor:
    scale = _part(name, raw, f"{base}.weight_scale")
    zero, g_idx = raw.get(f"{base}.weight_zero_point"), raw.get(f"{base}.weight_g_idx")
    return PackQuantizedTensor(
        name,
        _words(name, raw[f"{base}.weight_packed"]),
        _float32(scale),
        _part(name, raw, f"{base}.weight_shape").data,
        None if zero is None else _words(name, zero),
        None if g_idx is None else g_idx.data,
    )


def _gptq_or_awq(name: str, raw: Mapping[str, RawTensor], base: str, quantization: Mapping[str, Any]) -> SourceTensor:
    qweight = _words(name, raw[f"{base}.qweight"])
    qzeros = _words(name, _part(name, raw, f"{base}.qzeros"))
    scales = _float32(_part(name, raw, f"{base}.scales"))
    if quantization.get("quant_method") == "awq":
        return AwqTensor(name, qweight, qzeros, scales)
    g_idx = raw.get(f"{base}.g_idx")
    bits = quantization.get("bits", 4)
    offset = 0 if quantization.get("checkpoint_format") == "gptq_v2" else 1
    return GptqTensor(
        name,
        qweight,
        qzeros,
        scales,
        None if g_idx is None else g_idx.data,
        bits=bits if type(bits) is int else 0,
        zero_offset=offset,
    )


def _part(name: str, raw: Mapping[str, RawTensor], part: str) -> RawTensor:
    if part not in raw:
        raise CheckpointError(f"{name!r} needs {part!r}, which no file has")
    return raw[part]


def _words(name: str, tensor: RawTensor) -> npt.NDArray[Any]:
    if tensor.dtype not in ("I32", "U32"):
        raise UnsupportedModelError(f"{name!r}: {tensor.name!r} is {tensor.dtype}; packed integers must be I32")
    return tensor.data


def _float32(tensor: RawTensor) -> npt.NDArray[np.float32]:
    return DenseTensor(tensor.name, tensor.dtype, tensor.data).float32()


def _quantization_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The quantization_config of config.json, if its method is one we read."""
    quantization = config.get("quantization_config") or config.get("compression_config") or {}
    if not isinstance(quantization, dict):
        raise CheckpointError(f"config.json: quantization_config is {type(quantization).__name__}, not an object")
    method = quantization.get("quant_method")
    formats = {
        None: (None,),
        "fp8": (None,),
        "compressed-tensors": (None, "pack-quantized", "float-quantized", "int-quantized", "naive-quantized", "dense"),
        "gptq": (None, "gptq", "gptq_v2"),
        "awq": (None, "gemm"),
    }
    key = {"gptq": "checkpoint_format", "awq": "version"}.get(str(method), "format")
    if method not in formats:
        raise UnsupportedModelError(
            f"config.json: quant_method {method!r}; supported: fp8, compressed-tensors, gptq, awq"
        )
    value = quantization.get(key)
    if (value.lower() if isinstance(value, str) else value) not in formats[method]:
        raise UnsupportedModelError(f"config.json: {method} with {key} {value!r}; supported: {formats[method][1:]}")
    return quantization
