"""Access tokens as the org issues them: unsigned, but with the shape and claims of the real ones.

Source: https://developer.salesforce.com/docs/ai/agentforce/guide/agent-api-get-started.html and the help
page on JWT-based access tokens.
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Callable, Mapping
from enum import Enum

ORG_ID = "00DEM0000000001EAA"
USER_ID = "005EM0000000001AAA"
SCOPE = "sfap_api chatbot_api api"
API_AUDIENCE = "https://api.salesforce.com"
_JWT_PARTS = 3


class Verdict(Enum):
    """What a gateway makes of a bearer token."""

    VALID = "valid"
    INVALID = "invalid"
    EXPIRED = "expired"
    REVOKED = "revoked"


def looks_like_jwt(token: str) -> bool:
    """Say whether ``token`` has the outer shape of a JWT, which is all a gateway sees at first."""
    return token.startswith("eyJ") and token.count(".") == _JWT_PARTS - 1


class TokenStore:
    """The tokens issued so far and what became of them."""

    def __init__(self, *, lifetime: float, opaque: bool, clock: Callable[[], float] = time.time) -> None:
        self._lifetime = lifetime
        self._opaque = opaque
        self._clock = clock
        self._expiry: dict[str, float] = {}
        self._revoked: set[str] = set()

    def __len__(self) -> int:
        return len(self._expiry)

    def issue(self, *, org_url: str, client_id: str) -> str:
        """Return a new token that is valid for the lifetime of this store."""
        now = self._clock()
        token = _opaque_token() if self._opaque else _jwt(now, now + self._lifetime, org_url, client_id)
        self._expiry[token] = now + self._lifetime
        return token

    def check(self, token: str) -> Verdict:
        """Say what ``token`` is worth now."""
        if token not in self._expiry:
            return Verdict.INVALID
        if token in self._revoked:
            return Verdict.REVOKED
        return Verdict.EXPIRED if self._clock() >= self._expiry[token] else Verdict.VALID

    def revoke_all(self) -> None:
        """Make every token issued so far worthless."""
        self._revoked.update(self._expiry)

    def known(self) -> list[str]:
        """Return every token issued, so that a display can leave them out."""
        return list(self._expiry)

    def clear(self) -> None:
        """Forget all tokens; they are invalid from then on."""
        self._expiry.clear()
        self._revoked.clear()


def _opaque_token() -> str:
    return f"{ORG_ID[:15]}!{secrets.token_urlsafe(48)}"


def _jwt(issued: float, expires: float, org_url: str, client_id: str) -> str:
    header = {
        "tnk": f"core/prod/{ORG_ID}",
        "ver": "1.0",
        "kid": f"CORE_ATJWT.{ORG_ID[:15]}.{int(issued * 1000)}",
        "tty": "sfdc-core-token",
        "typ": "JWT",
        "alg": "RS256",
    }
    claims = {
        "scp": SCOPE,
        "aud": [org_url, API_AUDIENCE],
        "sub": f"uid:{USER_ID}",
        "nbf": int(issued),
        "mty": "oauth",
        # The only random claim: it keeps two tokens of the same second apart.
        "sfi": secrets.token_hex(32),
        "roles": [],
        "iss": org_url,
        "hsc": False,
        "exp": int(expires),
        "iat": int(issued),
        "client_id": client_id,
    }
    return ".".join((_part(header), _part(claims), _base64url(b"emulator-signature")))


def _part(value: Mapping[str, object]) -> str:
    return _base64url(json.dumps(value, separators=(",", ":")).encode())


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
