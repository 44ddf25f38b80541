"""The guard that the settings ask for.

Above: the guard's part, `glm guard`. Below: rules, policies, the policy file.
"""

from __future__ import annotations

from dataclasses import dataclass

from glm_crush.errors import ConfigError
from glm_crush.guard_settings import GuardSettings
from glm_crush.serving.guard.credentials import credential_rules
from glm_crush.serving.guard.guard import Guard, Observe, PolicyFilters
from glm_crush.serving.guard.guard_model import GuardModel
from glm_crush.serving.guard.hidden import hidden_rules
from glm_crush.serving.guard.injection import Injections
from glm_crush.serving.guard.pii import pii_rules
from glm_crush.serving.guard.policy import Policy, RuleBook
from glm_crush.serving.guard.policy_file import PolicyFile, read_policy_file
from glm_crush.serving.guard.served_checks import ModelCheck, TopicCheck
from glm_crush.serving.guard.text_check import InjectionCheck, JsonCheck, LengthCheck
from glm_crush.serving.served_models import ServedModels

__all__ = ["BuiltGuard", "build_guard"]


@dataclass(frozen=True)
class BuiltGuard:
    """The guard, and the rules that it and moderations share."""

    guard: Guard | None
    book: RuleBook
    injections: Injections
    model: GuardModel | None


def build_guard(
    settings: GuardSettings,
    *,
    models: ServedModels | None = None,
    observe: Observe | None = None,
) -> BuiltGuard:
    """Read the rules file and compile every policy; no guard if none does anything.

    Args:
        settings: the section.
        models: what topics and the guard model are judged with; None = no rule may need them.
        observe: see `Guard`.

    Raises:
        ConfigError: a rule, an action or the file is wrong.
    """
    file = PolicyFile() if settings.rules_file is None else read_policy_file(settings.rules_file)
    injections = Injections()
    model = None
    if settings.model is not None and models is not None:
        if settings.model not in ("default", *models.names()):
            served = ", ".join(models.names())
            raise ConfigError(f"guard.model is {settings.model!r:.80}, which is not served; there is {served}")
        model = GuardModel(models, settings.model, settings.model_style)
    encoders = None if models is None else models.encoders
    book = RuleBook(
        spans=(*hidden_rules(), *credential_rules(), *pii_rules(), *file.rules),
        checks=(
            LengthCheck(settings.max_input_characters, settings.max_output_characters),
            InjectionCheck(injections, settings.injection_threshold),
            JsonCheck(),
            *(TopicCheck(topic, encoders) for topic in file.topics),
            ModelCheck(model, settings.model_threshold),
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
    return BuiltGuard(guard, book, injections, model)
