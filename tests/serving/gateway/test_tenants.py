"""What applications share, and what they do not."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from glm_crush.types import CacheReport
from tests.serving.gateway.conftest import Serve
from tests.serving.gateway.test_keys_over_http import chat, make_key

pytestmark = pytest.mark.requirement("S6")


@pytest.mark.parametrize("isolates", [False, True])
def test_applications_share_computed_prompts_unless_they_are_kept_apart(
    serve: Serve, scripted_engine: Any, isolates: bool
) -> None:
    engine = scripted_engine()
    url = serve(engine, isolate_tenants=isolates).url
    keys = [make_key(url, "shop"), make_key(url, "shop"), make_key(url, "search")]
    for key in keys:
        chat(url, key["key"])
    expected = [key["application_id"] if isolates else "" for key in keys]
    assert engine.salts == expected
    assert len(set(expected)) == (2 if isolates else 1)


def test_a_file_of_one_application_is_not_there_for_another(serve: Serve) -> None:
    url = serve().url
    shop, other_key, search = (make_key(url, name)["key"] for name in ("shop", "shop", "search"))
    upload = {"file": ("a.jsonl", b"{}\n")}
    made = httpx2.post(f"{url}/v1/files", headers={"x-api-key": shop}, files=upload, data={"purpose": "batch"})
    path = f"{url}/v1/files/{made.json()['id']}"
    statuses = [httpx2.get(path, headers={"x-api-key": key}).status_code for key in (shop, other_key, search)]
    assert statuses == [200, 200, 404]


@pytest.mark.requirement("E6")
@pytest.mark.parametrize(("isolates", "position"), [(False, 12), (True, 14)])
def test_no_key_learns_token_by_token_what_others_have_asked(
    serve: Serve, scripted_engine: Any, isolates: bool, position: int
) -> None:
    """Where applications share prefixes, the place is told in whole blocks; to the operator, exactly."""
    engine = scripted_engine(cached=CacheReport(12, 14, "diverged", 32, 120), explains_cache=True)
    url = serve(engine, isolate_tenants=isolates).url
    shop = chat(url, make_key(url, "shop")["key"]).json()["usage"]["cache"]
    assert (shop["cached_tokens"], shop["position"]) == (12, position)
    assert chat(url, "operator").json()["usage"]["cache"]["position"] == 14
