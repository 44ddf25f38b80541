"""A chat backend over a model in this process."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any, cast

from glm_crush.chat.cache_explanation import explain_cache
from glm_crush.chat.local_context import LocalContext
from glm_crush.chat.reply_format import ReplyFormat
from glm_crush.cli.backend import ReplyStats, Turn
from glm_crush.engine.best_of import MeanLogprob, best_of_params, select_best
from glm_crush.engine.output import OutputCollector
from glm_crush.types import ContextNote, SamplingParams

if TYPE_CHECKING:
    from glm_crush.cli.models import OpenModel
    from glm_crush.engine.output import RequestDelta

__all__ = ["LocalBackend"]

_SAMPLING_KEYS = ("do_sample", "temperature", "top_p", "top_k", "min_p", "typical_p")


class LocalBackend:
    """Answers turns with an open model."""

    def __init__(self, model: OpenModel) -> None:
        self._model = model
        self._context = LocalContext(
            model.codec, lambda prompt, params: model.engine.run([(prompt, params)])[0], model.max_context
        )

    @property
    def name(self) -> str:
        """What the user called the model."""
        return self._model.name

    @property
    def default_params(self) -> SamplingParams:
        """The publisher's sampling; where none is published, the preset for conversations."""
        published = self._model.loaded.generation_config
        if any(name in published for name in _SAMPLING_KEYS):
            return self._model.default_params
        return self._model.default_params.with_preset("chat")

    @property
    def can_chat(self) -> bool:
        """Whether the model has a chat template."""
        return self._model.codec.chat_template is not None

    def facts(self) -> dict[str, str]:
        """Family, format, threads and context."""
        loaded, executor = self._model.loaded, self._model.executor
        return {
            "model": self.name,
            "family": loaded.compiled.family,
            "weights": loaded.packed.header.weight_format,
            "context": f"{self._model.max_context:,} tokens",
            "kernels": f"{executor.kernels}, {executor.num_threads} threads",
            "file": str(loaded.packed.path),
        }

    def reply(self, turn: Turn) -> Generator[str, None, ReplyStats]:
        """Stream a reply; see `ChatBackend.reply`."""
        prompt, note = self._encode(turn)
        num_tokens = 0
        last = None
        params = turn.params
        if params.structured is not None and turn.raw_prompt is None:
            params = ReplyFormat(self._model.codec).held(prompt, params)
        if turn.best_of > 1:
            params = best_of_params(params, turn.best_of)
        collector = OutputCollector("turn", prompt, n=params.n)
        deltas = cast("Generator[RequestDelta, None, None]", self._model.engine.stream(prompt, params))
        try:
            for delta in deltas:
                num_tokens += len(delta.token_ids)
                last = delta
                if turn.best_of > 1:
                    collector.add(delta)
                elif delta.text:
                    yield delta.text
        finally:
            deltas.close()
        assert last is not None
        assert last.stats is not None
        finish_reason, report = last.finish_reason, last.stats.cache_report
        if turn.best_of > 1:
            [best] = select_best(collector.output(), 1, MeanLogprob()).outputs
            finish_reason = best.finish_reason
            yield best.text
        return ReplyStats(
            prompt_tokens=len(prompt),
            cached_tokens=last.stats.num_cached_tokens,
            completion_tokens=num_tokens,
            time_to_first_token_seconds=last.stats.time_to_first_token_seconds or last.stats.elapsed_seconds,
            elapsed_seconds=last.stats.elapsed_seconds,
            finish_reason=finish_reason,
            context_length=self._model.max_context,
            context_note="" if note is None else note.describe(),
            drafted_tokens=last.stats.num_drafted_tokens,
            accepted_tokens=last.stats.num_accepted_tokens,
            cache=None if report is None else explain_cache(report, prompt, self._model.codec.decode),
        )

    def _encode(self, turn: Turn) -> tuple[Sequence[int], ContextNote | None]:
        if turn.raw_prompt is not None:
            return self._model.codec.encode(turn.raw_prompt), None
        variables: dict[str, Any] = {} if turn.thinking is None else {"enable_thinking": turn.thinking}
        fitted = self._context.fit(
            turn.messages, turn.context_policy, max_tokens=turn.params.max_tokens, variables=variables
        )
        return self._model.codec.render(fitted.messages, **variables), fitted.note
