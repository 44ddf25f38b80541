"""What Ollama's clients send: every field is honoured, or refused by name; none is silently dropped."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from glm_crush.serving.json_http import StrictModel

__all__ = [
    "ChatRequest",
    "CopyRequest",
    "CreateRequest",
    "DeleteRequest",
    "EmbedRequest",
    "EmbeddingFields",
    "EmbeddingsRequest",
    "GenerateRequest",
    "GenerationFields",
    "OllamaMessage",
    "Options",
    "PullRequest",
    "ShowRequest",
]

Name = Annotated[str, Field(min_length=1, max_length=500)]
KeepAlive = str | int | float


class Options(StrictModel):
    """Sampling and limits; those of other machinery (GPU, memory) exist so that their neutral values are accepted."""

    num_ctx: Annotated[int, Field(ge=1)] | None = None
    num_predict: Annotated[int, Field(ge=-2, le=2**31 - 1)] | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: Annotated[int, Field(ge=-1)] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    num_keep: int | None = None  # of what a full context keeps: nothing is ever thrown away here
    # neutral values only
    mirostat: int | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    tfs_z: float | None = None
    penalize_newline: bool | None = None
    num_batch: int | None = None
    num_thread: int | None = None
    num_gpu: int | None = None
    main_gpu: int | None = None
    low_vram: bool | None = None
    use_mmap: bool | None = None
    use_mlock: bool | None = None
    numa: bool | None = None
    f16_kv: bool | None = None
    logits_all: bool | None = None
    vocab_only: bool | None = None
    embedding_only: bool | None = None
    draft_num_predict: int | None = None


class CalledFunction(StrictModel):
    """Which function is called, with what."""

    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    index: int | None = None
    description: str | None = None


class CalledTool(StrictModel):
    """A call that the model made."""

    function: CalledFunction
    id: str | None = None
    type: Literal["function"] | None = None


class OllamaMessage(StrictModel):
    """One message."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    images: list[Any] | None = None
    tool_calls: list[CalledTool] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class GenerationFields(StrictModel):
    """What chat and generate share."""

    model: Name
    stream: bool | None = None
    format: Literal["", "json"] | dict[str, Any] | None = None
    options: Options | None = None
    keep_alive: KeepAlive | None = None
    think: bool | str | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    truncate: bool | None = None
    shift: Literal[False] | None = None


class ChatRequest(GenerationFields):
    """POST /api/chat; without messages it only asks for the model."""

    messages: list[OllamaMessage] | None = None
    tools: list[dict[str, Any]] | None = None


class GenerateRequest(GenerationFields):
    """POST /api/generate; without a prompt it only asks for the model."""

    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    context: list[int] | None = None
    raw: bool | None = None
    # neutral values only
    images: list[Any] | None = None
    width: int | None = None
    height: int | None = None
    steps: int | None = None


class EmbeddingFields(StrictModel):
    """What both ways to ask for vectors share; of the options only `num_ctx` means something."""

    model: Name
    options: Options | None = None
    keep_alive: KeepAlive | None = None


class EmbedRequest(EmbeddingFields):
    """POST /api/embed."""

    input: str | list[str]
    truncate: bool | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None


class EmbeddingsRequest(EmbeddingFields):
    """POST /api/embeddings."""

    prompt: str | None = None


class _NamesModel(StrictModel):
    """A request that names a model; old clients call it `name`."""

    model: Name | None = None
    name: Name | None = None


class ShowRequest(_NamesModel):
    """POST /api/show."""

    verbose: bool | None = None
    # what a model says of itself cannot be overridden by whoever asks
    system: Literal[""] | None = None
    template: Literal[""] | None = None
    options: Annotated[dict[str, Any], Field(max_length=0)] | None = None


class DeleteRequest(_NamesModel):
    """DELETE /api/delete."""


class PullRequest(_NamesModel):
    """POST /api/pull."""

    stream: bool | None = None
    insecure: Literal[False] | None = None


class CopyRequest(StrictModel):
    """POST /api/copy."""

    source: Name
    destination: Name


class CreateRequest(_NamesModel):
    """POST /api/create: another name for a model, with defaults of its own."""

    from_: Annotated[Name | None, Field(alias="from")] = None
    system: str | None = None
    template: str | None = None
    parameters: dict[str, Any] | None = None
    messages: list[OllamaMessage] | None = None
    license: str | list[str] | None = None
    stream: bool | None = None
    # neutral values only
    files: Annotated[dict[str, Any], Field(max_length=0)] | None = None
    adapters: Annotated[dict[str, Any], Field(max_length=0)] | None = None
    quantize: Literal[""] | None = None
    modelfile: Literal[""] | None = None
