"""The packed formats and how many bytes they take; `layout` says which bytes.

Above: whoever plans or checks files. Imports nothing, so that a process that only plans does without NumPy.
"""

from __future__ import annotations

__all__ = [
    "BLOCK_BYTES",
    "BLOCK_COLS",
    "FORMATS",
    "GROUP",
    "LAYOUT_VERSION",
    "PANEL_ROWS",
    "ROW_ALIGN",
    "packed_nbytes",
    "panel_nbytes",
]

LAYOUT_VERSION = 1
FORMATS = ("q4", "q4a", "q8g", "q8", "bf16", "f32")
PANEL_ROWS = 16
ROW_ALIGN = 32
BLOCK_COLS = 64
GROUP = 32
BLOCK_BYTES = {"q4": 576, "q4a": 640, "q8g": 1088, "q8": 1024, "bf16": 2048, "f32": 4096}


def panel_nbytes(weight_format: str, cols: int) -> int:
    """Bytes of one panel of 16 rows."""
    return -(-cols // BLOCK_COLS) * BLOCK_BYTES[weight_format] + (64 if weight_format == "q8" else 0)


def packed_nbytes(weight_format: str, rows: int, cols: int, experts: int = 1) -> int:
    """Bytes of a packed weight `[experts, rows, cols]`, padding included."""
    panels = -(-rows // ROW_ALIGN) * (ROW_ALIGN // PANEL_ROWS)
    return experts * panels * panel_nbytes(weight_format, cols)
