"""Checks a connection step by step. It opens a session only on request, and ends it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import urlsplit

from airflow_provider_agentforce.client import failure_catalogue, jwt_bearer, setup_paths, validation
from airflow_provider_agentforce.client.agent_lookup import AgentInfo, only_match
from airflow_provider_agentforce.client.checklist import (
    FAILED,
    OK,
    SKIPPED,
    WARNING,
    ConnectionCheck,
    Diagnosis,
)
from airflow_provider_agentforce.client.client import AgentforceClient
from airflow_provider_agentforce.client.delivery_policy import Failure, Operation
from airflow_provider_agentforce.client.responses import ErrorReply, TokenReply
from airflow_provider_agentforce.client.settings import JWT_BEARER, Settings
from airflow_provider_agentforce.exceptions import AgentforceError, AgentforceInputError

_NEEDED = frozenset({"api", "chatbot_api", "sfap_api"})
_NO_TLS = (
    Failure.BAD_CERTIFICATE,
    Failure.CLIENT_CERTIFICATE,
    Failure.TLS_BROKEN,
    Failure.WRONG_PROTOCOL,
)
# Something answers, but it is not an org.
_NO_ORG = (Failure.REDIRECT, Failure.NOT_FOUND, Failure.UNREADABLE)
# Seconds, see https://developer.salesforce.com/docs/ai/agentforce/guide/agent-api-considerations.html.
_API_GIVES_UP = 120


def diagnose(
    client: AgentforceClient,
    settings: Settings,
    limits_problem: AgentforceError | None = None,
    *,
    start_session: bool = False,
) -> Diagnosis:
    """Check a connection: its settings, the hosts, the token, the agent.

    :param settings: the connection's settings; those of *client* may have a shorter timeout.
    :param limits_problem: why the limits cannot be shared.
    :param start_session: also start a session with the default agent, and end it.
    :returns: one check for each name; none shows a secret.
    """
    of_org = _of_org(client, start_session=start_session)
    found = [_settings(settings), *of_org, _limits(settings, limits_problem)]
    return _completed(found, settings).redacted(client.redact)


def unusable(error: AgentforceInputError) -> Diagnosis:
    """Return the diagnosis of a connection that cannot be read as settings."""
    path = setup_paths.path_for_setting(error.what)
    return _completed([ConnectionCheck("settings", FAILED, error.fact, error.hint, path)], None)


def _completed(found: list[ConnectionCheck], settings: Settings | None) -> Diagnosis:
    """Return the checks in order, with those that were skipped."""
    known = {check.name: check for check in found}
    login = "secret" if settings is None else _login(settings)
    names = ("settings", "host", "TLS", login, "token", "scopes", "API host", "agent", "active", "start")
    return Diagnosis(
        tuple(
            known.get(name) or ConnectionCheck(name, SKIPPED, "not checked.") for name in (*names, "limits")
        )
    )


def _login(settings: Settings) -> str:
    return "key" if settings.auth == JWT_BEARER else "secret"


def _failed(name: str, error: AgentforceError, more: str = "") -> ConnectionCheck:
    fact = f"{error.fact} {more}".strip()
    return ConnectionCheck(
        name, FAILED, fact, error.hint, setup_paths.path_for(error.hint or error.what, name)
    )


def _settings(settings: Settings) -> ConnectionCheck:
    user = f", as {settings.username}" if settings.username else ""
    return ConnectionCheck("settings", OK, f"complete; {settings.auth}{user}.")


def _limits(settings: Settings, problem: AgentforceError | None) -> ConnectionCheck:
    if problem is not None:
        status = FAILED if isinstance(problem, AgentforceInputError) else WARNING
        return ConnectionCheck("limits", status, problem.fact, problem.hint)
    fact = (
        f"{settings.max_concurrent_sessions} sessions at once, {settings.max_sessions_per_hour} starts in an "
        f"hour, {settings.max_messages_per_session} messages in a session; {settings.timeout:g} s for a call."
    )
    if settings.timeout > _API_GIVES_UP:
        return ConnectionCheck("limits", OK, fact)
    remedy = (
        f"The API itself gives up after {_API_GIVES_UP} s. Set the extra timeout above that: the "
        "delivery of a message is unknown if the client does not wait for its answer."
    )
    return ConnectionCheck("limits", WARNING, fact, remedy)


def _of_org(client: AgentforceClient, *, start_session: bool) -> Iterator[ConnectionCheck]:
    try:
        token, api = client.authenticate()
    except AgentforceInputError as error:
        # The org issued a token, but the API host in its reply is not trusted.
        yield from _reached(client.settings)
        yield _failed("API host", error)
        return
    except AgentforceError as error:
        yield from _without_token(error, client.settings)
        return
    yield from _reached(client.settings, token)
    yield _token(token, client.settings)
    scopes = _scopes(token)
    yield scopes
    if token.is_jwt and scopes.status != FAILED:
        yield _api_host(client, api)
    yield from _agent(client, start_session=start_session)


def _without_token(error: AgentforceError, settings: Settings) -> Iterator[ConnectionCheck]:
    """Yield the checks up to the one that prevents a token."""
    failures = {one.name.lower(): one for one in Failure}
    failure, login = failures.get(error.failure or ""), _login(settings)
    if failure in _NO_ORG or (error.status is None and failure not in _NO_TLS):
        yield _no_org(error, settings)
        return
    yield _host_answers(settings)
    if failure in _NO_TLS:
        yield _failed("TLS", error)
        return
    yield _tls(settings)
    about_login = setup_paths.is_about_secret(error.hint)
    if not about_login:
        yield ConnectionCheck(login, WARNING, "not verified, because the org issued no token.")
    yield _failed(login if about_login else "token", error, _asked(settings))


def _no_org(error: AgentforceError, settings: Settings) -> ConnectionCheck:
    found, address = _failed("host", error), validation.address(settings.host)
    if address in found.fact:
        return found
    how = "does not answer" if error.status is None else "answers, but not like an org"
    return replace(found, fact=f"{address} {how}. {found.fact}")


def _reached(settings: Settings, token: TokenReply | None = None) -> Iterator[ConnectionCheck]:
    """Yield the checks that a token proves."""
    named = token.instance_url if token else None
    if named and named.rstrip("/").lower() != settings.host:
        fact = f"the org calls itself {named}, not {settings.host}."
        remedy = "Set host to that My Domain URL."
        yield ConnectionCheck("host", FAILED, fact, remedy, setup_paths.path_for(remedy))
    else:
        yield _host_answers(settings)
    yield _tls(settings)
    yield ConnectionCheck(_login(settings), OK, f"accepted by the org{_key(settings)}.")


def _host_answers(settings: Settings) -> ConnectionCheck:
    return ConnectionCheck("host", OK, f"{validation.address(settings.host)} answers.")


def _tls(settings: Settings) -> ConnectionCheck:
    if urlsplit(settings.host).scheme == "http":
        return ConnectionCheck("TLS", SKIPPED, "plain http, to this machine only.")
    return ConnectionCheck("TLS", OK, "the certificate is valid.")


def _key(settings: Settings) -> str:
    if settings.auth != JWT_BEARER:
        return ""
    return f"; the SHA-256 of its public key is {jwt_bearer.key_fingerprint(settings.signing_key)}"


def _asked(settings: Settings) -> str:
    """Return the values that the org compares with its own settings."""
    if settings.auth != JWT_BEARER:
        return ""
    return (
        f"Asked with consumer key {settings.consumer_key}, username {settings.username}, audience "
        f"{settings.audience}{_key(settings)}."
    )


def _token(token: TokenReply, settings: Settings) -> ConnectionCheck:
    if not token.is_jwt:
        remedy = failure_catalogue.OPAQUE_TOKEN
        return ConnectionCheck("token", FAILED, "not a JWT.", remedy, setup_paths.path_for(remedy))
    life = "of unknown lifetime" if token.lifetime is None else f"for {token.lifetime / 60:.0f} minutes"
    user = f", for {settings.username}" if settings.username else ""
    return ConnectionCheck("token", OK, f"a JWT {life}{user}.")


def _scopes(token: TokenReply) -> ConnectionCheck:
    if token.scopes is None:
        return ConnectionCheck("scopes", WARNING, "the org does not say which the token has.")
    given, lacking = " ".join(sorted(token.scopes)), ", ".join(sorted(_NEEDED - token.scopes))
    if not lacking:
        return ConnectionCheck("scopes", OK, f"{given}.")
    remedy = f"The app lacks the scopes {lacking}: add them."
    return ConnectionCheck("scopes", FAILED, f"{given}.", remedy, setup_paths.path_for("", "scopes"))


def _api_host(client: AgentforceClient, api: str) -> ConnectionCheck:
    try:
        said = client.probe()
    except AgentforceError as error:
        return _failed("API host", error)
    if "session" in said.text.lower():
        return ConnectionCheck("API host", OK, f"{api} accepts the token.")
    fact = f"{api} does not answer like an Agent API: {said.text or 'no explanation'}."
    remedy = _without_api(client.settings, said)
    # A gateway or another server answers without the class that each error of the API has.
    return ConnectionCheck(
        "API host", WARNING if said.error else FAILED, fact, remedy, setup_paths.path_for(remedy)
    )


def _without_api(settings: Settings, said: ErrorReply) -> str:
    if settings.api_url is not None and not said.error:
        return failure_catalogue.NO_AGENT_API
    return failure_catalogue.remedy_of(
        Operation.START, Failure.NOT_FOUND, status=404, said=said, agent=settings.agent_id
    )


def _agent(client: AgentforceClient, *, start_session: bool) -> Iterator[ConnectionCheck]:
    given = client.settings.agent_id
    if given is None:
        fact = "the connection names none, so tasks must."
        yield ConnectionCheck("agent", SKIPPED, fact)
        yield ConnectionCheck("start", SKIPPED, "not tried without an agent.")
        return
    try:
        found = client.find_agents(given)
    except AgentforceError as error:
        usable = validation.is_agent_id(given)
        yield _not_looked_up(given, error) if usable else _failed("agent", error)
    else:
        checks = list(_looked_up(given, found, client.settings.host))
        yield from checks
        usable = all(check.status == OK for check in checks)
    if start_session and usable:
        yield _start(client)
    elif not start_session:
        yield ConnectionCheck("start", SKIPPED, "not tried; no session was started.")


def _not_looked_up(agent_id: str, error: AgentforceError) -> ConnectionCheck:
    fact = f"{agent_id} could not be looked up; tasks do not look up ids either."
    return ConnectionCheck("agent", WARNING, fact, error.hint, setup_paths.path_for(error.hint))


def _looked_up(given: str, found: list[AgentInfo], host: str) -> Iterator[ConnectionCheck]:
    if len(found) == 1:
        agent = found[0]
        yield ConnectionCheck("agent", OK, f"{agent.name}, {agent.agent_id}.")
    try:
        only_match(given, found, host)
    except AgentforceError as error:
        yield _failed("active" if len(found) == 1 else "agent", error)
    else:
        yield ConnectionCheck("active", OK, "one of its versions is active.")


def _start(client: AgentforceClient) -> ConnectionCheck:
    try:
        session = client.start_session()
    except AgentforceError as error:
        return _failed("start", error)
    if client.end_quietly(session):
        return ConnectionCheck("start", OK, f"session {session.session_id} was started and ended.")
    return ConnectionCheck(
        "start", WARNING, f"session {session.session_id} was started and may still be open."
    )
