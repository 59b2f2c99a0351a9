"""Write what an org's errors mean as Markdown, for docs/errors.md.

The org's words come from the emulator, the remedies from the client, and only the causes are written here. It
is an error if no row explains an answer of the emulator, or if no row shows a remedy.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass

import generated

from airflow_provider_agentforce.client import failure_catalogue, responses
from airflow_provider_agentforce.client.delivery_policy import Failure, Operation
from airflow_provider_agentforce.client.responses import ErrorReply
from airflow_provider_agentforce.client.settings import JWT_BEARER
from airflow_provider_agentforce.emulator.errors import ERRORS, render

TOKEN, QUERY, START = Operation.TOKEN, Operation.QUERY, Operation.START
SEND, FEEDBACK, TRACE = Operation.SEND, Operation.FEEDBACK, Operation.SESSION_TRACE
TEST, READ, WRITE = Operation.TEST, Operation.READ, Operation.WRITE
SESSION = "019d0aac-dcd0-7368-936c-106bffe75e84"
BLANKS = {
    "definition": "Order_Tests",
    "agent_id": "Order_Agent",
    "session_id": SESSION,
    "detail": "HttpServerErrorException",
}
# Answers to requests that this package does not send, or not in that form.
NOT_OURS = {
    *("bad_request", "unrecognized_field", "missing_property", "missing_sequence_id", "invalid_sequence_id"),
    *("not_acceptable", "unsupported_media_type", "not_found"),
    *(name for name in ERRORS if name.startswith(("rest_", "soap_"))),
    "bad_oauth_token",
    # The client tries again, and knows a used number as ALREADY_DELIVERED where it repeats a message.
    *("retry_request", "sequence_id_used"),
}


# An error of the emulator by its name, an answer that it does not give, or a failure without an answer.
Kind = str | tuple[int, str] | Failure


@dataclass(frozen=True)
class Symptom:
    """One row: what happens, and why."""

    operation: Operation
    cause: str
    kinds: tuple[Kind, ...]
    auth: str = ""

    @property
    def shown(self) -> str:
        """What the org says, or what happens instead."""
        return ", ".join(dict.fromkeys(_words(kind) for kind in self.kinds))

    @property
    def remedy(self) -> str:
        """What the provider's error says to do; all kinds of a row have the same."""
        (remedy,) = {_remedy(self.operation, kind, self.auth) for kind in self.kinds}
        return remedy


def row(operation: Operation, cause: str, *kinds: Kind, auth: str = "") -> Symptom:
    """Return one row."""
    return Symptom(operation, cause, kinds, auth)


def jwt_row(cause: str, *kinds: Kind) -> Symptom:
    """Return a row about the token of a named user."""
    return row(TOKEN, cause, *kinds, auth=JWT_BEARER)


