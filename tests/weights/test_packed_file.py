"""The packed file: whole or not at all, and refused when it is not what it should be."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glm_crush.errors import PackedFileError
from glm_crush.weights.layout import pack_f32
from glm_crush.weights.packed_file import PackedFile, PackedHeader, linear_entry, vector_entry
from glm_crush.weights.packed_writer import write_packed

pytestmark = pytest.mark.requirement("M3")

WEIGHT = np.arange(40 * 70, dtype=np.float32).reshape(40, 70)
NORM = np.arange(6, dtype=np.float32).reshape(2, 3)


def make_header(**overrides: object) -> PackedHeader:
    fields: dict[str, object] = {
        "config": {"model_type": "llama"},
        "source_hash": "a" * 64,
        "weight_format": "f32",
        "tokenizer_json": b'{"model": {}}',
        "generation_config": {"eos_token_id": [2]},
        "tokenizer_config": {"bos_token": "<s>"},
        "chat_template": "{{ messages }}",
        "info": {"source": "somewhere"},
    }
    return PackedHeader(**{**fields, **overrides})  # type: ignore[arg-type]


def make_file(folder: Path, **overrides: object) -> Path:
    path = folder / "model.glm"
    data = pack_f32(WEIGHT)
    chunks = [("weight", data[:4096]), ("weight", data[4096:]), ("norm", NORM)]
    entries = [linear_entry("weight", "f32", 40, 70), vector_entry("norm", NORM.shape)]
    write_packed(path, make_header(**overrides), entries, chunks)
    return path


def test_what_was_written_is_mapped_without_a_copy(tmp_path: Path) -> None:
    packed = PackedFile.open(make_file(tmp_path), source_hash="a" * 64)
    assert packed.names() == ("weight", "norm")
    tensor = packed.tensor("weight")
    assert (tensor.format, tensor.rows, tensor.cols, tensor.experts) == ("f32", 40, 70, 1)
    np.testing.assert_array_equal(tensor.data, pack_f32(WEIGHT))
    assert not tensor.data.flags.owndata
    assert not tensor.data.flags.writeable
    assert tensor.data.ctypes.data % 4096 == 0
    np.testing.assert_array_equal(packed.vector("norm"), NORM)
    assert packed.weight_bytes == tensor.data.nbytes
    packed.verify()


def test_the_header_comes_back_as_it_was(tmp_path: Path) -> None:
    assert PackedFile.open(make_file(tmp_path)).header == make_header()


def test_a_file_without_tokenizer_is_possible(tmp_path: Path) -> None:
    packed = PackedFile.open(make_file(tmp_path, tokenizer_json=b"", chat_template=None))
    assert packed.header.tokenizer_json == b""
    assert packed.header.chat_template is None


def test_a_file_of_another_source_is_stale(tmp_path: Path) -> None:
    with pytest.raises(
        PackedFileError, match="stale: it was packed from source aaaaaaaaaaaa, the checkpoint is now bbb"
    ):
        PackedFile.open(make_file(tmp_path), source_hash="b" * 64)


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (0, b"GGUF", "is not a packed model"),
        (8, struct.pack("<I", 999), "layout version 999, this program reads 1"),
        (16, struct.pack("<Q", 2**63), "header of 9223372036854775808 bytes does not fit"),
        (24, struct.pack("<Q", 5), "truncated or grew"),
        (200, b"\xff", "header does not match its checksum"),
    ],
)
def test_a_damaged_or_foreign_file_is_refused(tmp_path: Path, offset: int, value: bytes, message: str) -> None:
    path = make_file(tmp_path)
    content = bytearray(path.read_bytes())
    content[offset : offset + len(value)] = value
    path.write_bytes(content)
    with pytest.raises(PackedFileError, match=message):
        PackedFile.open(path)


@pytest.mark.parametrize("keep", [0, 1, 127, 128, 500, 4096, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = make_file(tmp_path)
    os.truncate(path, keep if keep >= 0 else path.stat().st_size + keep)
    with pytest.raises(PackedFileError, match=r"truncated|is not a packed model|cannot be opened"):
        PackedFile.open(path)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PackedFileError, match="cannot be opened"):
        PackedFile.open(tmp_path / "none.glm")


def test_verify_finds_a_flipped_weight(tmp_path: Path) -> None:
    path = make_file(tmp_path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    packed = PackedFile.open(path)
    with pytest.raises(PackedFileError, match="weights do not match their checksum"):
        packed.verify()


@pytest.mark.parametrize(
    "lie",
    [
        {"offset": -64},
        {"offset": 1 << 40},
        {"offset": 1},
        {"nbytes": 1 << 62},
        {"rows": 1 << 40},
        {"rows": "many"},
        {"format": "q3"},
        {"experts": -1},
        {"name": None, "shape": None},
    ],
)
def test_an_entry_that_lies_is_refused_even_with_a_valid_checksum(tmp_path: Path, lie: dict[str, object]) -> None:
    """Kernels trust these numbers, so a crafted header must not get through."""
    path = make_file(tmp_path)
    content = path.read_bytes()
    size = struct.unpack_from("<Q", content, 16)[0]
    document = json.loads(content[128 : 128 + size])
    document["tensors"][1].update(lie)
    header = json.dumps(document).encode()
    start, new_start = (-(-(128 + n) // 4096) * 4096 for n in (size, len(header)))
    body = content[start:]
    prelude = bytearray(content[:128])
    struct.pack_into("<QQ", prelude, 16, len(header), new_start + len(body))
    prelude[32:64] = sha256(header).digest()
    path.write_bytes((bytes(prelude) + header).ljust(new_start, b"\0") + body)
    with pytest.raises(PackedFileError, match=r"lies about|lacks or garbles|unknown format"):
        PackedFile.open(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flip=st.integers(0, 5000), bit=st.integers(0, 7))
def test_any_flipped_bit_of_the_header_gives_the_same_error_class(tmp_path: Path, flip: int, bit: int) -> None:
    path = make_file(tmp_path)
    content = bytearray(path.read_bytes())
    content[flip % 128] ^= 1 << bit
    path.write_bytes(content)
    try:
        PackedFile.open(path).verify()
    except PackedFileError:
        return
    assert flip % 128 >= 96 or 12 <= flip % 128 < 16  # reserved bytes


def test_asking_for_the_wrong_kind_or_name_is_an_error(tmp_path: Path) -> None:
    packed = PackedFile.open(make_file(tmp_path))
    with pytest.raises(PackedFileError, match="'norm' is a vector, not a linear weight"):
        packed.tensor("norm")
    with pytest.raises(PackedFileError, match="'weight' is packed as f32, not a vector"):
        packed.vector("weight")
    with pytest.raises(PackedFileError, match="has no tensor 'nothing'"):
        packed.tensor("nothing")


def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = make_file(tmp_path)
    before = path.read_bytes()

    def broken() -> Iterator[tuple[str, np.ndarray]]:
        yield "norm", NORM[:1]
        raise RuntimeError("source vanished")

    with pytest.raises(RuntimeError, match="source vanished"):
        write_packed(path, make_header(), [vector_entry("norm", NORM.shape)], broken())
    assert path.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["glm-home", "model.glm"]


def test_a_full_disk_is_noticed_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(PackedFileError, match=r"needs \d+ MB and 0 MB are free"):
        make_file(tmp_path / "models")
    assert os.listdir(tmp_path / "models") == []


def test_what_a_killed_writer_left_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "model.glm.partial").write_bytes(b"x" * 100_000)
    PackedFile.open(make_file(tmp_path)).verify()
    assert not (tmp_path / "model.glm.partial").exists()


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(PackedFileError, match="cannot be written"):
        make_file(tmp_path / "file")
