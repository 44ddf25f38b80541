"""What a key looks like, and what is kept of it.

A key is `glm_` + a public part of 8 characters + `_` + 43 random characters (256 bits). Only its HMAC-SHA256 is stored.
A slow hash such as argon2 protects secrets that people choose, where an attacker with the database can try the likely
ones; of 2^256 equally likely secrets a fast hash protects as well, and costs a microsecond for each request instead of
tens of milliseconds (docs/decisions/keys.md).
"""

from __future__ import annotations

import hmac
import re
import secrets
import string
from dataclasses import dataclass

__all__ = ["NewSecret", "SecretHasher", "is_ours", "new_secret"]

_ALPHABET = string.ascii_letters + string.digits
_PREFIX = "glm"
_PUBLIC_CHARACTERS = 8
_RANDOM_CHARACTERS = 43  # of 62 letters and digits: 256 bits
_FORM = re.compile(rb"%b_[A-Za-z0-9]{%d}_[A-Za-z0-9]{%d}" % (_PREFIX.encode(), _PUBLIC_CHARACTERS, _RANDOM_CHARACTERS))
_DEFAULT_HASH_KEY = b"glm-crush key v1"


@dataclass(frozen=True)
class NewSecret:
    """A key as it is shown, once. `prefix` tells people which one it is and opens nothing."""

    text: str
    prefix: str


def new_secret() -> NewSecret:
    """A fresh key from the system's source of randomness."""
    prefix = f"{_PREFIX}_{_random(_PUBLIC_CHARACTERS)}"
    return NewSecret(f"{prefix}_{_random(_RANDOM_CHARACTERS)}", prefix)


def is_ours(text: bytes) -> bool:
    """Whether a text has the form of our keys; others need not be looked up anywhere."""
    return _FORM.fullmatch(text) is not None


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


class SecretHasher:
    """Turns keys into what is stored and compared.

    Args:
        hash_key: mixed into every hash; whoever has the database but not this cannot even check a guess. None = a
            constant, which is enough for random keys.
    """

    def __init__(self, hash_key: str | None = None) -> None:
        self._key = hash_key.encode() if hash_key else _DEFAULT_HASH_KEY

    def digest(self, text: bytes) -> bytes:
        """32 bytes of HMAC-SHA256."""
        return hmac.digest(self._key, text, "sha256")
