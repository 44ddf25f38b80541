"""Schemathesis on the OpenAPI and the GraphQL schema: thousands of requests made from the description.

Each of its checks becomes one of ours: it passes if no request of the run violated it.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from conformance.environments import HERE, PythonEnvironment
from conformance.outcomes import Check

__all__ = ["run_schemathesis"]

SEED = 1
# It would do what it says.
_NOT_ASKED = "/admin/v1/stop"
# "Valid" is what the schema says; these rules it cannot: how fields go together, which models and ids there are, what a
# model's vocabulary holds, and that 624.0 is no whole number here. All are answered with a documented 400.
_BEYOND_SCHEMAS = (
    "rules that a schema cannot state (which fields go together, ids of this model's vocabulary), each a 400"
)
_ENDED_KEYS = "`DELETE` of a key ends it and keeps its record, for the audit log: it is there afterwards, revoked"
# What a failure is called in the report -> the sentence that it contradicts.
_SENTENCES = {
    "ServerError": "no request is answered with a 5xx",
    "UndefinedStatusCode": "every status is documented",
    "UndefinedContentType": "every content type is documented",
    "MalformedMediaType": "content types are well formed",
    "MissingHeaders": "documented headers are sent",
    "JsonSchemaError": "every body follows its schema",
    "MalformedJson": "every JSON body is JSON",
    "AcceptedNegativeData": "what the schema forbids is refused",
    "RejectedPositiveData": "what the schema allows is accepted",
    "MissingHeaderNotRejected": "a required header that is missing is refused",
    "UnsupportedMethodResponse": "a method that is not documented is refused with 405",
    "AllowHeaderMismatch": "`Allow` names the methods that are documented",
    "UseAfterFree": "what was deleted is gone",
    "EnsureResourceAvailability": "what was created is there",
    "IgnoredAuth": "a route that asks for a key refuses requests without",
}


_GRAPHQL_SENTENCES = {
    "AssertionError": "no query is answered with a 5xx, nor with an error whose status is one",
}


def run_schemathesis(
    clients: PythonEnvironment, schema_url: str, key: str, *, max_examples: int, graphql: bool = False
) -> list[Check]:
    """One run over the schema at `schema_url`."""
    with tempfile.TemporaryDirectory(prefix="glm-conformance-st-") as name:
        report = Path(name) / "report.json"
        command = [
            *(clients.python.with_name("st"), "--no-color", "run", schema_url, "--max-examples", max_examples),
            *(() if graphql else ("--exclude-path", _NOT_ASKED)),
            *("--seed", SEED, "--generation-database", "none", "--checks", "only_refusals" if graphql else "all"),
            *(
                "--continue-on-failure",
                "--report",
                "json",
                "--report-json-path",
                report,
                "--header",
                f"Authorization: Bearer {key}",
            ),
        ]
        hooks = {"PYTHONPATH": str(HERE), "SCHEMATHESIS_HOOKS": "graphql_checks"} if graphql else {}
        environment = os.environ | hooks
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=name, env=environment)
        if not report.exists():
            raise SystemExit(f"schemathesis wrote no report:\n{done.stdout[-2000:]}{done.stderr[-1000:]}")
        return _checks(json.loads(report.read_text()), _GRAPHQL_SENTENCES if graphql else _SENTENCES)


def _checks(report: dict[str, Any], sentences: Mapping[str, str]) -> list[Check]:
    count, operations = report["test_cases"]["generated"], report["operations"]["tested"]
    found = {failure["type"]: failure for failure in report["failures"]}
    ran = Check(f"{count} requests over {operations} operations were made", "passed")
    if report["stop_reason"] != "completed" or report["operations"]["errored"]:
        ran = Check(
            ran.sentence, "failed", f"stopped: {report['stop_reason']}, {report['operations']['errored']} errors"
        )
    checks = [ran]
    for kind, sentence in {**sentences, **{kind: kind for kind in found if kind not in sentences}}.items():
        if kind == "UseAfterFree" and kind in found:
            checks.append(Check(sentence, "not applicable", _ENDED_KEYS))
        elif kind == "RejectedPositiveData" and kind in found:
            checks.append(
                Check(sentence, "not applicable", f"{found[kind]['count']} operations have {_BEYOND_SCHEMAS}")
            )
        elif kind in found:
            where = ", ".join(_name(operation) for operation in found[kind]["operations"][:8])
            checks.append(Check(sentence, "failed", f"{found[kind]['count']} times: {where}"))
        else:
            checks.append(Check(sentence, "passed"))
    return checks


def _name(operation: Any) -> str:
    return operation if isinstance(operation, str) else str(operation.get("label", operation))
