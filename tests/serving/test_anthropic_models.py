"""Anthropic's clients read the models in the form that they know; OpenAI's and ours go on reading theirs."""

from __future__ import annotations

from typing import Any

import anthropic
import httpx2
import pytest

pytestmark = pytest.mark.requirement("S2")


def test_models_have_the_types_that_the_client_declares(start_server: Any) -> None:
    with anthropic.Anthropic(base_url=start_server().url, api_key="none", max_retries=0, timeout=60) as api:
        page = api.models.list()
        model = api.models.retrieve("scripted")
    assert (page.first_id, page.last_id, page.has_more) == ("scripted", "scripted", False)
    assert page.data == [model]
    assert (model.id, model.type, model.display_name, model.max_input_tokens) == ("scripted", "model", "scripted", 1000)
    assert model.capabilities is not None
    assert model.capabilities.structured_outputs.supported is False
    assert model.capabilities.image_input.supported is False
    assert model.model_dump_json()  # warns where a value is not of its declared type


def test_without_the_header_of_anthropic_capabilities_are_true_or_false(start_server: Any) -> None:
    [card] = httpx2.get(f"{start_server().url}/v1/models").json()["data"]
    assert card["capabilities"]["structured_outputs"] is False
    assert card["object"] == "model"
