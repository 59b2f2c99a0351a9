"""Names the failure behind a reply or a broken connection, and what to do about it. Pure.

Symptoms and causes: https://developer.salesforce.com/docs/ai/agentforce/guide/agent-api-troubleshooting.html,
https://help.salesforce.com (client-credentials and JWT-bearer flow, login rate) and error bodies seen in
public code.

For a message, only the status and the error's class may say that the agent did not act: the words can come
from an agent's action that failed after it had changed something.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from airflow_provider_agentforce.client.delivery_policy import Delivery, Failure, Operation, failure_of_status
from airflow_provider_agentforce.client.responses import ErrorReply

_ANY = frozenset(Operation)
_TOKEN, _START, _SEND, _END, _FEEDBACK, _QUERY, _TRACE = (
    frozenset({one})
    for one in (
        Operation.TOKEN,
        Operation.START,
        Operation.SEND,
        Operation.END,
        Operation.FEEDBACK,
        Operation.QUERY,
        Operation.SESSION_TRACE,
    )
)
_TEST, _READ, _WRITE = (frozenset({one}) for one in (Operation.TEST, Operation.READ, Operation.WRITE))
# Served by the org's own host, or not documented; any kind of token is accepted.
_DATA = _QUERY | _TEST | _READ | _TRACE | _WRITE
_SESSION = _SEND | _END | _FEEDBACK
_BUT_SEND = _ANY - _SEND
_NEW_APP = "A new app can take up to ten minutes to become active."

ACTIVATE = "Activate a version of the agent in its builder, and check that its user may use it."
_INACTIVE = f"The agent is not active. {ACTIVATE}"
_MY_DOMAIN = "host must be the org's Current My Domain URL, such as https://acme.my.salesforce.com."
_MONITORING = "Setup > Einstein Audit, Analytics, and Monitoring Setup"
_TRACES = (
    f"An org keeps traces only with Data 360, Agentforce Session Tracing, and Audit and Feedback. Switch "
    f"them on in {_MONITORING}"
)
RUN_IN_DOUBT = (
    "Look in Testing Center. If there is such a run, AgentTestSensor waits for it by its id; clearing the "
    "task starts another run."
)
NO_AGENT_API = "That host does not serve the Agent API. Remove the extra api_url, or correct it."
OPAQUE_TOKEN = (
    "The token is opaque, and the Agent API accepts only JWTs: enable “Issue JSON Web Token (JWT)-based "  # noqa: S105
    "access tokens for named users” in the app."
)


# For a message whose delivery or answer is not known, these say what to do about the message.
HOW_TO_LOOK = (
    "Look at the record that the message was to change, and at the session in Salesforce: the agent's event "
    "log (Agentforce Builder) finds it by the session's id or its external session key."
)
_LOOK = (
    f'{HOW_TO_LOOK} In a task, on_unknown_delivery="resend" allows a repetition, and clearing the task sends '
    "the message again."
)
_SLOW_ACTION = "An Apex or Flow action may have timed out."
ANSWER_LOST = (
    "Only the answer is lost, so the message is not sent again. Read the answer in the agent's session in "
    'Salesforce. In a task, on_unknown_delivery="trace" can bring it back, and clearing the task sends the '
    "message again."
)
_CONNECT = "Check the host, its port, and anything in between, such as a proxy or a firewall."
_NOT_AN_ORG = (
    "The host does not answer like an org. Check host and api_url, and any proxy or gateway in between."
)
_LATER = "Try again later. If it persists, see https://status.salesforce.com, or open a case with Salesforce."
_AGAIN = "Clear the task to run it again."
_CALL = "The org refuses the call itself: correct what the error names, or open a case with Salesforce."
_BY_DELIVERY = {Delivery.UNKNOWN: _LOOK, Delivery.DELIVERED: ANSWER_LOST}
_BY_FAILURE = {
    Failure.UNREACHABLE: "Check the host and the network.",
    Failure.BAD_ROUTE: "Correct the environment variable: HTTPS_PROXY, ALL_PROXY or REQUESTS_CA_BUNDLE.",
    Failure.BAD_CERTIFICATE: "Fix the server's certificate, or name your CA in REQUESTS_CA_BUNDLE.",
    Failure.WRONG_PROTOCOL: "Check whether the URL begins with http or https, and its port.",
    Failure.TLS_BROKEN: _CONNECT,
    Failure.STOPPED_BEFORE: _AGAIN,
    Failure.CLIENT_CERTIFICATE: (
        "The host asks for a client certificate, which the client cannot send, or for another TLS version."
    ),
    Failure.BAD_REQUEST: _CALL,
    Failure.TOKEN_REFUSED: ("Check the consumer key (login), and the flow and the user that the app allows."),
    Failure.OAUTH_TEMPORARY: _LATER,
    Failure.ALREADY_DELIVERED: (
        "An earlier try delivered the message, and its answer is lost. Sending it again cannot bring "
        "the answer back: look at the agent's session in Salesforce."
    ),
    Failure.UNAUTHORIZED: (
        "The token is refused. Check the app's scopes (chatbot_api, sfap_api, api) and the user: Run "
        "As, or username."
    ),
    Failure.FORBIDDEN: (
        "Give the user (Run As, or username) access to the agent, and the app the scopes api, chatbot_api, "
        "sfap_api."
    ),
    Failure.NOT_FOUND: _NOT_AN_ORG,
    Failure.SESSION_GONE: "The session has ended or expired. Start a new one; its context is gone.",
    Failure.TOO_EARLY: _LATER,
    Failure.CONFLICT: _CALL,
    Failure.PRECONDITION: _CALL,
    Failure.PAYLOAD: _CALL,
    Failure.UNPROCESSABLE: f"{_SLOW_ACTION} {_LOOK}",
    Failure.LOCKED: (
        "The session is still working on another message. Send one message at a time; do not map sends."
    ),
    Failure.STILL_RUNNING: (
        f"The session is still working, probably on the message of an earlier try. {_LOOK}"
    ),
    Failure.THROTTLED: (
        "A limit of the org is reached. Run fewer tasks at once, or set max_concurrent_sessions and "
        "max_sessions_per_hour of the connection; a retry of the task may succeed."
    ),
    Failure.SERVER_CONFIG: _CALL,
    Failure.SERVER_ERROR: f"The API also answers 500 when its own timeout of 120 s ends. {_LOOK}",
    Failure.UNAVAILABLE: f"{_SLOW_ACTION} {_LOOK}",
    Failure.REDIRECT: "The host answers with a redirect, which is never followed. Check host and api_url.",
    Failure.OTHER_CLIENT_ERROR: _CALL,
}
# For a call that may be repeated, instead of those above.
_IF_HARMLESS = {
    Failure.RESET: _CONNECT,
    Failure.NO_REPLY: _CONNECT,
    Failure.STOPPED: _AGAIN,
    Failure.CUT_REPLY: _CONNECT,
    Failure.UNPROCESSABLE: _CALL,
    Failure.SERVER_ERROR: _LATER,
    Failure.BAD_GATEWAY: _LATER,
    Failure.UNAVAILABLE: _LATER,
    Failure.OTHER_SERVER_ERROR: _LATER,
    Failure.UNREADABLE: _NOT_AN_ORG,
    Failure.STREAM_CUT: _CONNECT,
}


def remedy_of_failure(failure: Failure) -> str:
    """Return what to do, as far as the failure alone shows, or ``""``."""
    return _BY_FAILURE.get(failure) or _BY_DELIVERY.get(failure.rule.delivery, "")


def remedy_if_harmless(failure: Failure) -> str:
    """Return what to do about a call that may be repeated, or ``""``."""
    return _IF_HARMLESS.get(failure, "") if failure.rule.about_a_message else remedy_of_failure(failure)


@dataclass(frozen=True)
class Symptom:
    """One kind of reply.

    :param operations: where it occurs.
    :param statuses: its HTTP statuses; empty: any.
    :param code: pattern that the whole error class or code matches.
    :param words: pattern that is searched in the error's class and words, ignoring case.
    :param opaque: the call carried a token that is not a JWT.
    :param failure: what it is; ``None``: what its status says.
    :param remedy: what to do; ``{agent}`` stands for the agent.
    :param jwt_remedy: what to do if the token was requested with ``jwt_bearer``; ``None``: the same.
    """

    operations: frozenset[Operation]
    remedy: str = ""
    statuses: tuple[int, ...] = ()
    code: str = ""
    words: str = ""
    opaque: bool = False
    failure: Failure | None = None
    jwt_remedy: str | None = None

    @property
    def exact(self) -> bool:
        """Whether it says more than the operation and the status do."""
        return bool(self.code or self.words or self.opaque)

    def remedy_with(self, auth: str) -> str:
        """Return what to do if the token was requested with *auth*."""
        return self.jwt_remedy if auth == "jwt_bearer" and self.jwt_remedy is not None else self.remedy

    def fits(self, operation: Operation, status: int | None, said: ErrorReply, opaque: bool = False) -> bool:
        """Return whether a reply is of this kind."""
        return (
            operation in self.operations
            and opaque >= self.opaque
            and (not self.statuses or status in self.statuses)
            and (not self.code or re.fullmatch(self.code, said.error) is not None)
            and (not self.words or re.search(self.words, said.text, re.IGNORECASE | re.DOTALL) is not None)
        )


# The failure is that of the first match that names one, and the remedy that of the first match that has one.
SYMPTOMS = (
    # Symptoms that prove more than the status does.
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
    # Documented for a wrong agent id; with a wrapped UNKNOWN_EXCEPTION it is an internal error of the org.
    Symptom(
        _START,
        "The org gives this answer for an unknown agent id. Check that {agent} is an agent of this org.",
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
    Symptom(_TOKEN, "", (400,), failure=Failure.TOKEN_REFUSED),
    Symptom(
        _FEEDBACK,
        "The session has ended or expired. Rate its answers before that.",
        (404, 410),
        failure=Failure.SESSION_GONE,
    ),
    Symptom(_SESSION, "", (404, 410), failure=Failure.SESSION_GONE),
    # The daily limit, or the limit of concurrent calls.
    Symptom(
        _TRACE,
        "The org has used up its API calls for today. Try again tomorrow.",
        (403,),
        words=r"REQUEST_LIMIT_EXCEEDED",
        failure=Failure.API_LIMIT,
    ),
    Symptom(
        _QUERY,
        "The org has used up its API calls for today. Give the agent's id (0Xx…), which is not looked up.",
        (403,),
        words=r"REQUEST_LIMIT_EXCEEDED",
        failure=Failure.API_LIMIT,
    ),
    Symptom(
        _READ | _WRITE,
        "The org has used up its daily API calls, or too many are made at once. Let the task's "
        "retries wait longer, or have Salesforce raise the limit.",
        (403,),
        words=r"REQUEST_LIMIT_EXCEEDED",
        failure=Failure.API_LIMIT,
    ),
    # Symptoms that only add a remedy.
    Symptom(
        _TRACE,
        "No data space is chosen for the audit data. Switch on Data 360, then Agentforce Session Tracing and "
        f"Audit and Feedback in {_MONITORING}.",
        words=r"no selected dataspace",
    ),
    Symptom(
        _TRACE,
        f"Switch on Audit and Feedback in {_MONITORING}; its data can take hours to appear.",
        words=r"GenAIFeedback__dlm",
    ),
    # With a JWT the first word names what is wrong: app, user, audience, key or clock.
    Symptom(
        _TOKEN,
        words=r"audience",
        jwt_remedy="Audience: the org does not accept it. Set the extra audience to the org's My Domain URL, "
        "to https://login.salesforce.com or, for a sandbox, to https://test.salesforce.com.",
    ),
    Symptom(
        _TOKEN,
        words=r"expired",
        jwt_remedy="Clock: to the org, the assertion was not valid at that time. Set the clock of this "
        "machine.",
    ),
    Symptom(
        _TOKEN,
        words=r"no client credentials user enabled",
        remedy="Set a Run As user in the app's Policies, under Client Credentials Flow.",
        jwt_remedy="",
    ),
    Symptom(
        _TOKEN,
        words=r"not supported on this domain",
        remedy="Set host to the org's My Domain URL.",
        jwt_remedy="",
    ),
    Symptom(
        _TOKEN,
        words=r"invalid_client_id|client identifier invalid",
        remedy=f"Check the consumer key (login). {_NEW_APP}",
        jwt_remedy=f"App: check the consumer key (login). {_NEW_APP}",
    ),
    Symptom(
        _TOKEN,
        words=r"invalid assertion|signature|invalid_client\b|invalid client credentials",
        remedy="Check the consumer secret (password).",
        jwt_remedy="Key: the org cannot verify the signature. The private key must belong to the certificate "
        "that the app has for its JWT Bearer Flow.",
    ),
    Symptom(
        _TOKEN,
        words=r"hasn't approved|not admin approved|invalid_app_access",
        remedy="Let the Run As user's profile or permission set use the app, in the app's Policies.",
        jwt_remedy="User: no user of this org with this username may use the app. Check username. In the "
        "app's Policies choose that admin-approved users are pre-authorized, and add a permission set of the "
        "user.",
    ),
    Symptom(
        _TOKEN,
        words=r"\buser\b|inactive_user|authentication failure",
        jwt_remedy="User: the org does not let username log in. Check that the user is active and not "
        "locked, has the API Enabled permission, and may log in at this time from this address.",
    ),
    Symptom(
        _TOKEN,
        words=r"app_not_found",
        remedy="This org does not know the External Client App. Install it in the org that host names, and "
        "wait up to ten minutes.",
        jwt_remedy="App or audience: install the External Client App in the org that host names, and wait up "
        "to ten minutes. If it is there, set the extra audience to the org's My Domain URL.",
    ),
    Symptom(
        _TOKEN,
        words=r"\bscope\b",
        remedy="The client-credentials flow accepts no scope parameter; the app's own scopes apply. This "
        "client sends none, so look for a proxy or gateway that adds one.",
        jwt_remedy="",
    ),
    Symptom(
        _TOKEN,
        words=r"unsupported_grant_type|grant type not supported",
        remedy="Enable the Client Credentials Flow of the app.",
        jwt_remedy="App: enable its JWT Bearer Flow, and upload the certificate of the private key.",
    ),
    Symptom(
        _TOKEN,
        words=r"maximum logins exceeded",
        remedy="The Run As user is the agent's own service user. Choose an integration user instead.",
        jwt_remedy="",
    ),
    Symptom(
        _START,
        words=r"bot version id",
        remedy="The agent was just published or its version is stale. Activate it again.",
    ),
    Symptom(
        _START,
        words=r"invalid user id provided on start session",
        remedy="An employee agent needs bypass_user=False and a token of a user who may use it (auth "
        "jwt_bearer).",
    ),
    Symptom(
        _START,
        words=r"not a valid agent id",
        remedy="agent_id must be the agent's own id (0Xx…) or its API name.",
    ),
    Symptom(_START, words=r"bad force-config endpoint|engine config", remedy=_MY_DOMAIN),
    Symptom(
        _START,
        words=r"no valid version available|active version|no access to einstein copilot",
        remedy=_INACTIVE,
    ),
    Symptom(
        _ANY - _QUERY - _TRACE,
        "Give the user (Run As, or username) the API Enabled permission, and the app the scopes api, "
        "chatbot_api, sfap_api.",
        words=r"not valid for use with the rest api",
    ),
    Symptom(
        _ANY - _TEST - _READ - _TRACE - _WRITE,
        NO_AGENT_API,
        (404,),
        words=r"url no longer exists",
    ),
    # A gateway answers a token that is not a JWT with a bare 404.
    Symptom(_ANY - _DATA, OPAQUE_TOKEN, (404,), opaque=True),
    # Remedies that follow from an operation and its status.
    Symptom(
        _TRACE,
        "A trace appears 5 to 15 minutes after a message, sometimes hours after it, and only for a session "
        f"that started within 72 hours. {_TRACES}.",
        (404, 410),
    ),
    Symptom(
        _TRACE,
        f"{_TRACES}. The app needs the scope api, and its user (Run As, or username) access to Agentforce.",
        (400, 401, 403),
    ),
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
    Symptom(_READ, "It does not exist in this org. Check its id or name.", (404,)),
    Symptom(
        _READ,
        "Correct the SOQL. An object or field may also be hidden from the user (Run As, or username).",
        (400,),
        words=r"MALFORMED_QUERY|INVALID_FIELD|INVALID_TYPE|INVALID_QUERY_FILTER_OPERATOR",
    ),
    Symptom(
        _READ,
        "Make the query smaller: select fewer fields, group less, or split it by dates or ids.",
        (400,),
        words=r"QUERY_TIMEOUT|QUERY_TOO_COMPLICATED|OPERATION_TOO_LARGE|EXCEEDED_ID_LIMIT",
    ),
    Symptom(
        _READ,
        "An address and its headers, the token among them, have at most 16,384 bytes. Split the query, for "
        "instance by ids.",
        (414, 431),
    ),
    Symptom(
        _READ | _WRITE,
        "The app needs the scope api, and its user (Run As, or username) API Enabled and permission for what "
        "is read or written: the records, or for agent tests the permission sets for AI testing and the AI "
        "workbench.",
        (401, 403),
    ),
    Symptom(_START, f"The agent is not activated for the Agent API. {ACTIVATE}", (412,)),
    Symptom(
        _START,
        "Check agent_id ({agent}), that Agentforce is on, the app's scopes (chatbot_api, sfap_api, api), and "
        "the extra api_url: https://api.gov.salesforce.com for Government Cloud, else none.",
        (404,),
    ),
    Symptom(
        _START,
        "The org also gives this answer for an unknown agent id. Check in Setup > Agentforce Agents "
        "that {agent} is an active agent of this org.",
        (500,),
    ),
    Symptom(_TOKEN, _MY_DOMAIN, (404, 410)),
    Symptom(
        _TOKEN,
        f"The host answers with a redirect, which is never followed: {_MY_DOMAIN}",
        tuple(range(300, 400)),
    ),
)

_NUMBER_USED = re.compile(r"sequence\W?id\W+\d*\W*\b(was |is |has been )?already\b", re.IGNORECASE)


def failure_of(
    operation: Operation,
    status: int,
    said: ErrorReply,
    *,
    session_id: str | None = None,
    repeated: bool = False,
) -> Failure:
    """Return the failure that a reply reports.

    :param session_id: the session that the call went to.
    :param repeated: the message was sent before, and its delivery is not known.
    """
    if repeated and status == 400 and _NUMBER_USED.search(said.text):  # noqa: PLR2004
        return Failure.ALREADY_DELIVERED
    if repeated and status == 423:  # noqa: PLR2004
        return Failure.STILL_RUNNING
    # An agent's action may also call sessions, so the words must name exactly this one.
    if status == 500 and session_id and said.message == f"V6Session not found for sessionId: {session_id}":  # noqa: PLR2004
        return Failure.SESSION_GONE
    named = (one.failure for one in SYMPTOMS if one.failure and one.fits(operation, status, said))
    return next(named, None) or failure_of_status(status)


def in_doubt(operation: Operation, failure: Failure) -> str:
    """Return what to do if the agent may have acted, ``""`` where a repetition does no harm."""
    if not failure.rule.about_a_message:
        return ""
    if operation is Operation.TEST:
        return RUN_IN_DOUBT
    return remedy_of_failure(failure) if operation is Operation.SEND else ""


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
    """Return the most exact remedy that is known, or ``""``.

    :param opaque_token: the call carried a token that is not a JWT, which a gateway answers with a 404.
    :param auth: how the token was requested.
    :param agent: the agent that the call is for.
    """
    about = in_doubt(operation, failure)
    if about:
        return about
    fitting = [
        one for one in SYMPTOMS if one.remedy_with(auth) and one.fits(operation, status, said, opaque_token)
    ]
    # A more exact symptom comes before an earlier one; without either, the failure's own remedy is used.
    best = min(fitting, key=lambda one: not one.exact, default=None)
    by_failure = remedy_if_harmless(failure)
    return (best.remedy_with(auth) if best else by_failure).format(agent=agent or "the agent")
