"""`glm guard` shows what a policy does about a text."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from glm_crush.cli.main import app

pytestmark = pytest.mark.requirement("S7")


def test_findings_are_marked_and_counted() -> None:
    done = CliRunner().invoke(app, ["guard", "Write to ana@example.com"])
    assert done.exit_code == 0
    assert done.output.splitlines() == [
        "Write to  pii.email ",
        "redact  pii.email                1",
        "injection score 0.00",
    ]


def test_what_is_blocked_ends_with_status_1() -> None:
    done = CliRunner().invoke(app, ["guard", "-p", "pii=block", "--json", "a@b.org"])
    assert (done.exit_code, json.loads(done.output)["blocked_by"]) == (1, "pii.email")


def test_a_reply_is_looked_at_as_a_reply() -> None:
    done = CliRunner().invoke(app, ["guard", "-d", "output", "-p", "json=block", "--json", "no"])
    assert json.loads(done.output) == {
        "text": None,
        "blocked_by": "json",
        "injection_score": 0.0,
        "findings": [{"rule": "json", "action": "block"}],
    }
