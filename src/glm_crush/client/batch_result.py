"""The result of one request of a batch.

Above: `batches`. Below: the results that the same request would have had alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from glm_crush.client.chat_reply import ChatReply
from glm_crush.client.completions import Completion
from glm_crush.client.refusals import decoded, refusal
from glm_crush.client.result import Result
from glm_crush.errors import EngineError, GlmError, ProtocolError

__all__ = ["BatchResult", "BatchResultReader"]

Form = TypeVar("Form")


class _Response(Result, frozen=True):
    status_code: int
    body: Mapping[str, Any]
    request_id: str | None = None


class BatchResult(Result, frozen=True):
    """What became of one request.

    Attributes:
        response: status and body, if it was run. error: why it was not.
    """

    custom_id: str
    response: _Response | None = None
    error: Mapping[str, Any] | None = None
    id: str = ""

    @property
    def failure(self) -> GlmError | None:
        """The error that it ended with; None = it succeeded."""
        if self.response is None:
            reason = self.error or {}
            return EngineError(f"{self.custom_id} was not run: {reason.get('message')} ({reason.get('code')})")
        if self.response.status_code == 200:
            return None
        failed = refusal(self.response.status_code, {}, msgspec.json.encode(self.response.body))
        failed.request_id = self.response.request_id
        return failed

    @property
    def body(self) -> Mapping[str, Any]:
        """The answer as JSON values. Raises the failure, if there is one."""
        failure = self.failure
        if failure is not None:
            raise failure
        assert self.response is not None
        return self.response.body

    def as_chat(self) -> ChatReply:
        """The answer of a chat. Raises as `body`, and ProtocolError when it is none."""
        return self._as(ChatReply)

    def as_completion(self) -> Completion:
        """The answer of a completion. Raises as `as_chat`."""
        return self._as(Completion)

    def _as(self, kind: type[Form]) -> Form:
        try:
            return msgspec.convert(self.body, kind)
        except msgspec.ValidationError as error:
            raise ProtocolError(f"the result of {self.custom_id} is no {kind.__name__}: {error}") from error


class BatchResultReader:
    """Reads a file of results; see `StreamReader`. Its end is the end of the file."""

    is_complete = True

    def read(self, text: str) -> list[BatchResult]:
        """The result in one line. Raises ProtocolError."""
        return [decoded(text, BatchResult, "line of a file of results")]

    def whole(self) -> None:
        """Nothing is kept."""