INACTIVE = ("inactive_agent", "inactive_agent_422", "inactive_agent_412", "inactive_agent_500")
SECTIONS = {
    "Getting a token": [
        row(TOKEN, "the app has no Run As user", "no_run_as_user"),
        row(TOKEN, "`host` is not a My Domain", "wrong_domain"),
        row(TOKEN, "wrong secret", "wrong_secret"),
        row(TOKEN, "wrong key, or a new app", "wrong_key"),
        row(TOKEN, "the flow is not enabled", "wrong_grant_type"),
        row(TOKEN, "the app is not allowed for the Run As user", "app_not_approved"),
        row(TOKEN, "the Run As user is the agent's own", "max_logins"),
        row(TOKEN, "each try of each task is a login", "login_rate"),
        row(
            TOKEN,
            "the app is not installed in this org, or was installed minutes ago",
            (400, "app_not_found"),
        ),
        row(TOKEN, "a proxy adds a scope parameter", "scope_not_supported"),
        row(TOKEN, "wrong host, or the network blocks the connection", Failure.UNREACHABLE),
        row(TOKEN, "a proxy opens TLS, or a different host answers", Failure.BAD_CERTIFICATE),
        row(TOKEN, "the host is mistyped, or is not a My Domain", Failure.NOT_FOUND),
        row(TOKEN, "the host is an old or a custom domain", (302, "")),
        row(TOKEN, "something else answers, such as a login page of the network", Failure.UNREADABLE),
        row(
            TOKEN,
            "a wrong port, or a device in between that drops packets",
            *(Failure.TLS_BROKEN, Failure.RESET, Failure.NO_REPLY, Failure.CUT_REPLY),
        ),
        row(TOKEN, "the org, or a gateway before it, has a problem", "service_unavailable", "bad_gateway"),
        row(TOKEN, "the org refuses the login for another reason", Failure.TOKEN_REFUSED),
        row(TOKEN, "the URL's scheme or port is wrong", Failure.WRONG_PROTOCOL),
        row(TOKEN, "the host asks for a client certificate", Failure.CLIENT_CERTIFICATE),
        row(
            TOKEN,
            "a SOCKS proxy, a proxy without its user and password, or a file that does not exist",
            Failure.BAD_ROUTE,
        ),
    ],
    "Getting a token with `jwt_bearer`": [
        jwt_row("wrong consumer key, or a new app", "wrong_key"),
        jwt_row("the app's JWT Bearer Flow is off", "wrong_grant_type"),
        jwt_row(
            "a new app; an External Client App, and `audience` is not a My Domain", (400, "app_not_found")
        ),
        jwt_row("wrong `username`, or a user who may not use the app", "app_not_approved", "app_access"),
        jwt_row("the user is inactive, locked or lacks a permission", (400, "inactive_user")),
        jwt_row("the audience of production for a sandbox, or the reverse", "wrong_audience"),
        jwt_row("the key does not belong to the certificate", "invalid_assertion", "wrong_secret"),
        jwt_row("the worker's clock is off by minutes", "expired_assertion"),
    ],
    "Looking up an agent's name": [
        row(
            QUERY,
            "no scope `api`, or the Run As user may not see agents",
            "rest_session_expired",
            "forbidden",
        ),
        row(QUERY, "the org's API calls of the day are used up", "rest_request_limit"),
    ],
    "Starting a session": [
        row(START, "the app issues opaque tokens", "opaque_token"),
        row(START, "no such agent in this org, or no Agent API", Failure.NOT_FOUND),
        row(START, "`api_url` is My Domain", "wrong_host"),
        row(START, "no version of the agent is active, or its user may not use it", *INACTIVE),
        row(START, "the agent is not activated for the API", (412, "Invalid Config")),
        row(START, "the id of something else, or of another org", "invalid_agent_id"),
        row(START, "the agent is an employee agent", "employee_agent"),
        row(START, "wrong `host`", "bad_endpoint", "wrong_endpoint"),
        row(START, "an older org, which links the app to the agent", "app_not_attached"),
        row(START, "the Run As user lacks API access", "session_not_valid"),
        row(START, "the token is not accepted", "unauthorized"),
        row(START, "another process renewed its token a moment ago", "invalid_jwt_format"),
        row(START, "the user may not use this agent", "forbidden"),
        row(START, "just published, or a stale version", "stale_version"),
        row(START, "the agent has no connection of the requested type", "planner_surface"),
        row(START, "often a wrong agent id", "script_error"),
        row(START, "an internal error in the org, or a wrong agent id", "unexpected_error"),
        row(START, "too many sessions, or starts in an hour", "too_many_requests"),
        row(START, "an argument that the org does not take, such as a variable", Failure.BAD_REQUEST),
        row(START, "`api_url` is an old or a custom domain", Failure.REDIRECT),
        row(START, "the task was stopped", Failure.STOPPED_BEFORE, Failure.STOPPED),
    ],
    "Sending a message": [
        row(
            SEND, "ended, idle for too long, or of another org", "session_not_found", "session_not_found_500"
        ),
        row(SEND, "the same, in other words", "not_available"),
        row(SEND, "an earlier try delivered the message", Failure.ALREADY_DELIVERED),
        row(SEND, "the agent is still working on an earlier try's message", Failure.STILL_RUNNING),
        row(SEND, "two tasks use one session at the same time", "session_locked"),
        row(SEND, "a limit of the org", "too_many_requests"),
        row(SEND, "the agent took longer than 120 s, or failed", "unexpected_error", "unknown_agent"),
        row(SEND, "an action of the agent took too long", "service_unavailable"),
        row(SEND, "a gateway lost the answer", "bad_gateway", "gateway_timeout"),
        row(SEND, "the network, a proxy, or `timeout`", Failure.RESET, Failure.NO_REPLY, Failure.STOPPED),
        row(SEND, "the answer began and did not end", Failure.CUT_REPLY, Failure.UNREADABLE),
        row(SEND, "the same, while it was streamed", Failure.STREAM_CUT),
    ],
    "Rating an answer": [
        row(FEEDBACK, "ratings need an open session", "session_not_found"),
    ],
    "Reading a session's trace": [
        row(TRACE, "Data 360 is not set up for it", "rest_no_dataspace"),
        row(TRACE, "Audit and Feedback is off, or has just been switched on", "rest_no_feedback"),
        row(TRACE, "Agentforce Session Tracing is off, or no scope `api`", "rest_forbidden"),
        row(TRACE, "too early, too late, or no tracing", "rest_not_found"),
        row(TRACE, "the org's API calls of the day are used up", (403, "REQUEST_LIMIT_EXCEEDED")),
    ],
    "Running an agent test": [
        row(
            TEST,
            "no such test in this org, or a permission is missing",
            *("rest_unknown_evaluation", "rest_unknown_suite", "forbidden"),
        ),
        row(TEST, "the answer to the start is lost", Failure.RESET, Failure.NO_REPLY, Failure.UNREADABLE),
        row(READ, "the run was deleted, or belongs to another org", "rest_not_found"),
    ],
    "Reading and writing records": [
        row(
            READ,
            "the org does not understand the query, or the user may not see all of it",
            *((400, code) for code in ("MALFORMED_QUERY", "INVALID_FIELD", "INVALID_TYPE")),
        ),
        row(
            READ,
            "the query reads or groups too much",
            *((400, code) for code in ("QUERY_TIMEOUT", "QUERY_TOO_COMPLICATED", "EXCEEDED_ID_LIMIT")),
        ),
        row(READ, "the query is too long, together with the token", (414, ""), (431, "")),
        row(WRITE, "no scope `api`, or a permission is missing", "rest_session_expired", "forbidden"),
        row(WRITE, "too many API calls in 24 hours, or at once", "rest_request_limit"),
    ],
}


