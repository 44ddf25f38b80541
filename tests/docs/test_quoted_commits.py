"""A commit that a page quotes is one that a reader of this repository has."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from tests.docs.blocks import ROOT

PAGES = ("docs/benchmarks.md", "docs/LOG.md", "docs/conformance.md")
# Seven digits of a commit as git shortens it: letters among them, or it may be any number.
COMMIT = re.compile(r"(?<![\w.#/-])(?=[0-9]*[a-f])(?=[a-f]*[0-9])[0-9a-f]{7}(?![\w.-])")


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


def test_every_commit_that_a_page_quotes_is_in_the_history() -> None:
    if (
        shutil.which("git") is None
        or not (ROOT / ".git").exists()
        or "true" in git("rev-parse", "--is-shallow-repository")
    ):
        pytest.skip("the history is not here")
    history = {commit[:7] for commit in git("rev-list", "HEAD").split()}
    quoted = {(page, commit) for page in PAGES for commit in COMMIT.findall((ROOT / page).read_text())}
    assert len(quoted) > 10
    assert {(page, commit) for page, commit in quoted if commit not in history} == set()
