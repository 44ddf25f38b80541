"""Per-key limits as clients meet them: statuses, headers, and what is given back."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from glm_crush.config import CrushSettings, Settings
from glm_crush.serving.local_encoder import serve_loaded_encoder
from glm_crush.serving.served_encoder import ServedEncoders
from tests.engine.tiny_encoders import loaded_encoder
from tests.serving.gateway.conftest import ADMIN, Serve
from tests.serving.gateway.test_keys_over_http import CHAT, CHAT_PATH, chat, make_key

pytestmark = pytest.mark.requirement("S6")

PROMPT_TOKENS = len("user:Hi|assistant:")  # one byte is one token; the reply "Hello" has five


def test_requests_per_minute_are_counted_down_in_headers_and_then_refused(serve: Serve) -> None:
    url = serve().url
    key = make_key(url, limits={"requests_per_minute": 2})["key"]
    first, second, third = (chat(url, key) for _ in range(3))
    assert [reply.headers["x-ratelimit-remaining-requests"] for reply in (first, second, third)] == ["1", "0", "0"]
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert re.fullmatch(r"29\.\d*s|30s", first.headers["x-ratelimit-reset-requests"])
    assert (third.status_code, third.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert 1 <= int(third.headers["retry-after"]) <= 30
    assert int(third.headers["retry-after-ms"]) <= 30_000


def test_tokens_are_reserved_by_the_most_a_request_can_use_and_given_back(serve: Serve) -> None:
    url = serve().url
    key = make_key(url, limits={"tokens_per_minute": 1000})["key"]
    reply = chat(url, key, max_tokens=900)
    assert reply.headers["x-ratelimit-remaining-tokens"] == str(1000 - PROMPT_TOKENS - 900)
    # 900 were reserved and 5 used: the next one finds nearly everything there again.
    assert int(chat(url, key, max_tokens=900).headers["x-ratelimit-remaining-tokens"]) >= 1000 - 2 * 923 + 895


def test_a_request_that_can_never_fit_says_so_and_is_not_tried_again(serve: Serve) -> None:
    url = serve().url
    key = make_key(url, limits={"tokens_per_minute": 100})["key"]
    reply = chat(url, key, max_tokens=500)
    assert (reply.status_code, reply.headers["x-should-retry"]) == (429, "false")
    assert "518" in reply.json()["error"]["message"]
    assert "retry-after" not in reply.headers


def test_of_a_request_without_max_tokens_a_part_is_reserved_and_the_rest_charged_later(
    serve: Serve, scripted_engine: Any
) -> None:
    url = serve(scripted_engine(script=lambda _: "x" * 300), unlimited_reply_tokens=10).url
    key = make_key(url, limits={"tokens_per_minute": 200})["key"]
    without = {name: value for name, value in CHAT.items() if name != "max_tokens"}
    headers = {"authorization": f"Bearer {key}"}
    first = httpx2.post(f"{url}{CHAT_PATH}", headers=headers, json=without)
    assert first.headers["x-ratelimit-remaining-tokens"] == str(200 - PROMPT_TOKENS - 10)
    second = httpx2.post(f"{url}{CHAT_PATH}", headers=headers, json=without)
    assert second.status_code == 429


def test_every_reply_of_a_request_counts(serve: Serve) -> None:
    url = serve().url
    key = make_key(url, limits={"tokens_per_minute": 1000})["key"]
    reply = chat(url, key, n=3, max_tokens=100)
    assert reply.headers["x-ratelimit-remaining-tokens"] == str(1000 - PROMPT_TOKENS - 300)


def test_beams_are_charged_whether_they_win_or_lose(serve: Serve) -> None:
    url = serve().url
    made = make_key(url, limits={"tokens_per_minute": 1000})
    reply = chat(url, made["key"], max_tokens=100, use_beam_search=True, beam_width=4)
    assert reply.headers["x-ratelimit-remaining-tokens"] == str(1000 - PROMPT_TOKENS - 400)
    rows = httpx2.get(f"{url}/admin/v1/usage", headers=ADMIN, params={"key_id": made["id"]}).json()["data"]
    assert rows[0]["completion_tokens"] == 4 * reply.json()["usage"]["completion_tokens"] == 20


def test_concurrency_counts_streams_until_they_end(serve: Serve, scripted_engine: Any) -> None:
    engine = scripted_engine(hold_after=2)
    url = serve(engine).url
    key = make_key(url, limits={"concurrency": 1})["key"]
    headers = {"authorization": f"Bearer {key}"}
    with httpx2.stream("POST", f"{url}{CHAT_PATH}", headers=headers, json={**CHAT, "stream": True}):
        assert engine.holding.wait(10)
        refused = chat(url, key)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert engine.closed.wait(10)
    engine.hold_after = None
    statuses = {chat(url, key).status_code for _ in range(50)}
    assert 200 in statuses


def test_a_spent_budget_is_a_quota_error_that_clients_do_not_try_again(serve: Serve) -> None:
    url = serve().url
    key = make_key(url, limits={"tokens_per_day": 30})["key"]
    assert chat(url, key).status_code == 200
    reply = chat(url, key)
    assert (reply.status_code, reply.json()["error"]["code"]) == (429, "insufficient_quota")
    assert reply.headers["x-should-retry"] == "false"
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=5)
    with client, pytest.raises(openai.RateLimitError, match="30 tokens per day"):
        client.chat.completions.create(model="scripted", messages=[{"role": "user", "content": "Hi"}])


def test_a_budget_of_money_follows_the_prices(serve: Serve) -> None:
    url = serve(price_per_1k_prompt_tokens=10.0, price_per_1k_completion_tokens=20.0).url
    made = make_key(url, limits={"money_per_month": 0.5})
    assert chat(url, made["key"]).status_code == 200
    usage = httpx2.get(f"{url}/admin/v1/usage", headers=ADMIN, params={"key_id": made["id"]}).json()["data"]
    assert usage[0]["money"] == pytest.approx((PROMPT_TOKENS * 10 + 5 * 20) / 1000)
    refused = chat(url, made["key"])  # 0.28 are spent, and 0.28 are asked for
    assert refused.json()["error"]["code"] == "insufficient_quota"
    assert "0.5" in refused.json()["error"]["message"]


def test_a_budget_outlives_the_server(serve: Serve) -> None:
    first = serve()
    made = make_key(first.url, limits={"tokens_per_day": 30})
    assert chat(first.url, made["key"]).status_code == 200
    httpx2.get(f"{first.url}/admin/v1/usage", headers=ADMIN)  # written down
    assert chat(serve().url, made["key"]).json()["error"]["code"] == "insufficient_quota"


def test_a_generation_that_the_engine_refuses_costs_nothing(serve: Serve, scripted_engine: Any) -> None:
    url = serve(scripted_engine(context_length=5)).url
    made = make_key(url, limits={"tokens_per_day": 1000})
    assert chat(url, made["key"]).status_code == 400
    assert httpx2.get(f"{url}/admin/v1/usage", headers=ADMIN, params={"key_id": made["id"]}).json()["data"] == []


def test_a_client_that_leaves_pays_for_what_was_done(serve: Serve, scripted_engine: Any) -> None:
    engine = scripted_engine(hold_after=2)
    url = serve(engine).url
    made = make_key(url, limits={"tokens_per_day": 1000})
    headers = {"authorization": f"Bearer {made['key']}"}
    with httpx2.stream("POST", f"{url}{CHAT_PATH}", headers=headers, json={**CHAT, "stream": True}):
        assert engine.holding.wait(10)
    assert engine.closed.wait(10)
    rows: list[Any] = []
    while not rows:
        rows = httpx2.get(f"{url}/admin/v1/usage", headers=ADMIN, params={"key_id": made["id"]}).json()["data"]
    assert (rows[0]["prompt_tokens"], rows[0]["completion_tokens"]) == (PROMPT_TOKENS, 2)


def test_parallel_requests_never_get_more_than_the_limit(serve: Serve) -> None:
    url = serve().url
    key = make_key(url, limits={"requests_per_minute": 7})["key"]
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda _: chat(url, key).status_code, range(40)))
    assert sorted(statuses) == [200] * 7 + [429] * 33


def test_embeddings_and_scores_are_charged_what_they_read(serve: Serve, tmp_path: Path) -> None:
    settings = Settings(crush=CrushSettings(threads=1))
    encoder = serve_loaded_encoder("tiny-embed", loaded_encoder(tmp_path / "embed"), settings)
    try:
        url = serve(encoders=ServedEncoders([encoder])).url
        made = make_key(url, scopes=["embed"], limits={"tokens_per_day": 16})
        headers = {"x-api-key": made["key"]}
        asked = {"input": ["the cat", "rain"]}
        first, second, third = (httpx2.post(f"{url}/v1/embeddings", headers=headers, json=asked) for _ in range(3))
        assert [first.json()["usage"]["total_tokens"], second.status_code] == [7, 200]
        assert (third.status_code, third.json()["error"]["code"]) == (429, "insufficient_quota")
        rows = httpx2.get(f"{url}/admin/v1/usage", headers=ADMIN, params={"key_id": made["id"]}).json()["data"]
        assert [(row["model"], row["prompt_tokens"], row["completion_tokens"]) for row in rows] == [
            ("tiny-embed", 14, 0)
        ]
        other = make_key(url, models=["glm-*"])["key"]
        assert httpx2.post(f"{url}/v1/embeddings", headers={"x-api-key": other}, json=asked).status_code == 403
    finally:
        encoder.close()


def test_anthropics_client_gets_its_own_errors_and_headers(serve: Serve) -> None:
    url = serve().url
    key = make_key(url, limits={"requests_per_minute": 1})["key"]
    message = {"model": "scripted", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]}
    reply = httpx2.post(f"{url}/v1/messages", headers={"x-api-key": key}, json=message)
    assert reply.headers["anthropic-ratelimit-requests-limit"] == "1"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", reply.headers["anthropic-ratelimit-requests-reset"])
    with anthropic.Anthropic(base_url=url, api_key=key, max_retries=0) as client:
        with pytest.raises(anthropic.RateLimitError) as limited:
            client.messages.create(model="scripted", max_tokens=5, messages=[{"role": "user", "content": "Hi"}])
        assert limited.value.body["error"]["type"] == "rate_limit_error"  # type: ignore[index]
    stranger = anthropic.Anthropic(base_url=url, api_key="wrong", max_retries=0)
    with stranger, pytest.raises(anthropic.AuthenticationError):
        stranger.messages.create(model="scripted", max_tokens=5, messages=[{"role": "user", "content": "Hi"}])
