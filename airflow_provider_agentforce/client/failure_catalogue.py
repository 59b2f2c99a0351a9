"""Names the failure behind a reply or a break of the connection, and what to do about it. Pure.

Symptoms and causes: https://developer.salesforce.com/docs/ai/agentforce/guide/agent-api-troubleshooting.html,
https://help.salesforce.com (client-credentials and JWT-bearer flow, login rate) and error bodies seen in
public code.

For a message, only the status and the error's class may say that the agent did not act: the words can come
from an action of the agent that failed after it had changed something.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from airflow_provider_agentforce.client.delivery_policy import TABLE, Delivery, Failure, Operation
from airflow_provider_agentforce.client.responses import ErrorReply

_ANY = frozenset(Operation)
_TOKEN, _START, _SEND, _END, _FEEDBACK, _QUERY = (
    frozenset({one})
    for one in (
        Operation.TOKEN,
        Operation.START,
        Operation.SEND,
        Operation.END,
        Operation.FEEDBACK,
        Operation.QUERY,
    )
)
_TEST, _READ = frozenset({Operation.TEST}), frozenset({Operation.READ})
# Served by the org's own host, or not documented; a token of any kind will do.
_DATA = _QUERY | _TEST | _READ
_SESSION = _SEND | _END | _FEEDBACK
_BUT_SEND = _ANY - _SEND

ACTIVATE = "Activate a version of the agent in its builder, and check that its user may use it."
_INACTIVE = f"The agent is not active. {ACTIVATE}"
_MY_DOMAIN = "host must be the org's Current My Domain URL, such as https://acme.my.salesforce.com."
RUN_IN_DOUBT = (
    "Look in Testing Center. If there is such a run, AgentTestSensor waits for it by its id; clearing the "
    "task starts another run."
)
OPAQUE_TOKEN = (
    "The token is opaque, and the Agent API takes JWTs: enable “Issue JSON Web Token (JWT)-based "  # noqa: S105
    "access tokens for named users” in the app."
)


@dataclass(frozen=True)
class Symptom:
    """One kind of reply.

    :param operations: where it occurs.
    :param statuses: HTTP statuses it comes with; empty: any.
    :param code: pattern that the whole error class or code matches.
    :param words: pattern found in the error's class or words, in any case.
    :param opaque: the call carried a token that is not a JWT.
    :param auth: how the token was asked for; empty: either way.
    :param failure: what it is; ``None``: what its status says.
    :param remedy: what to do; ``{agent}`` stands for the agent.
    """

    operations: frozenset[Operation]
    remedy: str = ""
    statuses: tuple[int, ...] = ()
    code: str = ""
    words: str = ""
    opaque: bool = False
    auth: str = ""
    failure: Failure | None = None

    @property
    def exact(self) -> bool:
        """Whether it tells more than an operation and its status."""
        return bool(self.code or self.words or self.opaque)

    def fits(
        self,
        operation: Operation,
        status: int | None,
        said: ErrorReply,
        opaque: bool = False,
        auth: str = "",
    ) -> bool:
        """Tell whether a reply is of this kind."""
        return (
            operation in self.operations
            and opaque >= self.opaque
            and self.auth in {"", auth}
            and (not self.statuses or status in self.statuses)
            and (not self.code or re.fullmatch(self.code, said.error) is not None)
            and (not self.words or re.search(self.words, said.text, re.IGNORECASE | re.DOTALL) is not None)
        )


def _explained(operations: frozenset[Operation], remedies: dict[str, str], auth: str = "") -> list[Symptom]:
    """Return what only explains: patterns of words, and the remedy for each."""
    return [Symptom(operations, remedy, words=words, auth=auth) for words, remedy in remedies.items()]


# The first that fits and names a failure names it, and the first that fits and has a remedy gives it.
SYMPTOMS = (
    # What proves more than the status says.
    Symptom(_ANY, _INACTIVE, (422, 500), code=r"InactiveConfigException", failure=Failure.SERVER_CONFIG),
    Symptom(_ANY, _MY_DOMAIN, (422, 500), code=r"EngineConfigLookupException", failure=Failure.SERVER_CONFIG),
    Symptom(_BUT_SEND, _INACTIVE, (500,), words=r"config is not active", failure=Failure.SERVER_CONFIG),
    Symptom(_BUT_SEND, "", (500,), words=r"unsupported media type", failure=Failure.SERVER_CONFIG),
    Symptom(
        _START,
        "The agent has no custom connection of this type.",
        (500,),
        words=r"failed to populate planner surface",
        failure=Failure.SERVER_CONFIG,
    ),
    # Documented for a wrong agent id; with a wrapped UNKNOWN_EXCEPTION it is an accident inside the org.
    Symptom(
        _START,
        "The org answers like this to an unknown agent id. Check that {agent} is an agent of this org.",
        (500,),
        words=r"HttpServerErrorException(?!.*UNKNOWN_EXCEPTION)",
        failure=Failure.SERVER_CONFIG,
    ),
    Symptom(
        _START, _INACTIVE, (422,), words=r"cannot determine the active version", failure=Failure.SERVER_CONFIG
    ),
    Symptom(_END, "", (500,), words=r"session not found", failure=Failure.SESSION_GONE),
    Symptom(
        _ANY,
        "Add the app on the agent's Connections tab; a new token does not help.",
        (401,),
        words=r"not attached to agent",
        failure=Failure.APP_NOT_ATTACHED,
    ),
    Symptom(
        _ANY,
        "The token was refused several times, also after it was renewed. If other processes log in as the "
        "same app and user at the same time, try again in a few seconds.",
        (401,),
        words=r"\bINVALID_JWT_FORMAT\b",
        failure=Failure.INVALID_JWT,
    ),
    Symptom(
        _TOKEN,
        "",
        (400,),
        code=r"server_error|temporarily_unavailable|unknown_error",
        failure=Failure.OAUTH_TEMPORARY,
    ),
    Symptom(
        _TOKEN,
        "More than 3,600 logins in an hour for this user. Wait 15 to 30 minutes; run more records per task.",
        (400, 403),
        words=r"login rate exceeded",
        failure=Failure.LOGIN_RATE,
    ),
    # What only explains.
    Symptom(
        _QUERY,
        "The org's API calls of this day are used up. Give the agent's id (0Xx…), which is not looked up.",
        words=r"REQUEST_LIMIT_EXCEEDED",
    ),
    # The first word names what is wrong: app, user, audience, key or clock.
    *_explained(
        _TOKEN,
        {
            r"audience": (
                "Audience: the org does not take it. Set the extra audience to the org's My Domain URL, to "
                "https://login.salesforce.com or, for a sandbox, to https://test.salesforce.com."
            ),
            r"expired": (
                "Clock: to the org, the assertion was not valid at that time. Set the clock of this machine."
            ),
            r"invalid assertion|signature|invalid_client\b": (
                "Key: the org cannot verify the signature. The private key must belong to the certificate "
                "that the app has for its JWT Bearer Flow."
            ),
            r"hasn't approved|not admin approved|invalid_app_access": (
                "User: no user of this org with this username may use the app. Check username. In the app's "
                "Policies choose that admin-approved users are pre-authorized, and add a permission set of "
                "the user."
            ),
            r"\buser\b|inactive_user|authentication failure": (
                "User: the org does not let username log in. Check that the user is active and not locked, "
                "has the API Enabled permission, and may log in at this time from this address."
            ),
            r"app_not_found": (
                "App or audience: install the External Client App in the org that host names, and wait up to "
                "ten minutes. If it is there, set the extra audience to the org's My Domain URL."
            ),
            r"unsupported_grant_type|grant type not supported": (
                "App: enable its JWT Bearer Flow, and upload the certificate of the private key."
            ),
            r"invalid_client_id|client identifier invalid": (
                "App: check the consumer key (login). A new app can take up to ten minutes to become active."
            ),
        },
        auth="jwt_bearer",
    ),
    *_explained(
        _TOKEN,
        {
            r"no client credentials user enabled": (
                "Set a Run As user in the app's Policies, under Client Credentials Flow."
            ),
            r"not supported on this domain": "Set host to the org's My Domain URL.",
            r"invalid_client_id|client identifier invalid": (
                "Check the consumer key (login). A new app can take up to ten minutes to become active."
            ),
            r"invalid_client|invalid client credentials": "Check the consumer secret (password).",
            r"app_not_found": (
                "This org does not know the External Client App. Install it in the org that host names, and "
                "wait up to ten minutes."
            ),
            r"\bscope\b": (
                "The client-credentials flow takes no scope parameter; the app's own scopes apply. This "
                "client sends none, so look for a proxy or gateway that adds it."
            ),
            r"unsupported_grant_type|grant type not supported": (
                "Enable the Client Credentials Flow of the app."
            ),
            r"hasn't approved|not admin approved": (
                "Let the Run As user's profile or permission set use the app, in the app's Policies."
            ),
            r"maximum logins exceeded": (
                "The Run As user is the agent's own service user. Choose an integration user instead."
            ),
        },
    ),
    *_explained(
        _START,
        {
            r"bot version id": "The agent was just published or its version is stale. Activate it again.",
            r"invalid user id provided on start session": (
                "An employee agent needs bypass_user=False and a token of a user who may use it (auth "
                "jwt_bearer)."
            ),
            r"not a valid agent id": "agent_id must be the agent's own id (0Xx…) or its API name.",
            r"bad force-config endpoint|engine config": _MY_DOMAIN,
            r"no valid version available|active version|no access to einstein copilot": _INACTIVE,
        },
    ),
    Symptom(
        _ANY - _QUERY,
        "Give the user (Run As, or username) the API Enabled permission, and the app the scopes api, "
        "chatbot_api, sfap_api.",
        words=r"not valid for use with the rest api",
    ),
    Symptom(
        _ANY - _TEST - _READ,
        "That host does not serve the Agent API. Remove the extra api_url, or correct it.",
        (404,),
        words=r"url no longer exists",
    ),
    # A gateway answers a token that is not a JWT with a bare 404.
    Symptom(_ANY - _DATA, OPAQUE_TOKEN, (404,), opaque=True),
    # What an operation and its status tell.
    Symptom(
        _QUERY,
        "A name is looked up with the app's scope api, by a user (Run As, or username) who may use the API "
        "and see agents (BotDefinition). Or give the agent's id (0Xx…), which is not looked up.",
        (400, 401, 403, 404),
    ),
    Symptom(
        _TEST,
        "Check the test's API name, that Testing Center is on in this org, and that the user (Run As, or "
        "username) has the permission sets for AI testing and the AI workbench.",
        (400, 403, 404),
    ),
    Symptom(_READ, "It is not in this org, or not any more.", (404,)),
    Symptom(_START, f"The agent is not activated for the Agent API. {ACTIVATE}", (412,)),
    Symptom(
        _START,
        "Check agent_id ({agent}), that Agentforce is on, the app's scopes (chatbot_api, sfap_api, api), and "
        "for Government Cloud the extra api_url=https://api.gov.salesforce.com.",
        (404,),
    ),
    Symptom(
        _START,
        "The org also answers like this to an agent id it does not know. Check in Setup > Agentforce Agents "
        "that {agent} is an active agent of this org.",
        tuple(range(500, 600)),
    ),
)

# The remedy that the failure alone tells, for any call and for one.
_BY_FAILURE: dict[Failure | tuple[Operation, Failure], str] = {
    Failure.SESSION_GONE: "The session has ended or expired. Start a new one; its context is gone.",
    (Operation.FEEDBACK, Failure.SESSION_GONE): (
        "The session has ended or expired. Rate its answers before that."
    ),
    (Operation.SEND, Failure.LOCKED): (
        "The session is still working on another message. Send one message at a time; do not map sends."
    ),
    Failure.UNAUTHORIZED: (
        "The token is refused. Check the app's scopes (chatbot_api, sfap_api, api) and the user: Run As, or "
        "username."
    ),
    Failure.FORBIDDEN: "The user (Run As, or username) or the app's scopes lack access to this agent.",
    Failure.THROTTLED: "Slow down: a limit of the org is reached.",
    Failure.UNREACHABLE: "Check the host and the network.",
    Failure.BAD_ROUTE: "Correct the environment variable: HTTPS_PROXY, ALL_PROXY or REQUESTS_CA_BUNDLE.",
    Failure.BAD_CERTIFICATE: "Fix the server's certificate, or name your CA in REQUESTS_CA_BUNDLE.",
    Failure.WRONG_PROTOCOL: "Check whether the URL begins with http or https, and its port.",
    Failure.CLIENT_CERTIFICATE: (
        "The host asks for a client certificate, which the client cannot send, or for another TLS version."
    ),
    Failure.REDIRECT: "The host answers with a redirect, which is never followed. Check host and api_url.",
}
REMEDIES = frozenset({*(symptom.remedy for symptom in SYMPTOMS), *_BY_FAILURE.values()})

_BY_STATUS = {
    400: Failure.BAD_REQUEST,
    401: Failure.UNAUTHORIZED,
    403: Failure.FORBIDDEN,
    404: Failure.NOT_FOUND,
    408: Failure.TOO_EARLY,
    409: Failure.CONFLICT,
    410: Failure.NOT_FOUND,
    412: Failure.PRECONDITION,
    413: Failure.PAYLOAD,
    414: Failure.PAYLOAD,
    415: Failure.PAYLOAD,
    422: Failure.UNPROCESSABLE,
    423: Failure.LOCKED,
    425: Failure.TOO_EARLY,
    429: Failure.THROTTLED,
    500: Failure.SERVER_ERROR,
    502: Failure.BAD_GATEWAY,
    503: Failure.UNAVAILABLE,
    504: Failure.BAD_GATEWAY,
}
_BY_CLASS = {
    1: Failure.UNREADABLE,
    2: Failure.UNREADABLE,
    3: Failure.REDIRECT,
    4: Failure.OTHER_CLIENT_ERROR,
    5: Failure.OTHER_SERVER_ERROR,
}
# What a status means for calls that go to a session, to a session once more, or to the token endpoint.
_IN_SESSION = {404: Failure.SESSION_GONE, 410: Failure.SESSION_GONE}
_REPEATED = {**_IN_SESSION, 423: Failure.STILL_RUNNING}
_OF_TOKEN = {400: Failure.TOKEN_REFUSED}
_NUMBER_USED = re.compile(r"sequence\W?id\W+\d*\W*\b(was |is |has been )?already\b", re.IGNORECASE)


def failure_of(
    operation: Operation,
    status: int,
    said: ErrorReply,
    *,
    session_id: str | None = None,
    repeated: bool = False,
) -> Failure:
    """Name the failure that a reply is.

    :param session_id: the session that the call went to.
    :param repeated: the message was sent before, and what became of it is not known.
    """
    return (
        _of_this_message(status, said, session_id, repeated=repeated)
        or next((one.failure for one in SYMPTOMS if one.failure and one.fits(operation, status, said)), None)
        or _by_status(operation, status, repeated=repeated)
    )


def _of_this_message(
    status: int, said: ErrorReply, session_id: str | None, *, repeated: bool
) -> Failure | None:
    """Name the failure of a reply that is about the very message or session of the call."""
    if repeated and status == 400 and _NUMBER_USED.search(said.text):  # noqa: PLR2004
        return Failure.ALREADY_DELIVERED
    # An agent's action may talk to sessions, too, so the words must name this one and nothing else.
    if status == 500 and session_id and said.message == f"V6Session not found for sessionId: {session_id}":  # noqa: PLR2004
        return Failure.SESSION_GONE
    return None


def _by_status(operation: Operation, status: int, *, repeated: bool) -> Failure:
    special = _OF_TOKEN if operation is Operation.TOKEN else {}
    if operation in _SESSION:
        special = _REPEATED if repeated else _IN_SESSION
    by_status = special.get(status) or _BY_STATUS.get(status)
    return by_status or _BY_CLASS.get(status // 100, Failure.OTHER_SERVER_ERROR)


def remedy_of(
    operation: Operation,
    failure: Failure,
    *,
    status: int | None,
    said: ErrorReply,
    opaque_token: bool = False,
    auth: str = "",
    agent: str | None = None,
) -> str:
    """Return the most exact remedy known, or ``""``.

    :param opaque_token: the call carried a token that is not a JWT, which a gateway answers with a 404.
    :param auth: how the token was asked for.
    :param agent: the agent that the call is about.
    """
    row = TABLE[failure]
    if row.delivery in {Delivery.UNKNOWN, Delivery.DELIVERED}:
        if operation is Operation.SEND:
            return row.in_doubt
        if operation is Operation.TEST:
            return RUN_IN_DOUBT
    fitting = [
        one for one in SYMPTOMS if one.remedy and one.fits(operation, status, said, opaque_token, auth)
    ]
    # What tells more goes before what comes first; with neither, the failure has to do.
    best = min(fitting, key=lambda one: not one.exact, default=None)
    by_failure = _BY_FAILURE.get((operation, failure)) or _BY_FAILURE.get(failure, "")
    return (best.remedy if best else by_failure).format(agent=agent or "the agent")
