"""The assertions of the JWT-bearer flow, as the org checks them.

Source: https://help.salesforce.com/s/articleView?id=xcloud.remoteaccess_oauth_jwt_flow.htm
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce.emulator.errors import ApiError
from airflow_provider_agentforce.emulator.org import CONSUMER_KEY, Org

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

# How far in the future an assertion may end, in seconds.
_LONGEST = 180
# The official library sends the end in milliseconds since the epoch, which orgs accept as a distant time.
_MILLISECONDS = 1e12
_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"


def user_of(assertion: str, org: Org) -> str:
    """Return the username that ``assertion`` names.

    :raises ApiError: the org issues no token for it.
    """
    claims = _claims(assertion, org.settings.certificate)
    if claims.get("iss") != CONSUMER_KEY:
        raise ApiError("wrong_key")
    audience = claims.get("aud")
    if not isinstance(audience, str) or audience not in {org.settings.audience, org.url}:
        raise ApiError("wrong_audience")
    _check_end(claims.get("exp"))
    username = claims.get("sub")
    allowed = org.settings.usernames
    if not isinstance(username, str) or "@" not in username:
        raise ApiError("app_not_approved")
    if allowed is not None and username.lower() not in {one.strip().lower() for one in allowed.split(",")}:
        raise ApiError("app_not_approved")
    return username


def _check_end(ends: Any) -> None:
    if isinstance(ends, bool) or not isinstance(ends, int | float):
        raise ApiError("invalid_assertion")
    if not (0 < ends - time.time() <= _LONGEST or ends > _MILLISECONDS):
        raise ApiError("expired_assertion")


def _claims(assertion: str, certificate: str | None) -> dict[str, Any]:
    """Return the claims of ``assertion``, after verifying its signature."""
    import jwt  # noqa: PLC0415 - only this flow needs it

    key: Any = None if certificate is None else public_key(certificate)
    try:
        if jwt.get_unverified_header(assertion).get("alg") != "RS256":
            raise ApiError("invalid_assertion")
        # Only the signature: user_of() checks the claims, which have separate error answers.
        payload = jwt.PyJWS().decode(
            assertion, key, algorithms=["RS256"], options={"verify_signature": key is not None}
        )
        claims = json.loads(payload)
    except (jwt.PyJWTError, ValueError):
        raise ApiError("invalid_assertion") from None
    if not isinstance(claims, dict):
        raise ApiError("invalid_assertion")
    return claims


def public_key(path: str) -> RSAPublicKey:
    """Return the RSA key of a PEM file with a certificate or a public key.

    :raises ValueError: it contains neither.
    """
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415
    from cryptography.x509 import load_pem_x509_certificate  # noqa: PLC0415

    try:
        content = Path(path).read_bytes()
        certified = _CERTIFICATE in content
        key: Any = (
            load_pem_x509_certificate(content).public_key() if certified else load_pem_public_key(content)
        )
    except OSError as error:
        raise ValueError(f"certificate: {path} cannot be read: {error.strerror}.") from None
    except ValueError:
        key = None
    if not isinstance(key, RSAPublicKey):
        raise ValueError(f"certificate: {path} contains neither a certificate nor an RSA public key.")  # noqa: TRY004
    return key
