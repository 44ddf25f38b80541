"""Write the generated parts of the documentation: what a command prints goes between its markers.

A page holds

    <!-- generated: glm run --help -->
    <!-- end -->

and this program puts the command's output between the two lines, as a code block. It also writes the schema of GraphQL
into a file of its own. `--check` writes nothing; its exit status is 1 when a page is out of date (a test runs it).
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from glm_crush.serving.graphql.schema import schema_text

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = ROOT / "docs/apis/schema.graphql"
BLOCK = re.compile(r"(<!-- generated: (?P<command>[^\n]+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def printed_by(command: str) -> str:
    """What a command of ours prints, 100 columns wide and without colours."""
    program, *rest = shlex.split(command)
    environment = os.environ | {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb", "GLM_HOME": "/nonexistent"}
    path = Path(sys.executable).parent / program
    done = subprocess.run([path, *rest], capture_output=True, text=True, env=environment, check=True, cwd=ROOT)
    return "\n".join(line.rstrip() for line in done.stdout.strip("\n").splitlines())


def current(page: str) -> str:
    """The text of a page with every generated part made anew."""
    return BLOCK.sub(lambda m: f"{m[1]}```text\n{printed_by(m['command'])}\n```\n{m[3]}", page)


def main() -> int:
    """Rewrite or check every page."""
    check = sys.argv[1:] == ["--check"]
    stale = 0
    pages = {path: current(path.read_text()) for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))}
    for path, new in {**pages, SCHEMA: schema_text()}.items():
        if not path.exists() or new != path.read_text():
            stale += 1
            print(f"{path.relative_to(ROOT)}: {'out of date, run `make docs`' if check else 'written'}")
            if not check:
                path.write_text(new)
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
