"""Fail when a source file is longer than the ceiling of the house rules (400 lines: one file, one idea)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CEILING = 400
SUFFIXES = {".py", ".pyi", ".cpp", ".h", ".hpp", ".js", ".ts", ".css"}


def too_long(root: Path) -> list[tuple[Path, int]]:
    """The tracked source files of `root` with more than `CEILING` lines, longest first."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, check=True, capture_output=True, text=True).stdout
    paths = [root / name for name in listed.split("\0") if Path(name).suffix in SUFFIXES]
    counts = [(path, len(path.read_bytes().splitlines())) for path in paths if path.is_file()]
    return sorted((row for row in counts if row[1] > CEILING), key=lambda row: -row[1])


def main() -> int:
    """Print each file that is too long; the exit status is 1 if there is one."""
    found = too_long(Path(__file__).resolve().parent.parent)
    for path, count in found:
        print(f"{path}: {count} lines, at most {CEILING}; extract a collaborator that owns its state")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
