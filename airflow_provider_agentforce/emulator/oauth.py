"""The token endpoint of the org.

Source: https://developer.salesforce.com/docs/ai/agentforce/guide/agent-api-get-started.html; the error texts
are those of the platform's OAuth endpoint.
"""

from __future__ import annotations

import base64
import hmac
import time
from urllib.parse import parse_qs

from airflow_provider_agentforce.emulator.calls import Answer, Call, json_answer
from airflow_provider_agentforce.emulator.errors import ApiError
from airflow_provider_agentforce.emulator.org import CONSUMER_KEY, CONSUMER_SECRET, Org
from airflow_provider_agentforce.emulator.tokens import ORG_ID, SCOPE, USER_ID

_FORM = "application/x-www-form-urlencoded"
_SIGNATURE = base64.b64encode(b"emulator-signature").decode()


async def token(call: Call) -> Answer:
    """Answer ``POST /services/oauth2/token``."""
    _check_client(call)
    await call.org.wait_while_held("token")
    return json_answer(_token_body(call.org))


def _check_client(call: Call) -> None:
    if call.content_type() != _FORM:
        raise ApiError("wrong_grant_type")
    form = {key: values[0] for key, values in parse_qs(call.content.decode("utf-8", "replace")).items()}
    if form.get("grant_type") != "client_credentials":
        raise ApiError("wrong_grant_type")
    if form.get("client_id") != CONSUMER_KEY:
        raise ApiError("wrong_key")
    if not hmac.compare_digest(form.get("client_secret", "").encode(), CONSUMER_SECRET.encode()):
        raise ApiError("wrong_secret")
    if not call.org.settings.run_as_user:
        raise ApiError("no_run_as_user")


def _token_body(org: Org) -> dict[str, str]:
    access_token = org.tokens.issue(org_url=org.url, client_id=CONSUMER_KEY)
    org.changed()
    identity = f"https://login.salesforce.com/id/{ORG_ID}/{USER_ID}"
    if org.settings.seed:
        return {
            "access_token": access_token,
            "instance_url": org.url,
            "id": identity,
            "token_type": "Bearer",
            "issued_at": str(int(time.time())),
            "signature": _SIGNATURE,
        }
    token_format = {} if org.settings.opaque_tokens else {"token_format": "jwt"}
    return {
        "access_token": access_token,
        "signature": _SIGNATURE,
        **token_format,
        "scope": SCOPE,
        "instance_url": org.url,
        "id": identity,
        "token_type": "Bearer",
        "issued_at": str(int(time.time() * 1000)),
        "api_instance_url": org.url,
    }
