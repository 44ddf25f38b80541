"""Fail when an object file compiled for one instruction set could lend its code to the portable path.

An inline function or template that every folder compiles under the same name is merged by the linker, which keeps
any one of the copies: a copy with AVX-512 instructions would then run on a machine without them. So the objects of
an instruction set's folder may define no weak symbol; their helpers are `static` or in an unnamed namespace.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

FOLDERS = ("avx2", "avx2_vnni", "avx512_vnni")
WEAK = {"W", "V", "w", "v", "u"}
# DW.ref.* and .weak references carry no code; the personality routine's pointer is the same for every folder.
HARMLESS_PREFIXES = ("DW.ref.",)


def weak_definitions(object_file: Path) -> list[str]:
    """The weak symbols that `object_file` defines."""
    listed = subprocess.run(
        ["nm", "--defined-only", "-C", str(object_file)], check=True, capture_output=True, text=True
    ).stdout
    rows = [line.split(maxsplit=2) for line in listed.splitlines()]
    return [row[2] for row in rows if len(row) == 3 and row[1] in WEAK and not row[2].startswith(HARMLESS_PREFIXES)]


def main() -> int:
    """Print each weak symbol of an instruction set's object; the exit status is 1 if there is one."""
    build = Path(__file__).resolve().parent.parent / "build" / "native"
    if shutil.which("nm") is None:
        print("check_isa_symbols: no `nm` on this machine, nothing checked")
        return 0
    bad = 0
    for folder in FOLDERS:
        for object_file in sorted(build.glob(f"CMakeFiles/glm_{folder}.dir/**/*.o")):
            for symbol in weak_definitions(object_file):
                print(f"{object_file.relative_to(build)}: weak symbol {symbol}; make it static")
                bad += 1
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
