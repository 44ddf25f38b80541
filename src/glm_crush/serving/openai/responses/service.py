"""Everything about responses but HTTP: begin them, find them, go on after a crash, forget them in time.

Above: `routes.py`. Below: runs and the store. Leases of this server's runs are renewed by one task, which is there as
long as there are any.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from glm_crush.errors import ContextLengthError, GlmError, InvalidParameterError, StorageError
from glm_crush.serving.chat_turn import ChatTurn, prepare_turn
from glm_crush.serving.errors import ApiError
from glm_crush.serving.openai.responses.body import new_body
from glm_crush.serving.openai.responses.items import Item, check_calls, checked_items, new_id
from glm_crush.serving.openai.responses.protocol import ResponseInput, ResponseRequest
from glm_crush.serving.openai.responses.run import Run
from glm_crush.serving.openai.responses.turn import check_request, turn_request, wants_summary
from glm_crush.serving.openai.responses.writer import ResponseWriter
from glm_crush.serving.served_models import ServedModels

if TYPE_CHECKING:
    from glm_crush.serving.gateway.admission import Admission
    from glm_crush.serving.openai.responses.store import ResponseStore, StoredResponse

__all__ = ["ResponseService"]

Admit = Callable[[str | None, str], Awaitable["Admission"]]

_PATH = "/v1/responses"
_MOST_ATTEMPTS = 3

_log = logging.getLogger("glm_crush.serving")


class ResponseService:
    """The responses of one server.

    Args:
        models: what answers. store: what keeps.
        admit: an admission for work that a key queued earlier; None = nothing is metered.
    """

    def __init__(self, models: ServedModels, store: ResponseStore, admit: Admit | None = None) -> None:
        self._models = models
        self._admit = admit
        self.store = store
        self._live: dict[str, Run] = {}
        self._renewal: asyncio.Task[None] | None = None
        self._endings: set[asyncio.Task[None]] = set()

    # --- begin ---

    async def create(self, request: ResponseRequest, tenant: str, key_id: str | None = None) -> Run:
        """Begin a response on behalf of a key; when this returns it is stored, if it is to be.

        Raises:
            RequestError: what is wrong with the request; nothing was stored.
            StorageError: it could not be stored.
        """
        check_request(request)
        chain = await self._chain(tenant, request.previous_response_id)
        items = checked_items(request.input or "")
        context = [item for response in chain for item in response.context()]
        check_calls(context, items)
        if request.background and request.seed is None:
            request = request.model_copy(update={"seed": secrets.randbits(31)})  # begun again, it says the same again
        from glm_crush.serving.openai.responses.store import StoredResponse

        now = self.store.now()
        run = await self._prepare(request, [*context, *items], new_id("resp"), now)
        if request.is_stored:
            try:
                await self.store.add(
                    StoredResponse(
                        id=run.body["id"],
                        tenant=tenant,
                        previous_id=request.previous_response_id,
                        created_at=now,
                        status=run.body["status"],
                        background=bool(request.background),
                        request=request.model_dump(mode="json", by_alias=True, exclude_none=True),
                        input=items,
                        body=run.body,
                        key_id=key_id,
                    ),
                    chain,
                )
            except BaseException:
                await run.let_go()
                raise
            self._keep(run, tenant)
        run.start()
        return run

    async def count_input(self, request: ResponseInput, tenant: str) -> int:
        """How many tokens the prompt of such a response has.

        Raises:
            RequestError: what is wrong with the request.
        """
        whole = ResponseRequest.model_construct(**{name: getattr(request, name) for name in type(request).model_fields})
        check_request(whole)
        chain = await self._chain(tenant, request.previous_response_id)
        items = checked_items(request.input or "")
        context = [item for response in chain for item in response.context()]
        check_calls(context, items)
        async with self._models.use(request.model) as model:
            turn = await prepare_turn(model, turn_request(whole, model, [*context, *items]))
        return len(turn.prompt_token_ids)

    async def _chain(self, tenant: str, previous_id: str | None) -> list[StoredResponse]:
        """All responses before this one."""
        if previous_id is None:
            return []
        chain = await self.store.chain(tenant, previous_id)
        if chain is None:
            raise InvalidParameterError(
                f"previous_response_id is {previous_id!r:.80}, and it or a response before it is not stored any more, "
                "or never was; send the whole conversation as input",
                parameter="previous_response_id",
            )
        last = chain[-1]
        if last.is_working or last.id in self._live:
            raise InvalidParameterError(
                f"the response {previous_id!r:.80} is {last.status}; wait until it has ended",
                parameter="previous_response_id",
            )
        return chain

    async def _prepare(self, request: ResponseRequest, items: list[Item], response_id: str, now: float) -> Run:
        async with AsyncExitStack() as stack:
            model = await stack.enter_async_context(self._models.use(request.model))
            turn = await prepare_turn(model, turn_request(request, model, items))
            _check_length(turn)
            if request.background:  # the engine's refusal comes when its client has its id
                await turn.check_form()
            body = new_body(request, response_id=response_id, created_at=now, model=model.name, params=turn.params)
            writer = ResponseWriter(body, model.codec, summary=wants_summary(request))
            finish = None
            if request.is_stored:

                async def finish(body: dict[str, Any], events: list[bytes] | None) -> None:
                    texts = None if events is None or not request.background else [e.decode() for e in events]
                    await self.store.finish(response_id, body, texts)

            return Run(
                turn,
                writer,
                stack.pop_all(),
                finish=finish,
                keeps_events=bool(request.stream),
                waits=bool(request.background),
                now=self.store.now,
            )

    # --- what is live ---

    def live(self, response_id: str) -> Run | None:
        """The run of a response that this server works on."""
        return self._live.get(response_id)

    def _keep(self, run: Run, tenant: str) -> None:
        response_id = run.body["id"]
        self._live[response_id] = run
        if self._renewal is None or self._renewal.done():
            self._renewal = asyncio.create_task(self._renew())
        ending = asyncio.create_task(self._forget(response_id, tenant, run))
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)

    async def _forget(self, response_id: str, tenant: str, run: Run) -> None:
        """Once it has ended, the store is what knows it; what was refused never was."""
        await run.ended()
        del self._live[response_id]
        if run.refusal is not None:
            try:
                await self.store.delete(tenant, response_id)
            except StorageError as error:
                _log.error("response %s stays until it expires", response_id, exc_info=error)

    async def _renew(self) -> None:
        """Renew leases; what somebody else has cancelled or taken over ends here."""
        while self._live:
            await asyncio.sleep(self.store.lease_seconds / 3)
            ids = set(self._live)
            try:
                lost = ids - await self.store.renew(ids)
            except StorageError as error:
                _log.error("leases of responses could not be renewed", exc_info=error)
                continue
            for response_id in lost & set(self._live):
                await self._live[response_id].cancel()

    # --- after a crash ---

    async def recover(self) -> int:
        """Take over responses whose server is gone; how many there were.

        What ran in the background is begun again, unless a client follows its events, which could not go on as they
        began. All else has failed: nobody waits for it.
        """
        abandoned = await self.store.claim_abandoned()
        for response in abandoned:
            try:
                await self._take_over(response)
            except GlmError as error:
                await self._fail(response, str(error))
        return len(abandoned)

    async def _take_over(self, response: StoredResponse) -> None:
        streams = bool(response.request.get("stream"))
        if not response.background or streams or response.attempts > _MOST_ATTEMPTS:
            await self._fail(response, "the server stopped before the response was finished; send the request again")
            return
        request = ResponseRequest.model_validate(response.request)
        chain = await self._chain(response.tenant, response.previous_id)
        context = [item for earlier in chain for item in earlier.context()]
        admission = None if self._admit is None else await self._admit(response.key_id, _PATH)
        try:
            run = await self._prepare(request, [*context, *response.input], response.id, response.created_at)
            self._keep(run, response.tenant)
            run.start(admission)
        finally:
            if admission is not None:
                admission.close(200)

    async def _fail(self, response: StoredResponse, message: str) -> None:
        body = {**response.body, "status": "failed", "error": {"code": "server_error", "message": message}}
        await self.store.finish(response.id, body)

    async def close(self) -> None:
        """Stop what runs; other servers, or this one when it starts again, go on with it at once."""
        ids = list(self._live)
        runs = list(self._live.values())
        for run in runs:
            run.left_to_others = True
            await run.cancel()
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.gather(self._renewal, return_exceptions=True)
        await asyncio.gather(*self._endings, return_exceptions=True)
        if ids:
            await self.store.release(ids)

    # --- find ---

    async def find(self, tenant: str, response_id: str) -> StoredResponse:
        """A stored response.

        Raises:
            ApiError: 404, this tenant has none of that id.
        """
        response = await self.store.find(tenant, response_id)
        if response is not None and response.is_working and response_id not in self._live and await self.recover():
            response = await self.store.find(tenant, response_id)
        if response is None:
            raise ApiError(404, f"there is no response {response_id!r:.80}, or not any more", code="not_found")
        return response

    async def cancel(self, tenant: str, response_id: str) -> dict[str, Any]:
        """Cancel a response in the background; the object as it then is.

        Raises:
            ApiError: 404, there is none. InvalidParameterError: it does not run in the background.
        """
        response = await self.find(tenant, response_id)
        if not response.background:
            raise InvalidParameterError(
                "only responses in the background can be cancelled; to cancel another, close its connection",
                parameter="response_id",
            )
        run = self._live.get(response_id)
        if run is not None:
            await run.cancel()
        elif response.is_working:
            await self.store.cancel(tenant, response)
        return (await self.find(tenant, response_id)).body

    async def delete(self, tenant: str, response_id: str) -> None:
        """Remove a response; one that is at work is stopped.

        Raises:
            ApiError: 404, there is none.
        """
        await self.find(tenant, response_id)
        run = self._live.get(response_id)
        if run is not None:
            await run.cancel()
        await self.store.delete(tenant, response_id)

    async def input_items(self, tenant: str, response_id: str) -> list[Item]:
        """What the response was made from, oldest first.

        Raises:
            ApiError: 404, there is none.
        """
        response = await self.find(tenant, response_id)
        chain = await self._chain(tenant, response.previous_id) if response.previous_id else []
        return [*(item for earlier in chain for item in earlier.context()), *response.input]


def _check_length(turn: ChatTurn) -> None:
    """Refuse at once what the engine would refuse later, when the response has begun for its client."""
    length, most = len(turn.prompt_token_ids), turn.model.context_length
    wanted = turn.params.max_tokens
    if length + (wanted or 1) > most:
        limit = "" if wanted is None else f", max_output_tokens is {wanted}"
        raise ContextLengthError(
            f"the input has {length} tokens{limit}; {turn.model.name} takes {most} for both together: send less",
            parameter="input",
        )
