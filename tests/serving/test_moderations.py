"""Moderations in OpenAI's shape, over a moderator of the test's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx2
import openai
import pytest

from glm_crush.config import ApiSettings
from glm_crush.serving.app import create_app
from glm_crush.serving.moderation import Judgement
from glm_crush.serving.openai.moderations import moderation_routes
from glm_crush.serving.part import ServerPart

pytestmark = pytest.mark.requirement("S1")


class ShoutingModerator:
    """Takes capitals for harassment, and knows a category of its own."""

    name = "shouting"

    async def judge(self, texts: Sequence[str]) -> Sequence[Judgement]:
        return [
            Judgement(
                {"harassment": float(text.isupper()), "shouting": 0.5},
                frozenset({"harassment"} if text.isupper() else ()),
            )
            for text in texts
        ]


class Moderated(ServerPart):
    def routes(self) -> Any:
        return moderation_routes(ShoutingModerator())


@pytest.fixture
def url(loopback_server: Any) -> str:
    address, current = loopback_server
    current.app = create_app([], ApiSettings(), parts=[Moderated()])
    return f"{address}/v1"


def test_texts_are_judged_one_by_one(url: str) -> None:
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        reply = client.moderations.create(input=["HEY YOU", "hello"])
    assert reply.model == "shouting"
    assert [result.flagged for result in reply.results] == [True, False]
    assert (reply.results[0].categories.harassment, reply.results[0].category_scores.harassment) == (True, 1.0)


def test_what_is_not_judged_is_neither_true_nor_false(url: str) -> None:
    [result] = httpx2.post(f"{url}/moderations", json={"input": [{"type": "text", "text": "x"}]}).json()["results"]
    assert (result["categories"]["violence"], result["category_scores"]["violence"]) == (None, None)
    assert (result["categories"]["shouting"], result["category_scores"]["shouting"]) == (False, 0.5)
    assert result["category_applied_input_types"]["harassment"] == ["text"]


@pytest.mark.parametrize(
    ("body", "status", "parameter"),
    [
        ({"input": [{"type": "image_url", "image_url": {"url": "x"}}]}, 400, "input[0]"),
        ({"input": []}, 400, "input"),
        ({"input": ["x"] * 257}, 400, "input"),
        ({}, 400, "input"),
        ({"input": "x", "model": "omni-moderation-latest"}, 404, "model"),
        ({"input": "x", "colour": 1}, 400, "colour"),
    ],
)
def test_what_cannot_be_judged_is_refused(url: str, body: dict[str, Any], status: int, parameter: str) -> None:
    response = httpx2.post(f"{url}/moderations", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (status, parameter), response.text


def test_without_a_moderator_there_is_no_such_route(loopback_server: Any) -> None:
    address, current = loopback_server
    current.app = create_app([], ApiSettings())
    assert httpx2.post(f"{address}/v1/moderations", json={"input": "x"}).status_code == 404
