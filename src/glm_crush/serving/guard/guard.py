"""The guard: the policy of whoever is admitted, applied to what goes into a model and what comes out.

Above: the turn, through `turn_guard`. Below: compiled policies. It writes down which rules found something, and never
what they found.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from glm_crush.chat.reply_part import PartKind, ReplyPart
from glm_crush.errors import ContentBlockedError
from glm_crush.serving.gateway.admission import current_admission
from glm_crush.serving.guard.filters import Filtered, Filters, TextFilter
from glm_crush.serving.guard.policy import Policy, RuleBook
from glm_crush.serving.guard.rule import Action, Direction
from glm_crush.types import Message

__all__ = ["Guard", "GuardedReply", "Observe", "PolicyFilters"]

Observe = Callable[[Direction, str, Action], None]
"""Told of every finding: its direction, rule and what was done."""

_log = logging.getLogger("glm_crush.serving")


class PolicyFilters:
    """A policy, compiled when it is first needed."""

    def __init__(self, policy: Policy, book: RuleBook) -> None:
        self.fingerprint = policy.fingerprint
        self.input = Filters(policy.input, book)
        self.output = Filters(policy.output, book)


class Guard:
    """Chooses a policy by the admission and applies it.

    Args:
        default: for whoever has none of its own.
        by_owner: for applications and keys, by their ids; a key's counts more than its application's.
        observe: see `Observe`; None = nobody is told.
    """

    def __init__(
        self,
        default: PolicyFilters,
        by_owner: Mapping[str, PolicyFilters] | None = None,
        observe: Observe | None = None,
    ) -> None:
        self._default = default
        self._by_owner = dict(by_owner or {})
        self._observe = observe

    def policy(self) -> PolicyFilters:
        """Of whoever is admitted now."""
        admission = current_admission()
        if admission is None or not self._by_owner:
            return self._default
        grant = admission.grant
        of_application = self._by_owner.get(grant.tenant, self._default)
        return of_application if grant.key_id is None else self._by_owner.get(grant.key_id, of_application)

    def fingerprint(self) -> str:
        """See `TurnGuard`."""
        return self.policy().fingerprint

    @property
    def alters_replies(self) -> bool:
        """See `TurnGuard`."""
        return self.policy().output.alters

    async def messages(self, messages: Sequence[Message], parameter: str) -> Sequence[Message]:
        """See `TurnGuard`."""
        filters = self.policy().input
        if filters.is_empty:
            return messages
        return [await self._message(filters, message, f"{parameter}[{n}]") for n, message in enumerate(messages)]

    async def text(self, text: str, parameter: str, role: str = "user") -> str:
        """See `TurnGuard`."""
        filters = self.policy().input
        return text if filters.is_empty else await self._checked(filters, text, parameter, role)

    async def is_clean(self, text: str) -> bool:
        """See `TurnGuard`."""
        filters = self.policy().input
        filtered = filters.apply(text)
        if filtered.found or filtered.blocked_by is not None:
            return False
        checks = [check for check, _ in filters.checks if "user" in check.roles]
        return not any([await check.applies(text, "input") for check in checks])

    def reply(self) -> GuardedReply | None:
        """See `TurnGuard`."""
        filters = self.policy().output
        return None if filters.is_empty else GuardedReply(filters, self._note)

    async def _message(self, filters: Filters, message: Message, parameter: str) -> Message:
        role = str(message.get("role"))
        changed: dict[str, Any] = {}
        for key in ("content", "reasoning_content", "name"):
            text = message.get(key)
            if isinstance(text, str) and text:
                changed[key] = await self._checked(filters, text, parameter, role)
        calls = message.get("tool_calls")
        if calls:
            assert isinstance(calls, list)
            changed["tool_calls"] = [await self._call(filters, call, parameter) for call in calls]
        return cast(Message, dict(message) | changed)

    async def _call(self, filters: Filters, call: Any, parameter: str) -> Any:
        """A call of an earlier reply; its arguments are JSON text, or an object in templates' form."""
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping):
            return call
        arguments = await self._arguments(filters, function.get("arguments"), parameter)
        return {**call, "function": {**function, "arguments": arguments}}

    async def _arguments(self, filters: Filters, value: Any, parameter: str) -> Any:
        if isinstance(value, str):
            return self._filtered(filters.apply(value, is_json=True), parameter)
        if isinstance(value, Mapping):
            return {key: await self._arguments(filters, item, parameter) for key, item in value.items()}
        if isinstance(value, list):
            return [await self._arguments(filters, item, parameter) for item in value]
        return value

    async def _checked(self, filters: Filters, text: str, parameter: str, role: str) -> str:
        text = self._filtered(filters.apply(text), parameter)
        for check, action in filters.checks:
            if role in check.roles and await check.applies(text, "input"):
                self._note("input", check.name, action)
                if action == "block":
                    raise _blocked(check.name, parameter)
        return text

    def _filtered(self, filtered: Filtered, parameter: str) -> str:
        for rule, action in filtered.found:
            self._note("input", rule, action)
        if filtered.blocked_by is not None:
            raise _blocked(filtered.blocked_by, parameter)
        return filtered.text

    def _note(self, direction: Direction, rule: str, action: Action) -> None:
        if self._observe is not None:
            self._observe(direction, rule, action)
        admission = current_admission()
        if admission is not None:
            admission.note(f"{direction}:{rule}={action}")
        if action == "block":
            _log.info("the guard blocked the %s: %s", direction, rule)


