"""The emulated org: its settings, and its state: agents, sessions, limits and requests. It does not use HTTP.

Requests change it from the server's thread while a test reads it from another, hence the lock.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from airflow_provider_agentforce.emulator.errors import INACTIVE_AGENT, SESSION_GONE, ApiError
from airflow_provider_agentforce.emulator.faults import Fault, FaultQueue, Hold, check_operation
from airflow_provider_agentforce.emulator.models import (
    Agent,
    EvaluationRun,
    RequestRecord,
    SessionRecord,
    TurnRecord,
    is_agent_id,
    is_loopback,
)
from airflow_provider_agentforce.emulator.records import RecordStore
from airflow_provider_agentforce.emulator.script import Script
from airflow_provider_agentforce.emulator.sobjects import SObject, SObjectField
from airflow_provider_agentforce.emulator.soql import QueryResult

CONSUMER_KEY = "EMULATOR.consumer.key"
# Invented and the same for everyone: it gives access only to an emulator on this machine.
CONSUMER_SECRET = "emulator-consumer-secret"  # noqa: S105
_HOUR_S = 3600.0
_LANGUAGE = "$Context.EndUserLanguage"


@dataclass(frozen=True, kw_only=True)
class EmulatorSettings:
    """The settings of an :class:`Emulator`, and the options of the command ``agentforce-emulator``.

    :param port: TCP port; 0 picks a free one.
    :param host: a loopback address.
    :param tls: speak https, write the certificate of a new local CA to this PEM file, and start a proxy that
        redirects Salesforce's hosts here.
    :param mode: ``official``, or ``seed`` for the answer shapes of the original guide.
    :param token_lifetime: seconds until a token expires.
    :param opaque_tokens: issue tokens that are not JWTs; the Agent API answers those with a bare 404.
    :param reject_opaque: answer an opaque token with that 404; false accepts it.
    :param run_as_user: the app has a Run As user; false refuses tokens as an app without one does.
    :param certificate: PEM file with the certificate, or the public key, that the app has for the JWT-bearer
        flow; a token is issued only for an assertion that its private key has signed. None: any key is
        accepted.
    :param audience: the audience that an assertion may name, besides the address of the org.
    :param usernames: users who may use the app in the JWT-bearer flow, separated by commas; None: all.
    :param strict_sequence: accept only the last ``sequenceId`` plus one.
    :param max_concurrent_sessions: open sessions, above which a start answers 429.
    :param max_sessions_per_hour: starts within an hour, above which a start answers 429.
    :param max_messages_per_session: messages, above which a send answers 429.
    :param retry_after: seconds to send as ``Retry-After`` with those 429; None sends no such header.
    :param inactive_status: how an inactive agent answers a start.
    :param session_idle_timeout: seconds without a request after which a session is gone; None: never.
    :param gone_status: how a session that has ended, has expired or never existed answers.
    :param feedback_status: how feedback is accepted; the documents disagree.
    :param query_page_size: records in a page of a query's answer.
    :param latency: seconds that the agent takes for a message, unless the script says otherwise.
    :param session_tracing: the org keeps traces of its sessions; or the answer of an org that keeps none.
    :param trace_delay: seconds after which a message is in the trace of its session; its answer takes as long
        again.
    :param trace_window: seconds after its start for which a session has a trace.
    :param trace_without: a message with this text is in no trace.
    :param keep_alive: seconds that an idle connection is kept open.
    :raises ValueError: a value that is not valid; the message names the setting.
    """

    port: int = 0
    host: str = "127.0.0.1"
    tls: str | None = None
    mode: Literal["official", "seed"] = "official"
    token_lifetime: float = 1800.0
    opaque_tokens: bool = False
    reject_opaque: bool = True
    run_as_user: bool = True
    certificate: str | None = None
    audience: str = "https://login.salesforce.com"
    usernames: str | None = None
    strict_sequence: bool = False
    max_concurrent_sessions: int = 50
    max_sessions_per_hour: int = 1000
    max_messages_per_session: int = 100
    retry_after: float | None = None
    inactive_status: Literal[404, 412, 422, 500] = 404
    session_idle_timeout: float | None = None
    gone_status: Literal[404, 410, 500] = 404
    feedback_status: Literal[201, 202] = 201
    query_page_size: int = 2000
    latency: float = 0.0
    session_tracing: Literal["on", "no_dataspace", "no_feedback", "forbidden", "missing"] = "on"
    trace_delay: float = 0.0
    trace_window: float = 72 * _HOUR_S
    trace_without: str | None = None
    keep_alive: int = 5

    def __post_init__(self) -> None:
        if not is_loopback(self.host):
            raise ValueError(f"host must be a loopback address, not {self.host!r}.")
        for name, kind in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if get_origin(kind) is Literal and value not in get_args(kind):
                raise ValueError(f"{name} must be one of {get_args(kind)}, not {value!r}.")
            if isinstance(value, (int, float)) and value < 0:
                raise ValueError(f"{name} must not be negative: {value!r}.")
        if self.seed:
            # The original guide has no other tokens.
            object.__setattr__(self, "opaque_tokens", True)
            object.__setattr__(self, "reject_opaque", False)

    @property
    def seed(self) -> bool:
        """Whether answers have the shapes of the original guide."""
        return self.mode == "seed"


class Org:
    """One emulated org."""

    def __init__(
        self,
        settings: EmulatorSettings,
        agents: list[Agent],
        script: Script,
        sobjects: Sequence[SObject] | None = None,
    ) -> None:
        self.settings = settings
        self._first_agents = agents
        self.records = RecordStore(sobjects)
        self.script = script
        self.url = ""
        self.version = 0
        self.holds: dict[str, Hold] = {}
        self._lock = threading.RLock()
        self.reset()

    def reset(self) -> None:
        """Forget everything that happened or is programmed; keep settings, script and agents as they were."""
        with self._lock:
            for hold in self.holds.values():
                hold.release()
            self.holds.clear()
            self.faults = FaultQueue()
            # Every token issued, with the time at which it expires, in seconds since the epoch.
            self.tokens: dict[str, float] = {}
            # The username for whom each of them was issued.
            self.owners: dict[str, str] = {}
            self.sessions: dict[str, SessionRecord] = {}
            self.requests: list[RequestRecord] = []
            self.test_runs: dict[str, EvaluationRun] = {}
            # The remaining pages of queries.
            self.cursors: dict[str, QueryResult] = {}
            self.agents = self._first_agents
            self.records.reset()
            self._starts: deque[float] = deque()
            self.changed()

    def changed(self) -> None:
        """Notify the page that something happened."""
        self.version += 1

    def log(self, record: RequestRecord) -> None:
        """Record a request."""
        self.requests.append(record)
        self.changed()

    def fail(self, fault: Fault) -> Fault:
        """Program ``fault``, after those programmed before, and return it."""
        self.faults.add(fault)
        self.changed()
        return fault

    def hold(self, operation: str) -> Hold:
        """Hold the requests of ``operation`` from now on.

        :raises ValueError: an unknown operation, or one that is held already.
        """
        check_operation(operation)
        with self._lock:
            present = self.holds.get(operation)
            if present is not None and not present.released:
                raise ValueError(f"{operation!r} is held already.")
            self.holds[operation] = Hold(operation)
            return self.holds[operation]

    def add_token(self, token: str, username: str) -> None:
        """Accept ``token`` for this user until its lifetime is over."""
        self.owners[token] = username
        self.tokens[token] = time.time() + self.settings.token_lifetime
        self.changed()

    def accepts_token(self, token: str) -> bool:
        """Return whether ``token`` was issued here and neither expired nor revoked."""
        return time.time() < self.tokens.get(token, 0.0)

    def revoke_tokens(self) -> None:
        """Revoke every token issued so far."""
        self.tokens.update(dict.fromkeys(self.tokens, 0.0))
        self.changed()

    def usable_agent(self, agent_id: str) -> Agent:
        """Return the active agent with this id, in its 15- or 18-character form.

        :raises ApiError: not an agent id, or an unknown or inactive agent.
        """
        if not is_agent_id(agent_id):
            raise ApiError("invalid_agent_id", agent_id=agent_id)
        agent = next((agent for agent in self.agents if agent.id[:15] == agent_id[:15]), None)
        if agent is None:
            # The troubleshooting page gives 500 for a wrong agent id, the original guide 404.
            raise ApiError("not_found" if self.settings.seed else "unknown_agent")
        if not agent.active:
            raise ApiError(INACTIVE_AGENT[self.settings.inactive_status])
        return agent

    def add_session(self, session: SessionRecord) -> None:
        """Open a session.

        :raises ApiError: too many open sessions, or too many starts within an hour.
        """
        with self._lock:
            self._expire_idle()
            now = time.monotonic()
            while self._starts and now - self._starts[0] >= _HOUR_S:
                self._starts.popleft()
            open_now = sum(session.open for session in self.sessions.values())
            full = open_now >= self.settings.max_concurrent_sessions
            if full or len(self._starts) >= self.settings.max_sessions_per_hour:
                raise self._too_many()
            self.sessions[session.session_id] = session
            self._starts.append(now)
            self.changed()

    def lock_session(self, session_id: str) -> SessionRecord:
        """Lock an open session for one request, until :meth:`unlock_session`, and return it.

        :raises ApiError: the session has ended, or another request has locked it.
        """
        with self._lock:
            self._expire_idle()
            session = self.sessions.get(session_id)
            if session is None or not session.open:
                raise ApiError(SESSION_GONE[self.settings.gone_status], session_id=session_id)
            if session.busy:
                raise ApiError("session_locked")
            session.busy = True
            return session

    def unlock_session(self, session: SessionRecord) -> None:
        """Unlock the session for its next request."""
        with self._lock:
            session.busy = False
            session.used_at = time.monotonic()
            self.changed()

    def check_message(self, session: SessionRecord, sequence_id: float) -> None:
        """Refuse a message over the limit or, in strict mode, out of order.

        :raises ApiError: either of these.
        """
        if session.applied >= self.settings.max_messages_per_session:
            raise self._too_many()
        if not self.settings.strict_sequence:
            return
        used = [turn.sequence_id for turn in session.turns]
        if sequence_id in used:
            raise ApiError("sequence_id_used", sequence_id=sequence_id)
        if sequence_id != (used[-1] if used else 0) + 1:
            raise ApiError("invalid_sequence_id")

    def add_turn(self, session: SessionRecord, turn: TurnRecord) -> None:
        """Record that the agent acted on a message, and end the session if its answer says so."""
        with self._lock:
            again = next((old for old in session.turns if _same_message(old, turn)), None)
            if again is None:
                session.turns.append(turn)
            else:
                again.applied += 1
                again.messages, again.got_instead = turn.messages, turn.got_instead
            ended = next((m for m in turn.messages if m.get("type") == "SessionEnded"), None)
            if ended is not None:
                self.end_session(session, str(ended.get("reason", "Action")))
            self.changed()

    def end_session(self, session: SessionRecord, reason: str) -> None:
        """Close a session."""
        with self._lock:
            session.open = False
            session.end_reason = reason
            self.changed()

    def write(
        self, rows: Sequence[Mapping[str, Any]], *, upsert_by: SObjectField | None, all_or_none: bool
    ) -> list[dict[str, Any]]:
        """Write records, like :meth:`.RecordStore.write`."""
        with self._lock:
            results = self.records.write(rows, upsert_by=upsert_by, all_or_none=all_or_none)
            self.changed()
            return results

    def _expire_idle(self) -> None:
        limit = self.settings.session_idle_timeout
        if limit is None:
            return
        now = time.monotonic()
        for session in self.sessions.values():
            if session.open and not session.busy and now - session.used_at >= limit:
                self.end_session(session, "IdleTimeout")

    def _too_many(self) -> ApiError:
        after = self.settings.retry_after
        return ApiError("too_many_requests", headers={} if after is None else {"retry-after": f"{after:g}"})


def _same_message(old: TurnRecord, new: TurnRecord) -> bool:
    return (old.sequence_id, old.type, old.text) == (new.sequence_id, new.type, new.text)


def update_variables(session: SessionRecord, sent: dict[str, Any]) -> None:
    """Set variables during a session. Context variables are fixed from the start, except the user's language.

    Source: https://developer.salesforce.com/docs/ai/agentforce/guide/agent-api-variables.md
    """
    for name, value in sent.items():
        if not name.startswith("$Context.") or name == _LANGUAGE:
            session.variables[name] = value
