"""Reading GGUF headers, good and bad."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glm_crush.errors import CheckpointError, UnsupportedModelError
from glm_crush.weights.checkpoint import open_checkpoint
from glm_crush.weights.gguf_reader import GgufFile, read_gguf
from tests.weights.gguf_files import header, tensor_info, text, tiny_gguf, value

pytestmark = pytest.mark.requirement("M2")

F32 = 0


def read(folder: Path, content: bytes) -> GgufFile:
    path = folder / "model.gguf"
    path.write_bytes(content)
    return read_gguf(path)


def with_data(head: bytes, nbytes: int) -> bytes:
    """A header, the padding to the next multiple of 32, and that many bytes of data."""
    return head.ljust(-(-len(head) // 32) * 32, b"\0") + bytes(nbytes)


def test_metadata_and_tensors_are_what_the_library_reads(tmp_path: Path) -> None:
    keys = {"tokenizer.ggml.tokens": ["a", "é", "<|x|>"], "tokenizer.ggml.scores": [0.5, -1.0], "general.flag": True}
    path = tiny_gguf("llama", tmp_path, extra=keys)
    ours, theirs = read_gguf(path), GGUFReader(path)
    for name, field in theirs.fields.items():
        if not name.startswith("GGUF."):
            assert ours.metadata[name] == field.contents(), name
    assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        raw = ours.tensors[tensor.name]
        assert raw.shape == tuple(int(n) for n in reversed(tensor.shape))
        np.testing.assert_array_equal(raw.data.reshape(-1), tensor.data.reshape(-1).view(np.uint8))


@pytest.mark.parametrize(
    ("kind", "code", "number"),
    [
        (0, "B", 200),
        (1, "b", -3),
        (2, "H", 65535),
        (3, "h", -300),
        (4, "I", 2**32 - 1),
        (5, "i", -7),
        (6, "f", 0.5),
        (7, "?", True),
        (10, "Q", 2**64 - 1),
        (11, "q", -(2**63)),
        (12, "d", 0.1),
    ],
)
def test_every_scalar_type_is_a_plain_python_value(tmp_path: Path, kind: int, code: str, number: object) -> None:
    one = text("one") + value(kind, code, number)
    many = text("many") + value(9, "IQ" + 2 * code, kind, 2, number, number)
    metadata = read(tmp_path, header((one, many))).metadata
    assert metadata == {"one": number, "many": [number, number]}
    assert type(metadata["one"]) is type(number)


def test_the_alignment_of_the_file_is_used(tmp_path: Path) -> None:
    head = header((text("general.alignment") + value(4, "I", 128),), (tensor_info("x", (2,), F32, 128),))
    content = head.ljust(-(-len(head) // 128) * 128, b"\0") + bytes(128) + np.array([1, 2], np.float32).tobytes()
    np.testing.assert_array_equal(read(tmp_path, content).tensors["x"].data.view(np.float32), [[1, 2]])


HUGE = 2**64 - 1
BAD_FILES = {
    "empty": (b"", "cannot be read"),
    "foreign": (b"GGML" + bytes(40), "not a GGUF file: it starts with b'GGML'"),
    "cut after the magic": (b"GGUF", "the version needs 4 bytes"),
    "tensor count": (header(num_tensors=HUGE), f"tensor count is {HUGE}, more than"),
    "key count": (header(num_keys=HUGE), f"key count is {HUGE}, more than"),
    "cut within a key": (header((text("k" * 9),)), "type of key .* needs 4 bytes at offset 41, 0 are left"),
    "length of a key": (header((struct.pack("<Q", HUGE) + bytes(40),)), f"length of a key is {HUGE}, more than"),
    "long key": (header((text("k" * 5000) + bytes(40),)), "a key has 5000 bytes, at most 4096"),
    "key not UTF-8": (header((text(b"\xff\xfe") + bytes(40),)), "a key is not UTF-8"),
    "unknown value type": (header((text("k") + value(99, ""),)) + bytes(40), "key 'k' has unknown type 99"),
    "length of a string": (header((text("k") + value(8, "Q", HUGE),)), f"length of key 'k' is {HUGE}"),
    "count of an array": (header((text("k") + value(9, "IQ", 0, HUGE),)), f"count of key 'k' is {HUGE}, more than"),
    "count of strings": (header((text("k") + value(9, "IQ", 8, 2**60),)), "count of key 'k' is 1152921504606846976"),
    "array of arrays": (header((text("k") + value(9, "IQ", 9, 1),)) + bytes(40), "'k' is an array of unknown type 9"),
    "a key twice": (header((text("k") + value(0, "B", 1),) * 2), "key 'k' appears twice"),
    "alignment": (header((text("general.alignment") + value(4, "I", 24),)), "general.alignment is 24; a power of two"),
    "alignment zero": (header((text("general.alignment") + value(4, "I", 0),)), "general.alignment is 0"),
    "alignment text": (header((text("general.alignment") + value(8, "") + text("32"),)), "general.alignment is '32'"),
    "dimensions": (
        header((), (text("x") + struct.pack("<I", 2**31) + bytes(80),)),
        "'x' has 2147483648 dimensions; at most 4",
    ),
    "dimension zero": (with_data(header((), (tensor_info("x", (4, 0), F32, 0),)), 64), r"'x' has shape \(0, 4\)"),
    "dimensions whose product overflows": (
        with_data(header((), (tensor_info("x", (2**33, 2**33), F32, 0),)), 64),
        "'x' ends at byte .*; the file is truncated: fetch it again",
    ),
    "offset": (with_data(header((), (tensor_info("x", (4,), F32, 2**63),)), 64), "'x' ends at byte"),
    "offset not aligned": (with_data(header((), (tensor_info("x", (4,), F32, 4),)), 64), "offset 4, no multiple of 32"),
    "row no multiple of a block": (
        with_data(header((), (tensor_info("x", (40,), 2, 0),)), 64),
        r"'x' has shape \(40,\); Q4_0 rows hold a multiple of 32",
    ),
    "a tensor twice": (with_data(header((), (tensor_info("x", (4,), F32, 0),) * 2), 64), "'x' appears twice"),
    "overlap": (
        with_data(header((), (tensor_info("x", (16,), F32, 0), tensor_info("y", (4,), F32, 32))), 96),
        "'x' and 'y' overlap",
    ),
    "no data": (header((), (tensor_info("x", (4,), F32, 0),)), "'x' ends at byte"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_malformed_file_is_named_with_its_fault(tmp_path: Path, case: str) -> None:
    content, message = BAD_FILES[case]
    with pytest.raises(CheckpointError, match=message) as caught:
        read(tmp_path, content)
    assert "model.gguf" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header(version=1), "GGUF version 1; 2 and 3 are supported"),
        (header(version=3 << 24), "a big-endian file"),
        (header((), (tensor_info("x", (32,), 4, 0),)), "'x' has unknown ggml type 4"),
    ],
)
def test_what_we_do_not_read_is_unsupported(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        read(tmp_path, content)


@pytest.mark.parametrize("case", [case for case in BAD_FILES if "count" in case or "length" in case or "dim" in case])
def test_huge_counts_allocate_nothing(tmp_path: Path, case: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(BAD_FILES[case][0])
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError):
            read_gguf(path)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(st.data())
def test_damage_gives_our_errors_only(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "llama.gguf"
    if not path.exists():
        tiny_gguf(
            "llama",
            tmp_path,
            dtype="Q4_0",
            num_hidden_layers=1,
            hidden_size=32,
            intermediate_size=32,
            head_dim=32,
            vocab_size=32,
            extra={"tokenizer.ggml.tokens": ["a", "b"]},
        )
        (tmp_path / "whole").write_bytes(path.read_bytes())
    content = bytearray((tmp_path / "whole").read_bytes())
    for _ in range(data.draw(st.integers(1, 4), "flips")):
        content[data.draw(st.integers(0, 2000), "at")] = data.draw(st.integers(0, 255), "byte")
    if data.draw(st.booleans(), "cut"):
        content = content[: data.draw(st.integers(0, len(content)), "keep")]
    path.write_bytes(content)
    with contextlib.suppress(CheckpointError, UnsupportedModelError):
        checkpoint = open_checkpoint(path)
        for name in checkpoint.names():
            tensor = checkpoint.tensor(name)
            tensor.float32()
            tensor.blocks()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.binary(max_size=300), st.integers(0, 3), st.integers(0, 3))
def test_random_bytes_give_our_errors_only(tmp_path: Path, tail: bytes, num_tensors: int, num_keys: int) -> None:
    with contextlib.suppress(CheckpointError, UnsupportedModelError):
        read(tmp_path, header(num_tensors=num_tensors, num_keys=num_keys) + tail)
