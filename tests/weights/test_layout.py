"""The packed layouts, byte by byte and as round trips."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm_crush.weights.layout import (
    QuantBlocks,
    RowQuant,
    float32_to_bfloat16_bits,
    interleave_gated,
    pack_bf16,
    pack_blocks,
    pack_f32,
    pack_rows,
    unpack,
)
from glm_crush.weights.packed_size import FORMATS, packed_nbytes
from glm_crush.weights.plan import gated_rows

pytestmark = pytest.mark.requirement("M3")

SHAPES = st.tuples(st.integers(1, 70), st.integers(1, 200))


def make_blocks(fmt: str, rows: int, cols: int, seed: int = 0) -> QuantBlocks:
    """Random codes, scales and mins that `fmt` holds."""
    rng = np.random.default_rng(seed)
    bits = 8 if fmt == "q8g" else 4
    groups = -(-cols // 32)
    codes = rng.integers(0, 2**bits, (rows, cols)).astype(np.uint8)
    scales = rng.normal(size=(rows, groups)).astype(np.float16)
    mins = rng.normal(size=(rows, groups)).astype(np.float16) if fmt == "q4a" else None
    return QuantBlocks(bits, codes, scales, mins)


def packed_example(fmt: str, rows: int, cols: int) -> tuple[np.ndarray, np.ndarray]:
    """Packed bytes and the float32 weights they stand for."""
    rng = np.random.default_rng(1)
    if fmt in ("q4", "q4a", "q8g"):
        blocks = make_blocks(fmt, rows, cols)
        return pack_blocks(blocks), blocks.float32()
    if fmt == "q8":
        quant = RowQuant(rng.integers(0, 256, (rows, cols)).astype(np.uint8), rng.normal(size=rows).astype(np.float32))
        return pack_rows(quant), quant.float32()
    values = rng.normal(size=(rows, cols)).astype(np.float32)
    if fmt == "f32":
        return pack_f32(values), values
    return pack_bf16(values), values.astype(ml_dtypes.bfloat16).astype(np.float32)


@pytest.mark.parametrize("fmt", FORMATS)
@given(shape=SHAPES)
def test_unpacking_gives_back_what_was_packed(fmt: str, shape: tuple[int, int]) -> None:
    data, weights = packed_example(fmt, *shape)
    assert data.dtype == np.uint8
    assert len(data) == packed_nbytes(fmt, *shape)
    np.testing.assert_array_equal(unpack(data, fmt, *shape), weights)


@pytest.mark.parametrize("fmt", FORMATS)
def test_experts_lie_back_to_back_each_padded_on_its_own(fmt: str) -> None:
    data, weights = packed_example(fmt, 40, 70)
    both = np.concatenate([data, data])
    assert len(both) == packed_nbytes(fmt, 40, 70, experts=2)
    np.testing.assert_array_equal(unpack(both, fmt, 40, 70, experts=2), np.stack([weights, weights]))


@pytest.mark.parametrize("fmt", FORMATS)
def test_slabs_of_32_rows_join_to_the_whole(fmt: str) -> None:
    whole, _ = packed_example(fmt, 64, 100)
    weights = unpack(whole, fmt, 64, 100)
    if fmt in ("q4", "q4a", "q8g"):
        b = make_blocks(fmt, 64, 100)
        halves = [
            pack_blocks(QuantBlocks(b.bits, b.codes[s], b.scales[s], None if b.mins is None else b.mins[s]))
            for s in (slice(0, 32), slice(32, 64))
        ]
        np.testing.assert_array_equal(np.concatenate(halves), whole)
    elif fmt in ("bf16", "f32"):
        pack = pack_bf16 if fmt == "bf16" else pack_f32
        np.testing.assert_array_equal(np.concatenate([pack(weights[:32]), pack(weights[32:])]), whole)


def test_q4_puts_scales_first_and_two_columns_16_apart_in_one_byte() -> None:
    codes = np.full((32, 128), 8, np.uint8)
    scales = np.arange(32 * 4, dtype=np.float16).reshape(32, 4)
    # Row 3 of the second panel, second block: group 1, column 6 of it and the column 16 further on.
    codes[19, 64 + 32 + 6] = 5
    codes[19, 64 + 32 + 16 + 6] = 12
    data = pack_blocks(QuantBlocks(4, codes, scales))
    block = data[2 * 576 + 576 : 2 * 576 + 2 * 576]
    assert block[:64].view(np.float16)[16 + 3] == scales[19, 3]
    line = 4 * 1 + 6 // 4
    assert block[64 + 64 * line + 3 * 4 + 6 % 4] == (12 << 4) | 5
    assert (data.reshape(4, 576)[:, 64:] == 0x88).sum() == 4 * 512 - 1


def test_q4a_puts_mins_between_scales_and_codes() -> None:
    blocks = make_blocks("q4a", 32, 64)
    assert blocks.mins is not None
    data = pack_blocks(blocks)[:640]
    np.testing.assert_array_equal(data[:64].view(np.float16).reshape(2, 16), blocks.scales[:16].T)
    np.testing.assert_array_equal(data[64:128].view(np.float16).reshape(2, 16), blocks.mins[:16].T)
    assert data[128] == (blocks.codes[0, 16] << 4) | blocks.codes[0, 0]


def test_q8g_holds_four_columns_of_a_row_side_by_side() -> None:
    blocks = make_blocks("q8g", 32, 64)
    data = pack_blocks(blocks)[:1088]
    # group 1, columns 8..11 of it, row 5: line 8 + 2
    np.testing.assert_array_equal(data[64 + 64 * 10 + 20 : 64 + 64 * 10 + 24], blocks.codes[5, 40:44])


def test_q8_has_its_row_scales_once_at_the_start_of_a_panel() -> None:
    codes = np.arange(32 * 64, dtype=np.uint32).reshape(32, 64).astype(np.uint8)
    data = pack_rows(RowQuant(codes, np.arange(32, dtype=np.float32)))
    second = data[len(data) // 2 :]
    np.testing.assert_array_equal(second[:64].view(np.float32), np.arange(16, 32, dtype=np.float32))
    np.testing.assert_array_equal(second[64 + 4 : 64 + 8], codes[17, :4])


def test_bf16_holds_column_pairs_and_f32_columns() -> None:
    values = np.arange(32 * 64, dtype=np.float32).reshape(32, 64)
    pairs = pack_bf16(values).view(np.uint16).reshape(2, 32, 16, 2)
    np.testing.assert_array_equal(pairs[1, 3, 2], float32_to_bfloat16_bits(values[18, 6:8]))
    lines = pack_f32(values).view(np.float32).reshape(2, 64, 16)
    assert lines[1, 5, 2] == values[18, 5]


@pytest.mark.parametrize(("fmt", "code"), [("q4", 0x88), ("q8g", 128)])
def test_padding_is_zero_weights(fmt: str, code: int) -> None:
    blocks = QuantBlocks(8 if fmt == "q8g" else 4, np.zeros((1, 1), np.uint8), np.ones((1, 1), np.float16))
    data = pack_blocks(blocks)
    assert data[-1] == code
    np.testing.assert_array_equal(unpack(data, fmt, 32, 64)[1:], 0)
    np.testing.assert_array_equal(unpack(data, fmt, 32, 64)[:, 1:], 0)


def test_gated_rows_alternate_by_panel_and_pad_each_half() -> None:
    gate = np.arange(1, 25)[:, None]
    up = -gate
    rows = interleave_gated(gate, up)[:, 0]
    assert gated_rows(24) == len(rows) == 64
    np.testing.assert_array_equal(rows[:16], np.arange(1, 17))
    np.testing.assert_array_equal(rows[16:32], -np.arange(1, 17))
    np.testing.assert_array_equal(rows[32:48], [*range(17, 25), *[0] * 8])
    np.testing.assert_array_equal(rows[48:], [*range(-17, -25, -1), *[0] * 8])


@given(st.lists(st.floats(width=32), min_size=1))
def test_bfloat16_rounds_as_ml_dtypes_does(values: list[float]) -> None:
    array = np.array(values, np.float32)
    expected = array.astype(ml_dtypes.bfloat16).astype(np.float32)
    bits = float32_to_bfloat16_bits(array)
    np.testing.assert_array_equal((bits.astype(np.uint32) << 16).view(np.float32), expected)
