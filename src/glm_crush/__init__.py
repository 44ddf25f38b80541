"""GLM-Crush: the GLM language model family on machines you own."""

from __future__ import annotations

__version__ = "0.1.0"
