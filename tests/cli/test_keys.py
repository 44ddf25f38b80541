"""`glm keys`: what it makes works, and what it prints can be piped."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from glm_crush.errors import InvalidParameterError, RecordNotFoundError

pytestmark = pytest.mark.requirement("S6")


def create(glm: Any, *arguments: str) -> Any:
    return json.loads(glm("keys", "create", *arguments, "--json").stdout)


def test_the_key_alone_is_on_standard_output(glm: Any) -> None:
    done = glm("keys", "create", "shop")
    assert re.fullmatch(r"glm_\w{8}_\w{43}\n", done.stdout)


def test_rights_and_limits_are_those_that_were_asked_for(glm: Any) -> None:
    made = create(
        glm,
        *("shop", "--name", "web", "--scope", "generate", "--scope", "models", "--model", "glm-*", "--rpm", "60"),
        *("--tpm", "20000", "--concurrency", "4", "--tokens-per-day", "1000000", "--money-per-month", "12.5"),
        *("--expires", "90d"),
    )
    assert (made["scopes"], made["models"], made["status"]) == (["generate", "models"], ["glm-*"], "active")
    assert made["limits"] == {
        "requests_per_minute": 60,
        "tokens_per_minute": 20_000,
        "concurrency": 4,
        "tokens_per_day": 1_000_000,
        "money_per_month": 12.5,
    }
    assert made["expires_at"] - made["created_at"] == pytest.approx(90 * 86_400, abs=2)


def test_keys_of_one_name_belong_to_one_application(glm: Any) -> None:
    first, second, other = create(glm, "shop"), create(glm, "shop"), create(glm, "search")
    assert first["application_id"] == second["application_id"] != other["application_id"]
    listed = json.loads(glm("keys", "list", "--application", "shop", "--json").stdout)
    assert [key["id"] for key in listed] == [first["id"], second["id"]]


def test_the_list_shows_what_a_person_looks_for_and_no_secret(glm: Any) -> None:
    made = create(glm, "shop", "--rpm", "60")
    shown = glm("keys", "list").stdout
    assert made["id"] in shown
    assert "shop" in shown
    assert made["key"] not in shown


def test_where_there_is_no_key_the_list_says_how_to_make_one(glm: Any) -> None:
    listed = glm("keys", "list")
    assert (listed.stdout, "glm keys create" in listed.stderr) == ("", True)


def test_a_key_can_be_named_by_the_first_part_of_its_secret(glm: Any) -> None:
    made = create(glm, "shop")
    prefix = "_".join(made["key"].split("_")[:2])
    assert json.loads(glm("keys", "show", prefix).stdout)["id"] == made["id"]


def test_rotation_prints_a_new_secret_and_ends_the_old_one_in_time(glm: Any) -> None:
    made = create(glm, "shop")
    secret = glm("keys", "rotate", made["id"], "--overlap", "1h").stdout.strip()
    old, new = json.loads(glm("keys", "show", made["id"]).stdout)["secrets"]
    assert secret.startswith(new["prefix"])
    assert old["expires_at"] - new["created_at"] == pytest.approx(3600, abs=2)
    assert new["expires_at"] is None


def test_a_revoked_key_stays_in_the_list_as_revoked(glm: Any) -> None:
    made = create(glm, "shop")
    glm("keys", "revoke", made["id"])
    assert json.loads(glm("keys", "show", made["id"]).stdout)["status"] == "revoked"
    with pytest.raises(InvalidParameterError, match="is revoked"):
        glm("keys", "rotate", made["id"])


def test_what_is_not_there_and_what_makes_no_sense_is_said(glm: Any) -> None:
    with pytest.raises(RecordNotFoundError, match="no key 'key_none'"):
        glm("keys", "show", "key_none")
    with pytest.raises(InvalidParameterError, match="no scope 'nope'"):
        glm("keys", "create", "shop", "--scope", "nope")
    assert "not a time" in glm("keys", "create", "shop", "--expires", "soon", check=False).output
