"""The web UI's sessions: a signed word in a cookie that says whose key was shown, and until when it holds. Pure.

Nothing is stored, and the key itself is not in it: at every request the key's row decides whether the session still
lets anybody in. Whoever changes the bootstrap key ends all sessions.
"""

import base64
import hashlib
import hmac
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from bitsmith_core.errors import Unauthorized
from pydantic import SecretStr

COOKIE = "bitsmith_session"
CSRF_HEADER = "X-Bitsmith-CSRF"

_SALT = b"bitsmith web session 1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    actor: str  # a key's id, or the bootstrap key's word
    expires_at: datetime


def sign(session: Session, bootstrap_key: SecretStr) -> str:
    """The cookie's value."""
    facts = {"actor": session.actor, "expires_at": int(session.expires_at.timestamp())}
    payload = _encoded(json.dumps(facts, separators=(",", ":")).encode())
    return f"{payload}.{_signature(payload, bootstrap_key)}"


def read(value: str, bootstrap_key: SecretStr, *, now: datetime) -> Session:
    """
    Raises:
        Unauthorized: it was not signed here, or its time is over.
    """
    payload, _, signature = value.partition(".")
    if not hmac.compare_digest(signature.encode(), _signature(payload, bootstrap_key).encode()):
        raise Unauthorized("this session is not known here; sign in again")
    facts = json.loads(_decoded(payload))
    session = Session(actor=facts["actor"], expires_at=datetime.fromtimestamp(facts["expires_at"], UTC))
    if session.expires_at <= now:
        raise Unauthorized("the session has expired; sign in again")
    return session


def _signature(payload: str, bootstrap_key: SecretStr) -> str:
    key = _signing_key(bootstrap_key.get_secret_value())
    return _encoded(hmac.digest(key, payload.encode(), "sha256"))


@lru_cache(maxsize=8)
def _signing_key(bootstrap_key: str) -> bytes:
    """Slow on purpose, and done once: people choose the bootstrap key, and a cookie is something to try guesses on."""
    return hashlib.scrypt(bootstrap_key.encode(), salt=_SALT, n=2**14, r=8, p=1, dklen=32)


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
