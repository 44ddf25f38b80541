"""The engine: requests in, one step at a time, deltas out.

Above: `llm` (in-process) and `async_engine` (its own thread). Below: scheduler, runner, replies. Not thread-safe:
one thread at a time. Knows neither messages nor protocols.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from glm_crush.engine.beam_group import BeamGroup, check_beams, most_tokens
from glm_crush.engine.deadlines import Deadlines, deadline_error
from glm_crush.engine.grammar import GrammarCompiler, GrammarState, check_structured
from glm_crush.engine.metrics import EngineMetrics
from glm_crush.engine.output import RequestDelta, RequestStats
from glm_crush.engine.pacing import DecodePacer
from glm_crush.engine.prefix_store.stored_prefixes import StoredPrefixes
from glm_crush.engine.progress import prompt_progress
from glm_crush.engine.reply import MakeDetokenizer, Reply
from glm_crush.engine.request import Request, RequestStatus
from glm_crush.engine.request_checks import check_prompt, check_sampling_params
from glm_crush.engine.runner import Runner
from glm_crush.engine.scheduler import ScheduledBatch, ScheduledRequest, Scheduler
from glm_crush.engine.speculation import Speculation
from glm_crush.engine.step_budget import StepBudget
from glm_crush.errors import EngineError, InvalidParameterError
from glm_crush.types import FinishReason, SamplingParams, TokenLogprobs

__all__ = ["Engine"]


class Engine:
    """Runs many requests together.

    Args:
        eos_token_ids: ids that end a reply unless the request ignores them.
        make_detokenizer: called for each reply, see `MakeDetokenizer`; None = no text, token ids only.
        grammars: compiles what requests want their replies to look like; None = they may not want anything.
        pacer: how many tokens a call draws while requests only decode; None = one.
        speculation: guesses tokens ahead, which a step then verifies together; None = no guesses.
        step_budget: how much of a prompt is computed beside others that decode; None = as much as a step takes.
        deadlines: ends what takes too long; None = only what comes with a deadline.
        stored_prefixes: keeps the prefix cache across restarts; None = nobody does.
        clock: seconds, for statistics and deadlines.
    """

    def __init__(
        self,
        runner: Runner,
        scheduler: Scheduler,
        *,
        eos_token_ids: Sequence[int] = (),
        make_detokenizer: MakeDetokenizer | None = None,
        grammars: GrammarCompiler | None = None,
        pacer: DecodePacer | None = None,
        speculation: Speculation | None = None,
        step_budget: StepBudget | None = None,
        deadlines: Deadlines | None = None,
        stored_prefixes: StoredPrefixes | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.metrics = EngineMetrics() if stored_prefixes is None else stored_prefixes.metrics
        self.scheduler = scheduler
        self.adapters = runner.adapters  # installed between two steps
        self._runner = runner
        self._eos_token_ids = frozenset(token for token in eos_token_ids if 0 <= token < runner.vocab_size)
        self._make_detokenizer = make_detokenizer
        self.grammars = grammars  # safe to use from any thread
        self._pacer = pacer or DecodePacer(max_steps=1)
        self._speculation = speculation
        self._step_budget = step_budget
        self.deadlines = deadlines or Deadlines()
        self._stored_prefixes = stored_prefixes
        self._clock = clock
        self._requests: dict[str, list[Request]] = {}  # the unfinished replies of each request id
        self._replies: dict[Request, Reply] = {}
        self._beams: dict[str, BeamGroup] = {}
        self._failure: EngineError | None = None

    @property
    def has_unfinished(self) -> bool:
        return bool(self._requests)

    def add_request(
        self,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
        *,
        request_id: str | None = None,
        priority: int = 0,
        cache_salt: str = "",
        tenant: str = "",
        deadline_seconds: float | None = None,
        waited_seconds: float = 0.0,
    ) -> str:
        """Queue a request; its `n` replies draw from the seeds `seed`, `seed + 1`, ...

        Lower `priority` goes first, and tenants share the engine fairly; only requests of the same `cache_salt` share
        cached prefixes. What has not ended `deadline_seconds` from its arrival, `waited_seconds` ago, ends with
        DeadlineError. Returns the request id, which its deltas carry; None = a random one.

        Raises:
            InvalidParameterError: a token id is outside the vocabulary, or parameters contradict each other.
            ContextLengthError: prompt and reply do not fit.
            OverloadedError: the queue is full.
            EngineError: the engine has failed before.
        """
        self._check_alive()
        request_id = request_id or f"req-{secrets.token_hex(8)}"
        if request_id in self._requests:
            raise InvalidParameterError(f"request_id {request_id!r} is in use; choose another", parameter="request_id")
        options = (priority, cache_salt, tenant, waited_seconds)
        requests = self._make_requests(request_id, prompt_token_ids, params, *options)
        self._check_fits(requests)
        self.scheduler.add(requests if params.beam_width is None else requests[:1])
        if params.beam_width is not None:
            self._beams[request_id] = BeamGroup(requests, params, self._make_detokenizer)
        self._requests[request_id] = requests
        self.deadlines.add(request_id, requests[0].arrival_time, deadline_seconds)
        return request_id

    def check_request(self, prompt_token_ids: Sequence[int], params: SamplingParams) -> None:
        """Raises what `add_request` would, except for a full queue, and queues nothing."""
        self._check_alive()
        self._check_fits(self._make_requests("check", prompt_token_ids, params))

    def step(self) -> list[RequestDelta]:
        """Compute one step for the requests that the scheduler picks; returns what each of them gained.

        Raises:
            EngineError: the step failed. No request can be finished any more; see `abort_all`.
        """
        self._check_alive()
        if not self._requests:
            return []
        started = self._clock()
        deltas = self._end_expired(started)
        if not self.has_unfinished:
            return deltas
        try:
            batch = self._schedule()
            if not batch.requests and self._stored_prefixes is not None:
                self._stored_prefixes.wait()
                return deltas
            self._note_scheduled(batch, started)
            result = self._runner.execute(batch)
            self.scheduler.update(batch, result.num_accepted)
            for request, logprobs in result.scored:
                request.add_prompt_logprobs(logprobs)
            now = self._clock()
            deltas += prompt_progress(batch, now)
            sampled = [scheduled for scheduled in batch.requests if scheduled.samples]
            for scheduled, token_ids, drawn in zip(sampled, result.token_ids, result.logprobs, strict=True):
                if self._beams and scheduled.request.request_id in self._beams:
                    deltas += self._absorb_beam(scheduled.request, drawn, now)
                else:
                    deltas.append(self._absorb(scheduled, token_ids, drawn, now))
            if self._stored_prefixes is not None:
                self._stored_prefixes.after_step()
        except Exception as error:
            self._failure = EngineError(f"The engine stopped: {type(error).__name__}: {error}")
            raise self._failure from error
        self.metrics.num_steps += 1
        self.metrics.step_seconds += now - started
        if len(sampled) == batch.num_tokens // batch.num_decode_steps > 0:
            self._pacer.record(batch.num_decode_steps, now - started)
        if self._step_budget is not None:
            self._step_budget.record(batch, now - started)
        if self._speculation is not None:
            self._speculation.record(batch, result.num_accepted, now - started)
        return deltas

    def abort(self, request_id: str) -> list[RequestDelta]:
        """End a request where it stands; nothing happens when it is unknown or has finished.

        Returns: the last delta of each of its replies, with the text that was held back.
        """
        now = self._clock()
        if request_id in self._beams:
            group = self._beams[request_id]
            return group.aborted(self._finish_beams(request_id, "abort", now))
        deltas = []
        for request in list(self._requests.get(request_id, ())):
            reply = self._replies.get(request)
            text = "" if reply is None else reply.abort()
            stats = self._finish(request, "abort", now)
            deltas.append(RequestDelta(request_id, request.index, (), text, finish_reason="abort", stats=stats))
        return deltas

    def abort_all(self) -> None:
        """End every request and forget it; works after a failure too."""
        for request_id in list(self._requests):
            self.abort(request_id)

    def close(self) -> None:
        """End every request, and keep on disk what is to be kept there; nothing is computed after that."""
        self.abort_all()
        self._failure = self._failure or EngineError("The engine has been closed.")
        if self._stored_prefixes is not None:
            self._stored_prefixes.close()
        if self.grammars is not None:
            self.grammars.close()

    def check_integrity(self) -> None:
        """Assert that queues, blocks and replies agree; for tests and idle moments."""
        self.scheduler.check_integrity()
        unfinished = {request for requests in self._requests.values() for request in requests}
        pending = {request for request in unfinished if request.status is RequestStatus.PENDING}
        assert unfinished == {*self.scheduler.running, *self.scheduler.waiting, *pending}
        assert pending >= set(self.scheduler.pending)
        assert self._beams.keys() <= self._requests.keys()
        assert self._replies.keys() <= unfinished

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter; raises InvalidParameterError while a request uses it, or if there is none."""
        self.adapters.remove(name, {r.params.adapter for replies in self._requests.values() for r in replies})

    def _schedule(self) -> ScheduledBatch:
        if self._stored_prefixes is not None:
            self._stored_prefixes.before_step(self.scheduler)
        most = None if self._step_budget is None else self._step_budget.max_prompt_tokens(self.scheduler)
        if self._speculation is None:
            return self.scheduler.schedule(max_decode_steps=self._pacer.num_steps, max_prompt_tokens=most)
        # Beams do not go on with what is drawn.
        alone = [request for request in self.scheduler.running if request.request_id not in self._beams]
        waiting = self.scheduler.admits_waiting
        drafts = self._speculation.propose(alone, self._runner.grammars, prompts_waiting=waiting)
        max_steps = min(self._pacer.num_steps, self._speculation.max_decode_steps)
        return self.scheduler.schedule(max_decode_steps=max_steps, drafts=drafts, max_prompt_tokens=most)

    def _end_expired(self, now: float) -> list[RequestDelta]:
        deltas: list[RequestDelta] = []
        for request_id, seconds in self.deadlines.expired(now):
            replies = self._requests.get(request_id, ())
            error = deadline_error(seconds, has_begun=any(r.first_token_time is not None for r in replies))
            deltas += [replace(delta, error=error) for delta in self.abort(request_id)]
        return deltas

    def _check_alive(self) -> None:
        if self._failure is not None:
            raise EngineError(str(self._failure)) from self._failure

    def _make_requests(
        self,
        request_id: str,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
        priority: int = 0,
        salt: str = "",
        tenant: str = "",
        waited_seconds: float = 0.0,
    ) -> list[Request]:
        check_prompt(prompt_token_ids, self._runner.vocab_size)
        check_sampling_params(params, self._runner.vocab_size)
        check_structured(params.structured, self.grammars)
        if params.beam_width is not None:
            params = replace(params, temperature=0.0)  # what is drawn does not matter
        seed = secrets.randbits(64) if params.seed is None else params.seed
        stop_token_ids = frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else self._eos_token_ids)
        max_tokens = params.max_tokens or most_tokens(len(prompt_token_ids), params, self.scheduler)
        arrival_time = self._clock() - waited_seconds
        adapter = self.adapters.find(params.adapter)
        return [
            Request(
                request_id,
                prompt_token_ids,
                params,
                max_tokens=max_tokens,
                stop_token_ids=stop_token_ids,
                seed=(seed + index) % 2**64,
                index=index,
                priority=priority,
                arrival_time=arrival_time,
                cache_salt=salt,
                tenant=tenant,
                adapter=adapter,
            )
            for index in range(params.beam_width or params.n)
        ]

    def _check_fits(self, requests: Sequence[Request]) -> None:
        self.scheduler.check(requests)
        if requests[0].params.beam_width is not None:
            check_beams(requests[0], self.scheduler)

    def _start_grammar(self, request: Request) -> GrammarState | None:
        structured = request.params.structured
        if structured is None or self.grammars is None:
            return None
        self._runner.grammars[request] = self.grammars.start(structured)
        return self._runner.grammars[request]

    def _note_scheduled(self, batch: ScheduledBatch, now: float) -> None:
        self.metrics.num_preemptions += len(batch.preempted)
        for scheduled in batch.requests:
            self.metrics.num_computed_tokens += scheduled.num_tokens + batch.num_decode_steps - 1
            request = scheduled.request
            if request.first_scheduled_time is None:
                self.metrics.note_start(request, now)
                if request.request_id not in self._beams:
                    self._replies[request] = Reply(request, self._make_detokenizer, self._start_grammar(request))

    def _absorb(
        self, scheduled: ScheduledRequest, token_ids: list[int], logprobs: list[TokenLogprobs] | None, now: float
    ) -> RequestDelta:
        """Append the new tokens to the request, up to the one that ends it; returns what they add to its reply."""
        request = scheduled.request
        prompt_logprobs = None
        if request.first_token_time is None:
            self.metrics.note_first_token(request, now)
            prompt_logprobs = None if request.prompt_logprobs is None else tuple(request.prompt_logprobs)
        reply = self._replies[request]
        num_before = len(request.token_ids)
        text = ""
        for token_id in token_ids:
            if token_id < 0:
                break
            request.token_ids.append(token_id)
            text += reply.push(token_id)
            if reply.finish_reason is not None:
                break
        added = tuple(request.token_ids[num_before:])
        self.metrics.note_gain(scheduled, len(added))
        if reply.finish_reason is None and token_ids[len(added) :]:
            return self._end_without_token(request, added, text, logprobs, now)
        reason = reply.finish_reason
        return RequestDelta(
            request.request_id,
            request.index,
            added,
            text,
            None if logprobs is None else tuple(logprobs[: len(added)]),
            reason,
            reply.stop_reason,
            prompt_logprobs,
            None if reason is None else self._finish(request, reason, now),
        )

    def _absorb_beam(self, request: Request, logprobs: list[TokenLogprobs] | None, now: float) -> list[RequestDelta]:
        """Tell the beams what one of them can go on with; returns the replies once the search is over."""
        assert logprobs is not None
        if request.first_token_time is None:
            self.metrics.note_first_token(request, now)
        group = self._beams[request.request_id]
        group.record(request, logprobs[0], self.scheduler)
        if not group.done:
            return []
        deltas = group.replies(self._finish_beams(request.request_id, "stop", now))
        self.metrics.num_output_tokens += sum(len(delta.token_ids) for delta in deltas)
        return deltas

    def _finish_beams(self, request_id: str, reason: FinishReason, now: float) -> RequestStats:
        """Take all beams of a call out of the scheduler and out of our books."""
        group = self._beams.pop(request_id)
        for request in group.requests:
            self.scheduler.finish(request, reason)
        del self._requests[request_id]
        self.deadlines.forget(request_id)
        self.metrics.num_finished[reason] += group.num_replies
        return RequestStats.of(group.requests[0], now)

    def _end_without_token(
        self,
        request: Request,
        added: tuple[int, ...],
        text: str,
        logprobs: list[TokenLogprobs] | None,
        now: float,
    ) -> RequestDelta:
        """The sampler found nothing to draw: only this request ends, with an error."""
        grammar = self._runner.grammars.get(request)
        reason = "" if grammar is None or grammar.error is None else f" The grammar stopped: {grammar.error}"
        text += self._replies[request].abort()
        certain = None if logprobs is None else tuple(logprobs[: len(added)])
        stats = self._finish(request, "abort", now)
        error = EngineError(
            "No token can be drawn: every logit is NaN or excluded. "
            f"Check logit_bias and min_tokens, or the model's weights.{reason}"
        )
        return RequestDelta(
            request.request_id, request.index, added, text, certain, finish_reason="abort", stats=stats, error=error
        )

    def _finish(self, request: Request, reason: FinishReason, now: float) -> RequestStats:
        """Take the request out of the scheduler and out of our books."""
        self.scheduler.finish(request, reason)
        self._replies.pop(request, None)
        self._runner.grammars.pop(request, None)
        if self._speculation is not None:
            self._speculation.forget(request)
        siblings = self._requests[request.request_id]
        siblings.remove(request)
        if not siblings:
            del self._requests[request.request_id]
            self.deadlines.forget(request.request_id)
        self.metrics.num_finished[reason] += 1
        return RequestStats.of(request, now)
