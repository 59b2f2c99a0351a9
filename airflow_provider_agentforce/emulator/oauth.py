"""The token endpoint of the org.

Source: https://developer.salesforce.com/docs/ai/agentforce/guide/agent-api-get-started.html and the help
pages on JWT-based access tokens and on the JWT-bearer flow; the error texts are those of the platform's
OAuth endpoint. The tokens are not signed, but have the shape, the claims and the length of real ones.
"""

from __future__ import annotations

import base64
import hmac
import json
import secrets
import time
import zlib
from urllib.parse import parse_qs

from airflow_provider_agentforce.emulator import assertions
from airflow_provider_agentforce.emulator.errors import ApiError
from airflow_provider_agentforce.emulator.exchange import OrgRequest, OrgResponse, json_response
from airflow_provider_agentforce.emulator.org import CONSUMER_KEY, CONSUMER_SECRET, Org

_JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_FORM = "application/x-www-form-urlencoded"
_ORG_ID = "00DEM0000000001EAA"
_USER_ID = "005EM0000000001AAA"
_SCOPE = "sfap_api chatbot_api api"
_SIGNATURE = base64.b64encode(b"emulator-signature").decode()
# Of a key of 2,048 bits.
_RS256_BYTES = 256


async def token(request: OrgRequest) -> OrgResponse:
    """Answer ``POST /services/oauth2/token``."""
    user_id = _user_of(request)
    await request.wait_while_held()
    settings = request.org.settings
    issued = _opaque_token() if settings.opaque_tokens else _jwt(request.org, user_id)
    request.org.add_token(issued)
    answer = {
        "access_token": issued,
        "signature": _SIGNATURE,
        "instance_url": request.org.url,
        "id": f"https://login.salesforce.com/id/{_ORG_ID}/{user_id}",
        "token_type": "Bearer",
        "issued_at": str(int(time.time() * 1000)),
    }
    if settings.seed:
        return json_response({**answer, "issued_at": str(int(time.time()))})
    kind = {} if settings.opaque_tokens else {"token_format": "jwt"}
    return json_response({**answer, **kind, "scope": _SCOPE, "api_instance_url": request.org.url})


def _user_of(request: OrgRequest) -> str:
    """Return the id of the user whom the token is for.

    :raises ApiError: no token is given.
    """
    body = request.record.body
    if request.content_type() != _FORM or not isinstance(body, str):
        raise ApiError("wrong_grant_type")
    form = {key: values[0] for key, values in parse_qs(body).items()}
    if form.get("grant_type") == _JWT_BEARER:
        username = assertions.user_of(form.get("assertion", ""), request.org)
        return f"005EM{zlib.crc32(username.lower().encode()):010d}AAA"
    if form.get("grant_type") != "client_credentials":
        raise ApiError("wrong_grant_type")
    _check_client(request, form)
    return _USER_ID


def _check_client(request: OrgRequest, form: dict[str, str]) -> None:
    if "scope" in form:
        raise ApiError("scope_not_supported")
    key, secret = _basic_credentials(request)
    if form.get("client_id", key) != CONSUMER_KEY:
        raise ApiError("wrong_key")
    if not hmac.compare_digest(form.get("client_secret", secret).encode(), CONSUMER_SECRET.encode()):
        raise ApiError("wrong_secret")
    if not request.org.settings.run_as_user:
        raise ApiError("no_run_as_user")


def _basic_credentials(request: OrgRequest) -> tuple[str, str]:
    """Return key and secret of HTTP Basic, which the endpoint takes in the place of the form's fields."""
    try:
        text = base64.b64decode(request.credentials("basic"), validate=True).decode()
    except ValueError:
        text = ""
    key, _, secret = text.partition(":")
    return key, secret


def _opaque_token() -> str:
    return f"{_ORG_ID[:15]}!{secrets.token_urlsafe(48)}"


def _jwt(org: Org, user_id: str) -> str:
    now = time.time()
    header = {
        "tnk": f"core/prod/{_ORG_ID}",
        "ver": "1.0",
        "kid": f"CORE_ATJWT.{_ORG_ID[:15]}.{int(now * 1000)}",
        "tty": "sfdc-core-token",
        "typ": "JWT",
        "alg": "RS256",
    }
    claims = {
        "scp": _SCOPE,
        "aud": [org.url, "https://api.salesforce.com"],
        "sub": f"uid:{user_id}",
        "nbf": int(now),
        "mty": "oauth",
        # As long as it takes to be as long as a real token, whose other claims are not published.
        "sfi": secrets.token_hex(265),
        "roles": [],
        "iss": org.url,
        "hsc": False,
        "exp": int(now + org.settings.token_lifetime),
        "iat": int(now),
        "client_id": CONSUMER_KEY,
    }
    texts = (json.dumps(part, separators=(",", ":")).encode() for part in (header, claims))
    parts = (*texts, secrets.token_bytes(_RS256_BYTES))
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)
