"""A model in this process: `LLM("smollm2:135m").chat([...])`.

Above: users' programs and the command line. Below: `engine`, `chat`, the model store. It steps the engine in the
thread of whoever asks; several threads may ask at once and share the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from glm_crush.chat.context_policy import ContextPolicy
from glm_crush.chat.local_context import LocalContext
from glm_crush.chat.prompt_codec import PromptCodec
from glm_crush.chat.reply_format import ReplyFormat
from glm_crush.config import load_settings
from glm_crush.engine.beam_search import EarlyStopping
from glm_crush.engine.best_of import MeanLogprob, ReplyScorer, TextScorer, best_of_params, select_best
from glm_crush.engine.build import MakeExecutor, build_engine
from glm_crush.engine.build_drafter import load_draft_model
from glm_crush.engine.metrics import EngineMetrics
from glm_crush.engine.output import RequestDelta
from glm_crush.engine.sampling_defaults import sampling_defaults
from glm_crush.engine.sync_engine import SyncEngine
from glm_crush.errors import InvalidParameterError
from glm_crush.models.loader import load_model
from glm_crush.types import Message, RequestOutput, SamplingParams

__all__ = ["LLM"]

Prompt = str | Sequence[int]


class LLM:
    """A loaded model. Use it as a context manager, or call `close`, to free its memory at a known moment.

    Attributes:
        loaded: the model's files and description. cache: the KV cache as it was sized.
        default_params: what the model's publisher recommends; used where a call gives no parameters.
        codec: text and messages to token ids and back.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        weight_format: str | None = None,
        threads: int | None = None,
        max_context: int | None = None,
        kv_cache_tokens: int | None = None,
        kv_dtype: str | None = None,
        max_num_seqs: int | None = None,
        max_num_batched_tokens: int | None = None,
        prefix_cache: bool | None = None,
        prefix_store: str | Path | None = None,
        prefix_store_bytes: int | None = None,
        speculation: str | None = None,
        draft_model: str | Path | None = None,
        make_executor: MakeExecutor | None = None,
    ) -> None:
        """Load a model, packing it first if that has not been done.

        What is None is taken from the configuration (file, environment), else its default.

        Args:
            model: a name of the model store or a path; None = the configured default model.
            weight_format: "auto" (as the source), "q4", "q8", "bf16" or "f32".
            threads: compute threads.
            max_context: longest prompt and reply together.
            kv_cache_tokens: tokens that all running requests together may keep.
            kv_dtype: "auto" (int8 beside 4 and 8-bit weights), "bf16", "int8" or "f32".
            max_num_seqs: requests that run at the same time.
            max_num_batched_tokens: tokens one step may compute.
            prefix_cache: whether prompts that begin alike compute the beginning once.
            prefix_store: a folder that keeps computed prompts for the next process.
            prefix_store_bytes: what that folder may take.
            speculation: who guesses tokens ahead: "auto", "off", "prompt_lookup", "draft", "mtp"; replies are the same.
            draft_model: a small model with the same tokens, a name or a path, that guesses them.
            make_executor: what runs the model; None = the native executor.

        Raises:
            ConfigError: an option is out of range or does not fit the memory.
            ModelError: the model does not exist or cannot be used.
        """
        flags = {
            "model.name": None if model is None else str(model),
            "model.context_length": max_context,
            "crush.weight_format": weight_format,
            "crush.threads": threads,
            "crush.kv_cache_tokens": kv_cache_tokens,
            "crush.kv_dtype": kv_dtype,
            "crush.max_num_seqs": max_num_seqs,
            "crush.max_num_batched_tokens": max_num_batched_tokens,
            "crush.prefix_cache": prefix_cache,
            "crush.prefix_store": None if prefix_store is None else str(prefix_store),
            "crush.prefix_store_bytes": prefix_store_bytes,
            "crush.speculation": speculation,
            "crush.draft_model": None if draft_model is None else str(draft_model),
        }
        settings = load_settings(flags=flags)
        self.loaded = load_model(
            _find_model(settings.model.name, settings.store.home),
            cache_dir=settings.store.home / "packed",
            weight_format=settings.crush.weight_format,
        )
        self.codec = PromptCodec.for_model(self.loaded)
        self._replies = ReplyFormat(self.codec)
        self.default_params = sampling_defaults(self.loaded.generation_config)
        built = build_engine(
            self.loaded,
            settings.crush,
            max_context=settings.model.context_length,
            make_executor=make_executor,
            draft=load_draft_model(settings),
        )
        self.cache = built.cache
        self._context_policy = settings.crush.context_policy
        self._context = LocalContext(self.codec, self._complete, built.cache.max_context)
        self._engine = SyncEngine(built.engine, max_in_flight=2 * settings.crush.max_num_seqs)

    @property
    def max_context(self) -> int:
        """Longest prompt and reply together."""
        return self.cache.max_context

    @property
    def metrics(self) -> EngineMetrics:
        """Counters since the model was loaded."""
        return self._engine.metrics

    def load_adapter(self, name: str, path: str | Path) -> None:
        """Read a LoRA adapter, a folder as PEFT writes it; from now on calls may name it.

        Raises:
            InvalidParameterError: the name is taken.
            ModelError: the folder is no adapter that is supported, or does not fit this model; says why.
        """
        self._engine.load_adapter(name, path)

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter.

        Raises:
            InvalidParameterError: there is none of that name, or a call that runs uses it.
        """
        self._engine.unload_adapter(name)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        adapter: str | None = None,
    ) -> list[RequestOutput]:
        """Complete one prompt or many, which run together.

        Args:
            prompts: a text, token ids, or a list of either.
            params: for all prompts, or one for each; None = the model's own.
            adapter: the loaded adapter that all of them use; None = as `params` say.

        Returns: one output per prompt, in order.

        Raises:
            RequestError: a prompt or parameter cannot be; nothing has been computed then.
            EngineError: the engine stopped.
        """
        token_ids = [self._encode(prompt) for prompt in _as_list(prompts)]
        if params is None or isinstance(params, SamplingParams):
            params = [params or self.default_params] * len(token_ids)
        if len(params) != len(token_ids):
            raise InvalidParameterError(
                f"{len(params)} params for {len(token_ids)} prompts; give one, or one for each", parameter="params"
            )
        if adapter is not None:
            params = [replace(each, adapter=adapter) for each in params]
        return self._engine.run(list(zip(token_ids, params, strict=True)))

    def beam_search(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        beam_width: int = 4,
        n: int = 1,
        max_tokens: int | None = 128,
        length_penalty: float = 1.0,
        early_stopping: EarlyStopping = False,
        logprobs: int | None = None,
    ) -> list[RequestOutput]:
        """Search for the likeliest completions; the same as `generate` with these as `SamplingParams`.

        Returns: one output per prompt, in order; its `n` replies are the best found, each with its `score`.

        Raises:
            RequestError: a prompt or parameter cannot be; nothing has been computed then.
            EngineError: the engine stopped.
        """
        params = SamplingParams(
            beam_width=beam_width,
            n=n,
            max_tokens=max_tokens,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
            logprobs=logprobs,
        )
        return self.generate(prompts, params)

    def best_of(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | None = None,
        *,
        best_of: int = 4,
        scorer: ReplyScorer | Callable[[str, str], float] | None = None,
    ) -> list[RequestOutput]:
        """Draw `best_of` completions of each prompt and return the `params.n` that score best, each with its `score`.

        Args:
            prompts: as for `generate`.
            params: None = the model's own.
            best_of: how many are drawn, from the seeds `seed`, `seed + 1`, ...
            scorer: a function of the texts of prompt and reply, or a `ReplyScorer`; None = the mean log-probability.

        Raises:
            RequestError: a prompt or parameter cannot be; nothing has been computed then.
            EngineError: the engine stopped.
        """
        params = params or self.default_params
        drawn = self.generate(prompts, best_of_params(params, best_of))
        if scorer is None:
            scorer = MeanLogprob()
        elif callable(scorer):
            scorer = TextScorer(scorer, self.codec.decode)
        keep = params.logprobs is not None
        return [select_best(output, params.n, scorer, keep_logprobs=keep) for output in drawn]

    def chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        context_policy: ContextPolicy | None = None,
        **template_kwargs: Any,
    ) -> RequestOutput:
        """Answer a conversation.

        Args:
            messages: in the OpenAI shape.
            params: None = the model's own. What `structured` says begins after the reasoning, if there is any.
            tools: function descriptions in the OpenAI shape.
            context_policy: what becomes of a conversation that is too long: "refuse", "truncate", "window" or
                "summarise"; None = as configured. `context_note` of the output says what was left out.
            **template_kwargs: switches of the chat template, such as `enable_thinking`.

        Raises:
            TemplateError: the template refuses the conversation, or the model has none.
            RequestError: prompt or parameters cannot be.
            EngineError: the engine stopped.
        """
        params = params or self.default_params
        fitted = self._context.fit(
            messages,
            context_policy or self._context_policy,
            max_tokens=params.max_tokens,
            tools=tools,
            variables=template_kwargs,
        )
        prompt = self.codec.render(fitted.messages, tools=tools, **template_kwargs)
        output = self._engine.run([(prompt, self._replies.held(prompt, params))])[0]
        return output if fitted.note is None else replace(output, context_note=fitted.note)

    def stream(
        self,
        prompt: Prompt | Sequence[Message],
        params: SamplingParams | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        context_policy: ContextPolicy | None = None,
        **template_kwargs: Any,
    ) -> Iterator[RequestDelta]:
        """Like `generate` for one prompt, or `chat` for messages, token by token; closing the iterator aborts.

        Refusals are raised by this call, not by the first `next`.
        """
        params = params or self.default_params
        if not isinstance(prompt, str) and len(prompt) > 0 and isinstance(prompt[0], Mapping):
            fitted = self._context.fit(
                cast("Sequence[Message]", prompt),
                context_policy or self._context_policy,
                max_tokens=params.max_tokens,
                tools=tools,
                variables=template_kwargs,
            )
            token_ids: Sequence[int] = self.codec.render(fitted.messages, tools=tools, **template_kwargs)
            params = self._replies.held(token_ids, params)
        else:
            token_ids = self._encode(cast("Prompt", prompt))
        return self._engine.stream(token_ids, params)

    def close(self) -> None:
        """Abort what is running and let go of the model; a second call does nothing."""
        self._engine.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _complete(self, prompt: Sequence[int], params: SamplingParams) -> RequestOutput:
        return self._engine.run([(prompt, params)])[0]

    def _encode(self, prompt: Prompt) -> Sequence[int]:
        return self.codec.encode(prompt) if isinstance(prompt, str) else prompt


def _find_model(name_or_path: str, home: Path) -> Path:
    path = Path(name_or_path).expanduser()
    if path.exists():
        return path
    # Imported here: a path needs nothing of the store and its downloads.
    from glm_crush.weights.store import ModelStore

    return ModelStore(home).resolve(name_or_path)


def _as_list(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """A list of prompts from one prompt or several."""
    if isinstance(prompts, str) or (len(prompts) > 0 and isinstance(prompts[0], int)):
        return [cast("Prompt", prompts)]
    return list(cast("Sequence[Prompt]", prompts))
