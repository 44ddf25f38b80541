"""A server of models as Python methods: `Client`, `AsyncClient`, and the values they return.

Above: users' programs, the command line. Below: the configuration and the errors; of the server it knows nothing but
its public API.
"""

from __future__ import annotations

from glm_crush.client.async_client import AsyncClient
from glm_crush.client.batch_result import BatchResult
from glm_crush.client.batches import Batch, BatchRequest
from glm_crush.client.chat_options import ChatOptions, CompletionOptions
from glm_crush.client.chat_reply import ChatDelta, ChatReply, ToolCall
from glm_crush.client.client import Client
from glm_crush.client.completions import Completion, CompletionDelta
from glm_crush.client.embeddings import Embeddings
from glm_crush.client.files import File
from glm_crush.client.function_tools import call_functions, function_tool
from glm_crush.client.gateway import Application, Key, KeyLimits
from glm_crush.client.log_feed import LogLine
from glm_crush.client.models import LoadedModel, Model
from glm_crush.client.moderations import Moderation
from glm_crush.client.reranking import RankedDocument, Ranking, Scores
from glm_crush.client.response import Response, ResponseEvent
from glm_crush.client.responses import ResponseOptions
from glm_crush.client.result import Usage
from glm_crush.client.stream import AsyncStream, Stream
from glm_crush.client.tokens import Rendered, Tokens

__all__ = [
    "Application",
    "AsyncClient",
    "AsyncStream",
    "Batch",
    "BatchRequest",
    "BatchResult",
    "ChatDelta",
    "ChatOptions",
    "ChatReply",
    "Client",
    "Completion",
    "CompletionDelta",
    "CompletionOptions",
    "Embeddings",
    "File",
    "Key",
    "KeyLimits",
    "LoadedModel",
    "LogLine",
    "Model",
    "Moderation",
    "RankedDocument",
    "Ranking",
    "Rendered",
    "Response",
    "ResponseEvent",
    "ResponseOptions",
    "Scores",
    "Stream",
    "Tokens",
    "ToolCall",
    "Usage",
    "call_functions",
    "function_tool",
]
