"""A chat backend that talks to a server with the OpenAI API: ours, or any other."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from glm_crush.cli.backend import ReplyStats, Turn
from glm_crush.errors import EngineError, GlmError, ModelNotFoundError, OverloadedError, RequestError
from glm_crush.types import SamplingParams

if TYPE_CHECKING:
    import httpx2

__all__ = ["ReasoningTags", "RemoteBackend"]

_CONNECT_SECONDS, _SILENCE_SECONDS = 10.0, 600.0
# What OpenAI's own API knows; the rest is sent only if it was changed, since other servers may refuse it.
_ALWAYS = ("temperature", "top_p", "max_tokens")
_NEVER = ("n", "logprobs", "prompt_logprobs", "skip_special_tokens")


class ReasoningTags:
    """Puts reasoning, which servers send in a field of its own, between the tags that models write it in."""

    def __init__(self) -> None:
        self._open = False

    def text(self, delta: Mapping[str, Any]) -> str:
        """The text of one delta."""
        # Some servers send the one name, some the other, some both.
        reasoning = delta.get("reasoning_content") or delta.get("reasoning") or ""
        content = delta.get("content") or ""
        opening = "<think>" if reasoning and not self._open else ""
        self._open = self._open or bool(reasoning)
        closing = "</think>\n" if content and self._open else ""
        self._open = self._open and not closing
        return f"{opening}{reasoning}{closing}{content}"


class RemoteBackend:
    """One model of one server.

    Args:
        url: of the server, with or without `/v1`.
        model: its name there; None = the server's first model.
        key: sent as a bearer token.

    Raises:
        GlmError: the server cannot be reached, or has no such model.
    """

    def __init__(self, url: str, *, model: str | None = None, key: str | None = None) -> None:
        import httpx2

        self._url = url.rstrip("/").removesuffix("/v1")
        headers = {"authorization": f"Bearer {key}"} if key else {}
        timeout = httpx2.Timeout(_SILENCE_SECONDS, connect=_CONNECT_SECONDS)
        self._client = httpx2.Client(base_url=f"{self._url}/v1/", headers=headers, timeout=timeout)
        self.default_params = SamplingParams(max_tokens=None)
        try:
            self.name = self._choose(model)
        except GlmError:
            self.close()
            raise

    def facts(self) -> dict[str, str]:
        """Where the model is."""
        return {"model": self.name, "server": self._url}

    def reply(self, turn: Turn) -> Generator[str, None, ReplyStats]:
        """Stream a reply; see `ChatBackend.reply`."""
        import httpx2

        started = time.perf_counter()
        first: float | None = None
        usage: dict[str, Any] = {}
        tagged = ReasoningTags()
        reason = None
        path = "chat/completions" if turn.raw_prompt is None else "completions"
        try:
            with self._client.stream("POST", path, json=self._body(turn)) as response:
                if response.status_code != 200:
                    response.read()
                    raise _refusal(response)
                note = response.headers.get("x-context", "")
                for event in _events(response):
                    usage = event.get("usage") or usage
                    for choice in event["choices"]:
                        text = choice.get("text") or tagged.text(choice.get("delta") or {})
                        reason = choice.get("finish_reason") or reason
                        if text:
                            first = first or time.perf_counter()
                            yield text
        except httpx2.HTTPError as error:
            raise EngineError(f"{self._url}: the connection failed: {error}") from error
        now = time.perf_counter()
        details = usage.get("prompt_tokens_details") or {}
        reply_details = usage.get("completion_tokens_details") or {}
        accepted = reply_details.get("accepted_prediction_tokens") or 0
        return ReplyStats(
            prompt_tokens=usage.get("prompt_tokens", 0),
            cached_tokens=details.get("cached_tokens") or 0,
            completion_tokens=usage.get("completion_tokens", 0),
            time_to_first_token_seconds=(first or now) - started,
            elapsed_seconds=now - started,
            finish_reason=reason,
            context_note=note,
            drafted_tokens=accepted + (reply_details.get("rejected_prediction_tokens") or 0),
            accepted_tokens=accepted,
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _body(self, turn: Turn) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.name, "stream": True, "stream_options": {"include_usage": True}}
        for spec in fields(turn.params):
            value = getattr(turn.params, spec.name)
            changed = value != getattr(self.default_params, spec.name)
            if spec.name not in _NEVER and (changed or (spec.name in _ALWAYS and value is not None)):
                body[spec.name] = list(value) if isinstance(value, tuple) else value
        if turn.raw_prompt is not None:
            return {"max_tokens": 2**20, **body, "prompt": turn.raw_prompt}
        if turn.thinking is not None:
            body["chat_template_kwargs"] = {"enable_thinking": turn.thinking}
        if turn.context_policy != "refuse":  # other servers do not know it
            body["context_policy"] = turn.context_policy
        return {**body, "messages": list(turn.messages)}

    def _choose(self, model: str | None) -> str:
        listed = [str(entry["id"]) for entry in self._get("models")["data"]]
        if not listed:
            raise ModelNotFoundError(f"{self._url} serves no model")
        if model is not None and model not in listed:
            raise ModelNotFoundError(f"{self._url} does not serve {model!r}; it serves {', '.join(listed)}")
        return model or listed[0]

    def _get(self, path: str) -> Any:
        import httpx2

        try:
            response = self._client.get(path)
        except httpx2.HTTPError as error:
            raise GlmError(f"{self._url} cannot be reached: {error}; is the server running (glm serve)?") from error
        if response.status_code != 200:
            raise _refusal(response)
        return response.json()


def _events(response: httpx2.Response) -> Iterator[dict[str, Any]]:
    """The JSON objects of an event stream.

    Raises:
        EngineError: the server reported an error in the stream.
    """
    for line in response.iter_lines():
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            return
        event = json.loads(data)
        if "error" in event:
            raise EngineError(f"the server stopped in the middle of the reply: {event['error'].get('message')}")
        yield event


def _refusal(response: httpx2.Response) -> GlmError:
    """The error a server answered with, as one of ours."""
    try:
        message = str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = response.text[:200]
    text = f"the server refused ({response.status_code}): {message}"
    if response.status_code in (429, 503):
        return OverloadedError(text)
    if response.status_code == 404:
        return ModelNotFoundError(text)
    if response.status_code == 401:
        return RequestError(f"{text}; give the key with --api-key or GLM_API_KEY")
    return RequestError(text) if response.status_code < 500 else EngineError(text)
