"""Reading safetensors files, good and bad."""

from __future__ import annotations

import contextlib
import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from glm_crush.errors import CheckpointError, UnsupportedModelError
from glm_crush.weights.safetensors_reader import read_safetensors
from glm_crush.weights.source_tensor import DenseTensor
from tests.weights.safetensors_files import entry, safetensors_bytes

pytestmark = pytest.mark.requirement("M2")

VALUES = np.arange(12, dtype=np.float32).reshape(3, 4) / 8


def read(folder: Path, content: bytes) -> dict[str, np.ndarray]:
    path = folder / "model.safetensors"
    path.write_bytes(content)
    return {name: DenseTensor(name, raw.dtype, raw.data).float32() for name, raw in read_safetensors(path).items()}


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64, np.int32])
def test_files_of_the_library_are_read_in_every_plain_type(tmp_path: Path, dtype) -> None:
    values = (VALUES * 8).astype(dtype)
    tensors = read(tmp_path, save({"a": values, "b": np.array([1.5], np.float32)}))
    np.testing.assert_array_equal(tensors["a"], VALUES * 8)
    np.testing.assert_array_equal(tensors["b"], [1.5])


def test_tensors_are_views_of_the_map(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(save({"a": VALUES}))
    data = read_safetensors(path)["a"].data
    assert not data.flags.owndata
    assert not data.flags.writeable


def test_data_that_is_not_aligned_is_read_all_the_same(tmp_path: Path) -> None:
    header = '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    for padding in range(8):
        content = safetensors_bytes(header + " " * padding, np.array([1, 2], np.float32).tobytes())
        np.testing.assert_array_equal(read(tmp_path, content)["a"], [1, 2])


BAD_HEADERS = {
    "empty file": (b"", "cannot be read"),
    "no header": (b"\x01\x02", "has 2 bytes"),
    "header longer than the file": (safetensors_bytes("{}", header_size=3), "header of 3 bytes, at most 2"),
    "huge header": (safetensors_bytes("{}", header_size=2**64 - 1), "header of 18446744073709551615 bytes"),
    "not JSON": (safetensors_bytes("{"), "not valid JSON"),
    "not UTF-8": (b"\x02" + b"\0" * 7 + b"\xff\xfe", "not valid JSON"),
    "deep nesting": (safetensors_bytes("[" * 100_000), "not valid JSON"),
    "endless number": (safetensors_bytes('{"a":' + "9" * 5000 + "}"), "not valid JSON|not an object"),
    "not an object": (safetensors_bytes("[]"), "is list, not an object"),
    "a name twice": (safetensors_bytes('{"a":1,"a":2}'), "key 'a' appears twice"),
    "entry no object": (safetensors_bytes({"a": 1}), "entry of 'a' is not an object"),
    "negative shape": (safetensors_bytes({"a": entry("F32", [-1], 0, 4)}, bytes(4)), "'a' has shape"),
    "fractional shape": (safetensors_bytes({"a": entry("F32", [1.5], 0, 4)}, bytes(4)), "'a' has shape"),  # type: ignore[list-item]
    "boolean shape": (safetensors_bytes({"a": entry("F32", [True], 0, 4)}, bytes(4)), "'a' has shape"),
    "too many dimensions": (safetensors_bytes({"a": entry("F32", [1] * 70, 0, 4)}, bytes(4)), "'a' has shape"),
    "huge shape": (safetensors_bytes({"a": entry("F32", [2**40, 2**40], 0, 4)}, bytes(4)), "'a' has 4 bytes"),
    "empty but huge": (safetensors_bytes({"a": entry("F32", [0, 2**47, 2**47], 0, 0)}), "'a' cannot have shape"),
    "wrong size": (safetensors_bytes({"a": entry("F32", [2], 0, 4)}, bytes(4)), r"'a' has 4 bytes, F32 \[2\] needs 8"),
    "past the end": (safetensors_bytes({"a": entry("F32", [2], 0, 8)}, bytes(4)), "'a' lies at .* of 4 data bytes"),
    "backwards": (safetensors_bytes({"a": entry("F32", [1], 4, 0)}, bytes(4)), "'a' lies at"),
    "no offsets": (safetensors_bytes({"a": {"dtype": "F32", "shape": [1]}}, bytes(4)), "'a' has data_offsets None"),
    "overlap": (
        safetensors_bytes({"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 4, 12)}, bytes(12)),
        "'a' and 'b' overlap at data offset 4",
    ),
}


@pytest.mark.parametrize("case", BAD_HEADERS)
def test_a_malformed_file_is_named_with_its_fault(tmp_path: Path, case: str) -> None:
    content, message = BAD_HEADERS[case]
    with pytest.raises(CheckpointError, match=message) as caught:
        read(tmp_path, content)
    assert "model.safetensors" in str(caught.value)
    assert len(str(caught.value)) < 600


def test_an_unknown_type_is_unsupported(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="'a' has unknown type 'F4'"):
        read(tmp_path, safetensors_bytes({"a": entry("F4", [2], 0, 1)}, bytes(1)))


def test_huge_counts_allocate_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors_bytes({"a": entry("F64", [2**45, 1024], 0, 2**47)}, bytes(64)))
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError):
            read_safetensors(path)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(st.data())
def test_damage_gives_our_errors_only(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(save({"model.a": VALUES, "model.b": np.zeros(3, np.float16)}))
    for _ in range(data.draw(st.integers(1, 4), "flips")):
        content[data.draw(st.integers(0, len(content) - 1), "at")] = data.draw(st.integers(0, 255), "byte")
    content = content[: data.draw(st.integers(0, len(content)), "keep")]
    with contextlib.suppress(CheckpointError, UnsupportedModelError):
        read(tmp_path, bytes(content))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.binary(max_size=200), st.booleans())
def test_random_bytes_give_our_errors_only(tmp_path: Path, content: bytes, sized: bool) -> None:
    with contextlib.suppress(CheckpointError, UnsupportedModelError):
        read(tmp_path, len(content).to_bytes(8, "little") + content if sized else content)
