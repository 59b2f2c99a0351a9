"""Turns what the org says into what a person should do. Pure.

Symptoms and causes: https://developer.salesforce.com/docs/ai/agentforce/guide/agent-api-troubleshooting.html,
https://help.salesforce.com (client-credentials flow, login rate) and error bodies seen in public code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from airflow_provider_agentforce.client.calls import Operation
from airflow_provider_agentforce.client.policy import Failure

_ANY = frozenset(Operation)
_TOKEN, _START, _SEND = (frozenset({one}) for one in (Operation.TOKEN, Operation.START, Operation.SEND))
_QUERY, _FEEDBACK = frozenset({Operation.QUERY}), frozenset({Operation.FEEDBACK})
_SESSION = frozenset({Operation.SEND, Operation.END})

ACTIVATE = "Activate a version of the agent in its builder, and check that its user may use it."
_LOOK_AGAIN = "Look at the agent's session in Salesforce before you send the message again."


@dataclass(frozen=True)
class _Symptom:
    operations: frozenset[Operation]
    text: str
    remedy: str
    statuses: frozenset[int] | None = None


_BY_TEXT = (
    _Symptom(
        _QUERY,
        r"REQUEST_LIMIT_EXCEEDED",
        "The org's API calls of this day are used up. Give the agent's id (0Xx…), which is not looked up.",
    ),
    _Symptom(
        _QUERY,
        "",
        "A name is looked up with the app's scope api, by a Run As user who may use the API and see agents "
        "(BotDefinition). Or give the agent's id (0Xx…), which is not looked up.",
        frozenset({400, 401, 403, 404}),
    ),
    _Symptom(
        _TOKEN,
        r"no client credentials user enabled",
        "Set a Run As user in the app's Policies, under Client Credentials Flow.",
    ),
    _Symptom(_TOKEN, r"not supported on this domain", "Set host to the org's My Domain URL."),
    _Symptom(
        _TOKEN,
        r"invalid_client_id|client identifier invalid",
        "Check the consumer key (login). A new app takes up to ten minutes to be known.",
    ),
    _Symptom(_TOKEN, r"invalid_client|invalid client credentials", "Check the consumer secret (password)."),
    _Symptom(
        _TOKEN,
        r"unsupported_grant_type|grant type not supported",
        "Enable the Client Credentials Flow of the app.",
    ),
    _Symptom(
        _TOKEN,
        r"hasn't approved|not admin approved",
        "Let the Run As user's profile or permission set use the app, in the app's Policies.",
    ),
    _Symptom(
        _TOKEN,
        r"maximum logins exceeded",
        "The Run As user is the agent's own service user. Choose an integration user instead.",
    ),
    _Symptom(
        _TOKEN,
        r"login rate exceeded",
        "More than 3,600 logins in an hour for this user. Wait 15 to 30 minutes; run more records per task.",
    ),
    _Symptom(
        _START,
        r"invalid user id provided on start session",
        "An employee agent needs bypass_user=False and a token of a user who may use it.",
    ),
    _Symptom(_START, r"not a valid agent id", "agent_id must be the agent's own id (0Xx…) or its API name."),
    _Symptom(
        _START,
        r"bad force-config endpoint|EngineConfigLookupException|engine config",
        "host must be the org's Current My Domain URL, such as https://acme.my.salesforce.com.",
    ),
    _Symptom(
        _ANY,
        r"not attached to agent",
        "Add the app on the agent's Connections tab; a new token does not help.",
    ),
    _Symptom(
        _ANY,
        r"not valid for use with the rest api",
        "Give the Run As user the API Enabled permission, and the app the scopes api, chatbot_api, sfap_api.",
    ),
    _Symptom(
        _ANY,
        r"no valid version available|active version|no access to einstein copilot"
        r"|config is not active|InactiveConfigException",
        f"The agent is not active. {ACTIVATE}",
    ),
    _Symptom(
        _START, r"bot version id", "The agent was just published or its version is stale. Activate it again."
    ),
    _Symptom(_START, r"planner surface", "The agent has no custom connection of this type."),
    _Symptom(
        _START,
        r"HttpServerErrorException(?!.*UNKNOWN_EXCEPTION)",
        "Check agent_id; a wrong id is answered like this.",
    ),
    _Symptom(
        _SESSION,
        r"session not found",
        "The session has ended or expired. Start a new one; its context is gone.",
    ),
    _Symptom(
        _FEEDBACK,
        r"session not found",
        "The session has ended or expired. Rate its answers before that.",
    ),
    _Symptom(
        _ANY,
        r"url no longer exists",
        "That host does not serve the Agent API. Remove the extra api_url, or set it right.",
        frozenset({404}),
    ),
)

_BY_STATUS = (
    _Symptom(
        _START,
        "",
        "Check agent_id, that Agentforce is on, the app's scopes (chatbot_api, sfap_api, api), and for "
        "Government Cloud the extra api_url=https://api.gov.salesforce.com.",
        frozenset({404}),
    ),
    _Symptom(_SEND, "", "The session has ended or expired. Start a new one.", frozenset({404, 410})),
    _Symptom(
        _ANY,
        "",
        "The token is refused. Check the app's scopes (chatbot_api, sfap_api, api) and its Run As user.",
        frozenset({401}),
    ),
    _Symptom(_ANY, "", "The Run As user or the app's scopes lack access to this agent.", frozenset({403})),
    _Symptom(_ANY, "", "Slow down: a limit of the org is reached.", frozenset({429})),
    _Symptom(
        _SEND,
        "",
        "The session still works on another message. Send one message at a time; do not map sends.",
        frozenset({423}),
    ),
    _Symptom(
        _SEND,
        "",
        f"The API answers its own 120 s time-out like this. {_LOOK_AGAIN}",
        frozenset({500}),
    ),
    _Symptom(_SEND, "", f"An Apex or Flow action may have timed out. {_LOOK_AGAIN}", frozenset({422, 503})),
    _Symptom(_SEND, "", _LOOK_AGAIN, frozenset({502, 504})),
)

_BY_FAILURE = {
    Failure.UNREACHABLE: "Check the host and the network.",
    Failure.BAD_CERTIFICATE: "Fix the server's certificate, or name your CA in REQUESTS_CA_BUNDLE.",
    Failure.REDIRECT: "The host answers with a redirect, which is never followed. Check host and api_url.",
}
_SENT = {
    Failure.OTHER_SERVER_ERROR: _LOOK_AGAIN,
    Failure.RESET: _LOOK_AGAIN,
    Failure.NO_REPLY: _LOOK_AGAIN,
    Failure.STOPPED: _LOOK_AGAIN,
    Failure.CUT_REPLY: "Only the answer is lost.",
    Failure.UNREADABLE: "Only the answer is lost.",
    Failure.STREAM_CUT: "Only the end of the answer is lost.",
}

OPAQUE_TOKEN = (
    "The token is opaque, and the Agent API takes JWTs: enable “Issue JSON Web Token (JWT)-based "  # noqa: S105
    "access tokens for named users” in the app."
)


def hint(
    operation: Operation, failure: Failure, *, status: int | None, error_text: str, opaque_token: bool = False
) -> str:
    """Return the most exact remedy known, or ``""``.

    :param opaque_token: the call carried a token that is no JWT, which a gateway answers with a bare 404.
    """
    for symptom in _BY_TEXT:
        if _fits(symptom, operation, status) and re.search(symptom.text, error_text, re.IGNORECASE):
            return symptom.remedy
    if status == 404 and opaque_token and not error_text.strip():  # noqa: PLR2004
        return OPAQUE_TOKEN
    for symptom in _BY_STATUS:
        if _fits(symptom, operation, status):
            return symptom.remedy
    remedies = _BY_FAILURE | _SENT if operation is Operation.SEND else _BY_FAILURE
    return remedies.get(failure, "")


def _fits(symptom: _Symptom, operation: Operation, status: int | None) -> bool:
    return operation in symptom.operations and (symptom.statuses is None or status in symptom.statuses)