def tables() -> str:
    """Return a heading and a table for each section."""
    titles = ["what happens", "cause", "remedy"]
    return "\n".join(
        f"### {section}\n\n" + generated.table(titles, [[one.shown, one.cause, one.remedy] for one in rows])
        for section, rows in SECTIONS.items()
    )


def unexplained() -> list[str]:
    """Return the errors and the remedies that no row shows."""
    rows = [one for rows in SECTIONS.values() for one in rows]
    names = {kind for one in rows for kind in one.kinds}
    shown = {one.remedy for one in rows}
    known = {failure_catalogue.remedy_of_failure(failure) for failure in Failure}
    known |= set(map(failure_catalogue.remedy_if_harmless, Failure))
    for symptom in failure_catalogue.SYMPTOMS:
        known |= {_for_people(symptom.remedy), _for_people(symptom.jwt_remedy or "")}
    return sorted({*ERRORS} - names - NOT_OURS) + sorted(known - shown - {""})


def _words(kind: Kind) -> str:
    if kind is Failure.NOT_FOUND:
        return "404 of any other kind"
    if isinstance(kind, Failure):
        return kind.value
    status, said = _answer(kind)
    inner = re.search(r'"message":"([^"]+)"', said.message)
    words = (inner[1] if inner else said.message).strip(" :")
    return f"{status} `{words}`" if words else f"{status} without an explanation"


def _remedy(operation: Operation, kind: Kind, auth: str = "") -> str:
    if isinstance(kind, Failure):
        status = 404 if kind is Failure.NOT_FOUND else None
        return _for_people(
            failure_catalogue.remedy_of(
                operation, kind, status=status, said=ErrorReply("", ""), agent="{agent}"
            )
        )
    status, said = _answer(kind)
    failure = failure_catalogue.failure_of(operation, status, said, session_id=SESSION)
    opaque = kind == "opaque_token"
    return _for_people(
        failure_catalogue.remedy_of(
            operation, failure, status=status, said=said, opaque_token=opaque, auth=auth, agent="{agent}"
        )
    )


def _for_people(remedy: str) -> str:
    return remedy.replace("{agent}", "the agent")


def _answer(kind: str | tuple[int, str]) -> tuple[int, ErrorReply]:
    if isinstance(kind, tuple):
        status, words = kind
        return status, ErrorReply(words if words.isupper() else "", words)
    return ERRORS[kind].status, responses.error(render(ERRORS[kind], path="", values=BLANKS)[1])


if __name__ == "__main__":
    if missing := unexplained():
        sys.exit(f"No row of {sys.argv[0]} is about: {missing}")
    sys.exit(generated.command(str(__doc__), {"errors": tables()}))
