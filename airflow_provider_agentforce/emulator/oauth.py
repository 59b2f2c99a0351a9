"""The tokens of the org: the token endpoint, the user of a token, and the token for a logged-in session.

Source: https://developer.salesforce.com/docs/ai/agentforce/guide/agent-api-get-started.html and the help
pages on JWT-based access tokens and on the JWT-bearer flow; the error texts are those of the platform's
OAuth endpoint. The tokens are not signed, but have the shape, the claims and the length of real ones.
"""

from __future__ import annotations

import base64
import hmac
import json
import re
import secrets
import time
from urllib.parse import parse_qs

from airflow_provider_agentforce.emulator import assertions
from airflow_provider_agentforce.emulator.errors import ApiError
from airflow_provider_agentforce.emulator.exchange import OrgRequest, OrgResponse, json_response
from airflow_provider_agentforce.emulator.models import ORG_ID, USERNAME, user_id_of
from airflow_provider_agentforce.emulator.org import CONSUMER_KEY, CONSUMER_SECRET, Org

_JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_FORM = "application/x-www-form-urlencoded"
_SCOPE = "sfap_api chatbot_api api"
_SID = re.compile(r"(?:^|;\s*)sid=([^;]+)")
_SIGNATURE = base64.b64encode(b"emulator-signature").decode()
# The length of a signature with a 2,048-bit key.
_RS256_BYTES = 256


async def token(request: OrgRequest) -> OrgResponse:
    """Answer ``POST /services/oauth2/token``."""
    username = _user_of(request)
    await request.wait_while_held()
    settings = request.org.settings
    issued = _opaque_token() if settings.opaque_tokens else _jwt(request.org, username)
    request.org.add_token(issued, username)
    answer = {
        "access_token": issued,
        "signature": _SIGNATURE,
        "instance_url": request.org.url,
        "id": _identity(username),
    }
    if settings.seed:
        return json_response({**answer, "token_type": "Bearer", "issued_at": str(int(time.time()))})
    kind = {} if settings.opaque_tokens else {"token_format": "jwt"}
    return json_response({**answer, **kind, **_access(request.org)})


def _access(org: Org) -> dict[str, str]:
    """Return the part of the response that is the same for every token."""
    return {
        "scope": _SCOPE,
        "token_type": "Bearer",
        "issued_at": str(int(time.time() * 1000)),
        "api_instance_url": org.url,
    }


def _identity(username: str) -> str:
    return f"https://login.salesforce.com/id/{ORG_ID}/{user_id_of(username)}"


def _user_of(request: OrgRequest) -> str:
    """Return the name of the token's user.

    :raises ApiError: no token is issued.
    """
    body = request.record.body
    if request.content_type() != _FORM or not isinstance(body, str):
        raise ApiError("wrong_grant_type")
    form = {key: values[0] for key, values in parse_qs(body).items()}
    if form.get("grant_type") == _JWT_BEARER:
        return assertions.user_of(form.get("assertion", ""), request.org)
    if form.get("grant_type") != "client_credentials":
        raise ApiError("wrong_grant_type")
    _check_client(request, form)
    return USERNAME


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
    """Return key and secret of HTTP Basic, which the endpoint accepts instead of the form's fields."""
    try:
        text = base64.b64decode(request.credentials("basic"), validate=True).decode()
    except ValueError:
        text = ""
    key, _, secret = text.partition(":")
    return key, secret


def _opaque_token() -> str:
    return f"{ORG_ID[:15]}!{secrets.token_urlsafe(48)}"


def _jwt(org: Org, username: str) -> str:
    now = time.time()
    header = {
        "tnk": f"core/prod/{ORG_ID}",
        "ver": "1.0",
        "kid": f"CORE_ATJWT.{ORG_ID[:15]}.{int(now * 1000)}",
        "tty": "sfdc-core-token",
        "typ": "JWT",
        "alg": "RS256",
    }
    claims = {
        "scp": _SCOPE,
        "aud": [org.url, "https://api.salesforce.com"],
        "sub": f"uid:{user_id_of(username)}",
        "nbf": int(now),
        "mty": "oauth",
        # Padded to the length of a real token, whose other claims are not published.
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


async def user_info(request: OrgRequest) -> OrgResponse:
    """Answer ``GET /services/oauth2/userinfo``: the user of the token."""
    request.authorize("bad_oauth_token")
    username = request.org.owners[request.credentials("bearer")]
    about = {
        "sub": _identity(username),
        "user_id": user_id_of(username),
        "organization_id": ORG_ID,
        "preferred_username": username,
        "name": username.partition("@")[0],
        "email": username,
        "email_verified": True,
        "zoneinfo": "America/Los_Angeles",
        "locale": "en_US",
        "language": "en_US",
        "user_type": "STANDARD",
        "active": True,
        "urls": {"rest": f"{request.org.url}/services/data/v{{version}}/"},
    }
    return json_response(about)


async def named_user(request: OrgRequest) -> OrgResponse:
    """Answer ``GET /agentforce/bootstrap/nameduser``: a JWT for the session in the cookie ``sid``.

    It is not documented; https://github.com/forcedotcom/agents logs in like this.
    """
    session = _SID.search(request.headers.get("cookie", ""))
    if session is None or not request.org.accepts_token(session[1]):
        raise ApiError("rest_session_expired")
    username = request.org.owners[session[1]]
    issued = _jwt(request.org, username)
    request.org.add_token(issued, username)
    return json_response({"access_token": issued, "token_format": "jwt", **_access(request.org)})
