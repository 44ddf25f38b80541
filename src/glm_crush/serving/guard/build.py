"""The guard that the settings ask for.

Above: the guard's part, `glm guard`. Below: rules, policies, the policy file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from glm_crush.errors import ConfigError
from glm_crush.guard_settings import GuardSettings
from glm_crush.serving.guard.credentials import credential_rules
from glm_crush.serving.guard.guard import Guard, Observe, PolicyFilters
from glm_crush.serving.guard.hidden import hidden_rules
from glm_crush.serving.guard.injection import Injections
from glm_crush.serving.guard.pii import pii_rules
from glm_crush.serving.guard.policy import Policy, RuleBook
from glm_crush.serving.guard.policy_file import PolicyFile, read_policy_file
from glm_crush.serving.guard.text_check import InjectionCheck, JsonCheck, LengthCheck, TextCheck

__all__ = ["BuiltGuard", "build_guard"]


@dataclass(frozen=True)
class BuiltGuard:
    """The guard, and the rules that it and moderations share."""

    guard: Guard | None
    book: RuleBook
    injections: Injections


def build_guard(
    settings: GuardSettings,
    *,
    more_checks: Sequence[TextCheck] = (),
    observe: Observe | None = None,
) -> BuiltGuard:
    """Read the rules file and compile every policy; no guard if none does anything.

    Raises:
        ConfigError: a rule, an action or the file is wrong.
    """
    file = PolicyFile() if settings.rules_file is None else read_policy_file(settings.rules_file)
    injections = Injections()
    book = RuleBook(
        spans=(*hidden_rules(), *credential_rules(), *pii_rules(), *file.rules),
        checks=(
            LengthCheck(settings.max_input_characters, settings.max_output_characters),
            InjectionCheck(injections, settings.injection_threshold),
            JsonCheck(),
            *more_checks,
        ),
    )
    salt = f"{settings} {file.text}"
    default = Policy.of({"input": settings.input, "output": settings.output}, book, salt)
    by_owner: dict[str, PolicyFilters] = {}
    is_empty = default.input.is_empty and default.output.is_empty
    for named in file.policies:
        policy = Policy.of({"input": named.input, "output": named.output}, book, salt)
        is_empty = is_empty and policy.input.is_empty and policy.output.is_empty
        filters = PolicyFilters(policy, book)
        for owner in sorted(named.applications | named.keys):
            if owner in by_owner:
                raise ConfigError(f"{owner!r:.60} has two policies in {settings.rules_file}; leave one out")
            by_owner[owner] = filters
    guard = None if is_empty else Guard(PolicyFilters(default, book), by_owner, observe)
    return BuiltGuard(guard, book, injections)