def _blocked(rule: str, parameter: str) -> ContentBlockedError:
    return ContentBlockedError(
        f"{parameter} was blocked by this server's guard (rule {rule}); take out what it is about and send it again",
        parameter=parameter,
    )


class GuardedReply:
    """One reply on its way out; see `ReplyGuard`.

    Args:
        note: told of every finding.
    """

    def __init__(self, filters: Filters, note: Callable[[Direction, str, Action], None]) -> None:
        self.is_blocked = False
        self.is_altered = False
        self._filters = filters
        self._note = note
        self._kind: tuple[PartKind, int] | None = None
        self._filter: TextFilter | None = None
        self._texts: list[ReplyPart] = []  # for the checks of whole replies
        self._held: list[ReplyPart] = []

    def push(self, parts: Iterable[ReplyPart]) -> list[ReplyPart]:
        """See `ReplyGuard`. Another kind of part begins another text: nothing is found across the two."""
        sent: list[ReplyPart] = []
        for part in parts:
            kind = (part.kind, part.index)
            if kind != self._kind or part.kind == "tool_name":
                sent += self._flush()
                self._kind = kind
                self._filter = self._filters.begin(is_json=part.kind == "tool_arguments")
            sent += self._filtered(part.text, final=False)
            if self.is_blocked:
                break
        return self._let_go(sent)

    async def finish(self) -> list[ReplyPart]:
        """See `ReplyGuard`."""
        sent = self._let_go(self._flush())
        if not self.is_blocked:
            await self._check()
        if self.is_blocked:
            return [] if self._filters.blocks_wholes else sent
        return [*self._held, *sent] if self._filters.blocks_wholes else sent

    def _let_go(self, parts: list[ReplyPart]) -> list[ReplyPart]:
        """Nothing before the end where the whole may be blocked."""
        if self._filters.checks:
            self._texts += parts
        if not self._filters.blocks_wholes:
            return parts
        self._held += parts
        return []

    def _flush(self) -> list[ReplyPart]:
        return [] if self._filter is None or self.is_blocked else self._filtered("", final=True)

    def _filtered(self, text: str, *, final: bool) -> list[ReplyPart]:
        assert self._filter is not None
        assert self._kind is not None
        filtered = self._filter.push(text, final=final)
        for rule, action in filtered.found:
            self._note("output", rule, action)
            self.is_altered |= action == "redact"
        self.is_blocked |= filtered.blocked_by is not None
        kind, index = self._kind
        return [ReplyPart(kind, filtered.text, index)] if filtered.text else []

    async def _check(self) -> None:
        for check, action in self._filters.checks:
            text = "".join(part.text for part in self._texts if part.kind == "content" or check.reads_all)
            if text and await check.applies(text, "output"):
                self._note("output", check.name, action)
                if action == "block":
                    self.is_blocked = True
                    return
