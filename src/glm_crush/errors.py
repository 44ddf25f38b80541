"""The one exception tree of GLM-Crush.

    GlmError
    ├── ConfigError              an option, file or variable of ours is unknown or malformed
    ├── ModelError               a model cannot be used
    │   ├── ModelNotFoundError       no such name in the store, no such path
    │   ├── CheckpointError          files are missing, truncated or contradict themselves
    │   ├── UnsupportedModelError    the architecture, quantisation or config key is not one we run
    │   ├── PackedFileError          a packed file is stale, truncated or not ours
    │   ├── ModelTooLargeError       it takes more memory than models may have here
    │   └── ModelLoadError           a server could not load it for a request; says why
    ├── DownloadError            a transfer failed or its content does not match its hash
    ├── TokenizerError           a tokenizer is malformed
    ├── TemplateError            a chat template failed, looped or was refused
    ├── RequestError             what the caller asked for is invalid (a 4xx in every protocol)
    │   ├── InvalidParameterError    one parameter is out of range; names it
    │   ├── RecordNotFoundError      nothing is stored under that name or id (404)
    │   ├── ContextLengthError       prompt and reply do not fit the context
    │   └── ContentBlockedError      the guard does not let the model see it
    ├── AccessError              who asks may not
    │   ├── AuthenticationError      no key, or one that is unknown, expired or revoked (401)
    │   ├── AccessDeniedError        the key is not for this route or model (403)
    │   └── RateLimitError           a limit of the key or the address is reached (429)
    │       └── QuotaError               its budget is spent; trying again soon is no use
    ├── OverloadedError          the queue is full; try again later (429/503 with Retry-After)
    ├── StorageError             the database or a stored file cannot be read or written
    │   └── BlobTooLargeError        a content is larger than one file may be
    ├── UnreachableError         no server answers there, or the connection to it broke
    ├── ProtocolError            what answered does not speak our API
    ├── KernelError              an array at the native boundary has the wrong dtype, layout or size
    └── EngineError              the engine stopped; the request was not finished
        └── DeadlineError            it was not finished within the time that the caller gave (504)

A message states the value, the limit and the remedy. Each protocol adapter maps each class to one status.
"""

from __future__ import annotations

__all__ = [
    "AccessDeniedError",
    "AccessError",
    "AuthenticationError",
    "BlobTooLargeError",
    "CheckpointError",
    "ConfigError",
    "ContentBlockedError",
    "ContextLengthError",
    "DeadlineError",
    "DownloadError",
    "EngineError",
    "GlmError",
    "InvalidParameterError",
    "KernelError",
    "ModelError",
    "ModelLoadError",
    "ModelNotFoundError",
    "ModelTooLargeError",
    "OverloadedError",
    "PackedFileError",
    "ProtocolError",
    "QuotaError",
    "RateLimitError",
    "RecordNotFoundError",
    "RequestError",
    "StorageError",
    "TemplateError",
    "TokenizerError",
    "UnreachableError",
    "UnsupportedModelError",
]


class GlmError(Exception):
    """Base of every error that GLM-Crush raises on purpose.

    Attributes:
        request_id: where a server refused, the request's name in its log.
    """

    request_id: str | None = None


class ConfigError(GlmError):
    """An option, configuration file or environment variable is unknown or malformed."""


class ModelError(GlmError):
    """A model cannot be used."""


class ModelNotFoundError(ModelError):
    """No model of that name is in the store and no such path exists."""


class CheckpointError(ModelError):
    """Checkpoint files are missing, truncated or contradict themselves."""


class UnsupportedModelError(ModelError):
    """The architecture, quantisation or a config key is not one this engine runs."""


class PackedFileError(ModelError):
    """A packed file is stale, truncated or was not written by this layout version."""


class ModelTooLargeError(ModelError):
    """It takes more memory than models may have here, whatever else is unloaded."""


class ModelLoadError(ModelError):
    """A model that a request named could not be loaded.

    Attributes:
        retry_after_seconds: when it is tried again.
    """

    def __init__(self, message: str, *, retry_after_seconds: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class DownloadError(GlmError):
    """A transfer failed, or its content does not match the published hash."""


class TokenizerError(GlmError):
    """A tokenizer definition is malformed."""


class TemplateError(GlmError):
    """A chat template failed, ran over its limits or tried something the sandbox refuses."""


class RequestError(GlmError):
    """What the caller asked for is invalid.

    Attributes:
        parameter: name of the offending parameter, or None when the request as a whole is wrong.
    """

    def __init__(self, message: str, *, parameter: str | None = None) -> None:
        super().__init__(message)
        self.parameter = parameter


class InvalidParameterError(RequestError):
    """One parameter is out of its range."""


class RecordNotFoundError(RequestError):
    """Nothing is stored under that name or id."""


class ContextLengthError(RequestError):
    """Prompt and reply together do not fit the model's context."""


class ContentBlockedError(RequestError):
    """The guard of the server does not let the model see what was sent."""


class AccessError(GlmError):
    """Who asks may not, or not now."""


class AuthenticationError(AccessError):
    """No key was sent, or one that is unknown, expired or revoked."""


class AccessDeniedError(AccessError):
    """The key is known, but not for this route or model."""


class RateLimitError(AccessError):
    """A limit of the key or the address is reached.

    Attributes:
        retry_after_seconds: when the same request would be taken; None = never, it is larger than the limit.
    """

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class QuotaError(RateLimitError):
    """A budget is spent until the day or the month ends."""


class OverloadedError(GlmError):
    """The queue is full; the caller may try again.

    Attributes:
        retry_after_seconds: when a retry is worth it.
    """

    def __init__(self, message: str, *, retry_after_seconds: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class StorageError(GlmError):
    """The database or a stored file cannot be read or written."""


class BlobTooLargeError(StorageError):
    """A content is larger than one stored file may be."""


class UnreachableError(GlmError):
    """No server answers at an address, or the connection to it broke."""


class ProtocolError(GlmError):
    """What answered does not speak our API."""


class KernelError(GlmError):
    """An array at the native boundary has the wrong dtype, layout or size."""


class EngineError(GlmError):
    """The engine stopped before the request was finished."""


class DeadlineError(EngineError):
    """The request was not finished within the time that its caller gave it."""
