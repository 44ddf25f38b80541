"""The fenced blocks of the pages, with what the comment above a block says about it.

    <!-- not run (network): fetches 100 MB -->     the block is not executed, and why
    <!-- excerpt: src/glm_crush/models/qwen3.py -->   the block is part of that file, word for word
    <!-- output -->                                the block is what the Python block before it prints

Every other block marked python, sh or console is executed by `test_examples.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

__all__ = ["LANGUAGES", "PAGES", "REASONS", "ROOT", "Block", "blocks_of"]

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "benchmarks" / "README.md",
    ROOT / "conformance" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
)
LANGUAGES = ("python", "sh", "console")
# Why a block may stay unexecuted; what is in the brackets of a `not run` comment is one of these.
REASONS = {
    "network": "fetches something from another machine",
    "checkout": "builds, tests or measures the checkout itself; CI runs `make check` and `make test`",
    "elsewhere": "needs root, a container engine or a cluster; tests/test_deploy.py checks the files",
    "until stopped": "serves or waits for a person at a terminal; tests/cli runs the verb",
}

_FENCE = re.compile(
    r"(?:^ *<!-- (?P<comment>[^\n]*?) -->\n)?^ *(?P<fence>```+)(?P<language>\w*)\n(?P<text>.*?)^ *(?P=fence)$",
    re.MULTILINE | re.DOTALL,
)
_NOT_RUN = re.compile(r"not run \((?P<kind>[^)]+)\)(?:: (?P<why>.+))?")


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        line: of its first line of text, counted from 1. comment: the HTML comment right above it, or "".
    """

    page: Path
    line: int
    language: str
    comment: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def not_run(self) -> str | None:
        """The kind of reason not to execute it, or None."""
        match = _NOT_RUN.fullmatch(self.comment)
        return match["kind"] if match else None

    @property
    def excerpt_of(self) -> Path | None:
        kind, _, path = self.comment.partition(": ")
        return ROOT / path if kind == "excerpt" else None

    @property
    def is_output(self) -> bool:
        return self.comment == "output"

    @property
    def runs(self) -> bool:
        return self.language in LANGUAGES and self.not_run is None and self.excerpt_of is None


def unindented(match: re.Match[str]) -> str:
    """The text of a fence; one inside a list item is indented, an excerpt keeps the indentation it has in its file."""
    return dedent(match["text"]) if match[0].splitlines()[-1].startswith(" ") else match["text"]


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(page, text[: m.start("text")].count("\n") + 1, m["language"], m["comment"] or "", unindented(m))
        for m in _FENCE.finditer(text)
    ]
