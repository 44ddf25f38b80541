"""docs/conformance.md, made of the reports."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from conformance.outcomes import OUTCOMES, Check, SuiteReport

__all__ = ["conformance_page"]

_INTRODUCTION = """\
# Conformance

Which public clients and test suites this server was run against, and what came out. The page is written by
`make conformance`, which installs the clients from lock files, starts real servers (the default model with MiniLM and a
tiny reranker, a tiny random GLM for tools and reasoning, and one that asks for keys) and runs every suite;
[conformance/](../conformance/README.md) has the code. A check is *not applicable* when it asks for something that the
server does not claim to have, or that the suite expects a special test server to have; the reason stands below.
"""


def conformance_page(reports: Sequence[SuiteReport]) -> str:
    """The whole page."""
    lines = [
        _INTRODUCTION,
        f"{datetime.now(UTC):%d %B %Y}, commit {_commit()}, Python {platform.python_version()}.",
        "",
    ]
    lines += ["| suite | version | passed | failed | not applicable | what is checked |", "|---|---|---|---|---|---|"]
    lines += map(_row, reports)
    for report in reports:
        lines += ["", *_section(report)]
    return "\n".join(lines) + "\n"


def _row(report: SuiteReport) -> str:
    counts = " | ".join(str(report.count(outcome)) for outcome in OUTCOMES)
    return f"| [{report.name}](#{_anchor(report.name)}) | {report.version} | {counts} | {report.subject} |"


def _section(report: SuiteReport) -> Iterator[str]:
    yield f"## {report.name}"
    yield ""
    for check in report.checks:
        yield _line(check)


def _line(check: Check) -> str:
    reason = check.reason.replace("\n", " ")
    return {
        "passed": f"- {check.sentence}",
        "failed": f"- **failed**: {check.sentence}: {reason}",
        "not applicable": f"- *not applicable*: {check.sentence}: {reason}",
    }[check.outcome]


def _anchor(name: str) -> str:
    return "".join(letter for letter in name.lower().replace(" ", "-") if letter.isalnum() or letter == "-")


def _commit() -> str:
    root = Path(__file__).parent
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True, check=True
    )
    dirty = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=no"], cwd=root, capture_output=True, text=True
    )
    return commit.stdout.strip() + (" with uncommitted changes" if dirty.stdout.strip() else "")
