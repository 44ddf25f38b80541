"""The Model Context Protocol's own suite in server mode, for one revision of the specification.

It plays scenarios against the reference server, whose tools, resources and prompts have names of their own. What needs
those, or a capability that our server does not declare, does not apply here; `_ELSEWHERE` says which and why. A check
outside that table fails.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from conformance.environments import NodeEnvironment
from conformance.outcomes import Check

__all__ = ["PACKAGE", "run_mcp_suite"]

PACKAGE = "@modelcontextprotocol/conformance"

_TEST_TOOL = "calls a tool that only the suite's reference server has"
_TEST_RESOURCE = "reads a resource that only the suite's reference server has"
# Scenario or check (globs), and why it does not apply where it fails.
_ELSEWHERE = {
    "tools-call-*": _TEST_TOOL,
    "elicitation-*": _TEST_TOOL,
    "json-schema-2020-12": _TEST_TOOL,
    "input-required-result-*": _TEST_TOOL + "; ours ask nothing back",
    "resources-read-*": _TEST_RESOURCE,
    "resources-templates-read": _TEST_RESOURCE,
    "completion-complete": "completes an argument of a prompt that only the suite's reference server has",
    "prompts-*": "our server declares no prompts",
    "sep-2549-prompts-list-caching-hints": "our server declares no prompts",
    "logging-set-level": "our server declares no logging: what it logs is the operator's",
    "resources-*subscribe": "our server declares no subscriptions: its resources change with its start only",
    "sep-2575-server-rejects-undeclared-capability": _TEST_TOOL,
    "sep-2575-missing-capability-http-400": _TEST_TOOL,
    "sep-2243-server-*": "no tool of ours asks for headers of its own (x-mcp-header)",
    "tasks-*": "an extension that our server does not declare",
}
_ALWAYS = {"sep-2243-server-accepts-whitespace-header-value"}  # ours, though its name is like those above


def run_mcp_suite(node: NodeEnvironment, url: str, revision: str) -> list[Check]:
    """Every scenario that `revision` requires."""
    with tempfile.TemporaryDirectory(prefix="glm-conformance-mcp-") as name:
        script = node.folder / "node_modules" / PACKAGE / "dist" / "index.js"
        command = [node.node, script, "server", "--url", f"{url}/mcp", "--requirements", revision, "--output-dir", name]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        folders = sorted(Path(name).glob("server-*/checks.json"))
        if not folders:
            raise SystemExit(f"{PACKAGE} wrote no results:\n{done.stdout[-1000:]}{done.stderr[-1000:]}")
        return [check for path in folders for check in _checks(_scenario(path), json.loads(path.read_text()))]


def _scenario(path: Path) -> str:
    return re.sub(r"-\d{4}-\d\d-\d\dT.*", "", path.parent.name).removeprefix("server-")


def _checks(scenario: str, rows: list[dict[str, Any]]) -> list[Check]:
    """What failed, what passed beside it, and what does not apply."""
    failed = [row for row in rows if row["status"] == "FAILURE"]
    passed = sum(row["status"] == "SUCCESS" for row in rows)
    reasons = {row["id"]: _why_not_here(scenario, row) for row in failed}
    wrong = [f"{row['id']}: {row.get('errorMessage', '')[:200]}" for row in failed if reasons[row["id"]] is None]
    if wrong:
        return [Check(f"`{scenario}`", "failed", "; ".join(wrong))]
    # The suite counts the opening of a session as a check: one passed says nothing of a scenario that failed.
    checks = [Check(f"`{scenario}`: {passed} checks", "passed")] if passed > 1 or (passed and not failed) else []
    if failed:
        names = f" ({', '.join(reasons)})" if checks else ""
        checks.append(Check(f"`{scenario}`{names}", "not applicable", str(next(iter(reasons.values())))))
    return checks or [Check(f"`{scenario}`", "not applicable", "the suite found nothing of it to look at")]


def _why_not_here(scenario: str, row: dict[str, Any]) -> str | None:
    check = row["id"]
    if check in _ALWAYS:
        return None
    if str(row.get("errorMessage", "")).startswith("Not testable: server does not list"):
        return _TEST_TOOL
    return next((why for name, why in _ELSEWHERE.items() if fnmatch(check, name) or fnmatch(scenario, name)), None)
