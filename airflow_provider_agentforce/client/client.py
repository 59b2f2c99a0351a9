"""The Agent API as a Python object, without Airflow."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce.client import agent_lookup, org_state, plans, validation
from airflow_provider_agentforce.client.agent_lookup import AgentInfo
from airflow_provider_agentforce.client.answer_reader import MAX_TRACE_BYTES
from airflow_provider_agentforce.client.api_requests import (
    AgentQuery,
    EndRequest,
    FeedbackRequest,
    SendRequest,
    SessionTraceRequest,
    StartRequest,
    query_url,
)
from airflow_provider_agentforce.client.attempt import CallOptions
from airflow_provider_agentforce.client.budget import MESSAGES, SESSIONS, Budget, BudgetCharge, Spending
from airflow_provider_agentforce.client.call_errors import answer_interrupted
from airflow_provider_agentforce.client.call_events import Observer
from airflow_provider_agentforce.client.concurrency_limiter import Slot
from airflow_provider_agentforce.client.delivery_policy import Failure
from airflow_provider_agentforce.client.executor import CLEANUP_SECONDS, RequestExecutor
from airflow_provider_agentforce.client.messages import Message, MessageLike, message_of
from airflow_provider_agentforce.client.models import Session, SessionLike, SessionOptions, Turn, session_from
from airflow_provider_agentforce.client.open_session import Conversation
from airflow_provider_agentforce.client.responses import ErrorReply, TokenReply
from airflow_provider_agentforce.client.session_trace import SessionTrace
from airflow_provider_agentforce.client.settings import Settings
from airflow_provider_agentforce.client.timing import Timing, default_timing
from airflow_provider_agentforce.client.token_source import TokenSource
from airflow_provider_agentforce.client.transport import Transport
from airflow_provider_agentforce.exceptions import (
    AgentforceError,
    AgentforceInputError,
    AgentforceRequestError,
    AgentforceTransientError,
    RateLimitedError,
    remade,
)
from airflow_provider_agentforce.redaction import Redactor

if TYPE_CHECKING:
    from airflow_provider_agentforce.client.agent_tests import AgentTests
    from airflow_provider_agentforce.client.limits_store import LimitsStore
    from airflow_provider_agentforce.client.records import Records

log = logging.getLogger(__name__)

_MOST_IDLE_CONNECTIONS = 200
# A stop is noticed after at most this many seconds.
_SLICE = 0.1
# The planner's steps are useful, but not worth a long wait.
_PLAN_SECONDS = 10.0
_VERSION_SECONDS = 10.0


class AgentforceClient:
    """Talks to the agents of one org. It can be shared between threads and does not need Airflow.

    :param settings: how to reach the org.
    :param on_secret: receives every access token when it is issued, and every assertion when it is signed, in
        all forms that a log must mask.
    :param observers: receive every call, each an
        :data:`~airflow_provider_agentforce.client.call_events.Observer`.
    :param timing: waits and clock; default:
        :func:`~airflow_provider_agentforce.client.timing.default_timing`.
    :param limits: the store of the org's limits for all processes, a
        :class:`~airflow_provider_agentforce.client.limits_store.LimitsStore`; default: this process.
    :ivar limiter: the org's limiter, shared by all clients of this process.

    For failures of the org or the network, every method raises an
    :class:`~airflow_provider_agentforce.exceptions.AgentforceError` and nothing else. The client repeats a
    message by itself only if the agent cannot have acted on it.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        on_secret: Callable[[str], None] = lambda _: None,
        observers: Sequence[Observer] = (),
        timing: Timing | None = None,
        limits: LimitsStore | None = None,
    ) -> None:
        self.settings = settings
        self.timing = timing or default_timing()
        org = org_state.state_of(settings, limits)
        self._limits = org.limits
        self._spending: Spending | None = None
        self.limiter, self._agent_ids, self._agent_versions = org.limiter, org.agent_ids, org.agent_versions
        executor = RequestExecutor(
            Transport(max_idle=min(settings.max_concurrent_sessions, _MOST_IDLE_CONNECTIONS)),
            timeout=settings.timeout,
            timing=self.timing,
            redactor=Redactor(settings.secrets, on_secret),
            observers=observers,
            on_throttled=self.limiter.throttled,
        )
        self._tokens = TokenSource(settings, executor)
        self._executor = self._tokens.executor()

    def agent(self, agent_id: str | None = None) -> str:
        """Return the id (``0Xx…``) of an agent given by id or API name; default: the agent of the settings.

        An id is returned unchanged. A name is looked up in the org, once for all clients and threads of the
        process; the result is kept for ten minutes, or until a start with it fails.

        :raises AgentforceError: the org has no agent with that name, or several, or the agent has no active
            version; or the query fails.
        """
        agent = self.settings.agent(agent_id)
        if validation.is_agent_id(agent):
            return agent
        return self._agent_ids.id_of(
            agent,
            lambda: agent_lookup.only_match(agent, self.find_agents(agent), self.settings.host).agent_id,
            self._executor.deadline,
            longest=self.settings.timeout,
        )

    def find_agents(self, agent: str) -> list[AgentInfo]:
        """Ask the org for the agents with this id or API name: none, one, or several of the same name."""
        query = agent_lookup.query_for(validation.agent(agent))
        request = AgentQuery(url=query_url(self.settings.host, query))
        page = self._executor.execute(request).value
        found = agent_lookup.parse_agents(page["records"])
        self._agent_versions.note(found, self.timing.clock() + self.timing.version_pause)
        return found

    def agent_version(self, agent_id: str | None = None) -> str | None:
        """Return the id of an agent's active version, as seen within the last minute.

        :param agent_id: id or API name; default: the agent of the settings.
        :returns: ``None`` if there is no active version, or if the token may not see it, which is logged.
        :raises AgentforceError: the org refuses the connection.
        """
        try:
            client = self.within(_VERSION_SECONDS)
            agent = client.agent(agent_id)
            if not self._agent_versions.is_known(agent, self.timing.clock()):
                client.find_agents(agent)
        except AgentforceError as error:
            if error.operation == "token" and not error.retryable:
                raise
            # Where the start fails for the same reason, its error says so.
            same = error.operation == "token" or error.failure is None
            level = logging.DEBUG if same else logging.INFO
            log.log(level, "The version of the agent is not known: %s", error.what)
            return None
        return self._agent_versions.of(agent, self.timing.clock())

    def start_session(
        self,
        agent_id: str | None = None,
        *,
        variables: Any = None,
        tz: str | None = None,
        bypass_user: bool | None = None,
        external_session_key: str | None = None,
        surface_type: str | None = None,
        slot: Slot | None = None,
        before_send: Callable[[str | None], None] | None = None,
    ) -> Session:
        """Start a session with an agent.

        The first six parameters are those of :class:`.SessionOptions`, the others those of :meth:`start`.

        :raises AgentforceError: the session was not started, or it is not known whether it was.
        """
        options = SessionOptions(agent_id, variables, tz, bypass_user, external_session_key, surface_type)
        return self.start(options, slot=slot, before_send=before_send)

    def start(
        self,
        options: SessionOptions,
        *,
        slot: Slot | None = None,
        before_send: Callable[[str | None], None] | None = None,
    ) -> Session:
        """Start a session with an agent.

        If a start is repeated although the first one may have arrived, the repetition gets a new external
        session key, which is in the returned session.

        The session names the agent's version if it was looked up within the last minute, such as by
        :meth:`agent_version`.

        :param slot: a slot that the caller took from :attr:`limiter`, if the caller does the waiting: the
            method raises :class:`RateLimitedError` at once if the org refuses because of its limits. If the
            start fails, the caller frees the slot. Default: wait for a slot, and for the org, up to a minute.
        :param before_send: as in :class:`.CallOptions`.
        :raises AgentforceError: the session was not started, or it is not known whether it was.
        """
        request = self._start_request(options)
        charge = BudgetCharge(self._spending, SESSIONS, before_send)
        charged = CallOptions(before_send=charge.charge, wait_for_limits=slot is None)
        session: Session | None = None
        taken = slot
        try:
            taken = slot or self._slot()
            if self._spending is not None:
                self._spending.check()
            session = self._executor.execute(request, charged).value
            self.limiter.started(taken, session.session_id)
            version = self._agent_versions.of(request.agent_id, self.timing.clock())
            return Session(**{**vars(session), "agent_version": version})
        except BaseException as error:
            charge.failed(error)
            if slot is None and taken is not None:
                self.limiter.release(taken)
            self._after_failed_start(request.agent_id, error, session)
            raise

    def send_message(
        self,
        session: SessionLike,
        text: MessageLike,
        *,
        variables: Any = None,
        in_reply_to: str | None = None,
        stream: bool = False,
        on_chunk: Callable[[dict[str, Any]], None] | None = None,
        repeated: bool = False,
        before_send: Callable[[str | None], None] | None = None,
    ) -> Turn:
        """Send the next message of a session and return the agent's answer.

        :param session: a :class:`Session`, the last :class:`Turn`, or the dict of either.
        :param text: the message, or a :class:`.Reply`, :class:`.Cancel` or :class:`.Transfer`. Its number is
            the session's ``sequence_id`` plus one, even if it is repeated.
        :param variables: context variables to set with this message.
        :param in_reply_to: id of the message that a text answers.
        :param stream: receive the answer in pieces; the result is the same.
        :param on_chunk: receives each streamed message (a dict with ``type``) as it arrives. An exception
            that it raises is logged and has no effect, and its time does not count towards the call.
        :param repeated: this message was sent before, and its delivery is not known. The method then raises
            :class:`DeliveryUnknownError` if the session is locked, instead of waiting, or if the org has
            already seen the number.
        :param before_send: as in :class:`.CallOptions`.
        :raises DeliveryUnknownError: the agent may have acted; the message is not sent again.
        :raises AgentforceError: the agent did not act.
        """
        known = session_from(session)
        message = message_of(text, variables=variables, in_reply_to=in_reply_to, session=known, last=session)
        options = CallOptions(before_send=before_send, on_chunk=on_chunk, repeated=repeated)
        return self.send(known, message, options, stream=stream)

    def send(self, session: Session, message: Message, options: CallOptions, *, stream: bool = False) -> Turn:
        """Send a message like :meth:`send_message`; message and session are already checked."""
        number = session.sequence_id + 1
        validation.message_count(number, self.settings.max_messages_per_session, session.session_id)
        request = SendRequest(
            agent_id=session.agent_id,
            agent_version=session.agent_version,
            session_id=session.session_id,
            session_key=session.external_session_key,
            sequence_id=number,
            message=message,
            stream=stream,
        )
        charge = BudgetCharge(self._spending, MESSAGES, options.before_send)
        turn: Turn | None = None
        try:
            charged = options if self._spending is None else replace(options, before_send=charge.charge)
            turn = self._executor.execute(request, charged).value
            if turn.session_ended:
                self.limiter.ended(turn.session_id)
            return turn  # noqa: TRY300 - a signal can come right before it
        except BaseException as error:
            if turn is not None:  # a signal handler raised it
                raise answer_interrupted(error, turn) from error
            charge.failed(error)
            raise

    def end_session(self, session: SessionLike, reason: str = "UserRequest") -> bool:
        """End a session. It is not an error if the session has already ended.

        :param reason: ``UserRequest``, ``Transfer``, ``Expiration``, ``Error`` or ``Other``.
        :returns: ``True`` if it was open, ``False`` if it had already ended.
        :raises AgentforceError: the session may still be open.
        """
        known = session_from(session)
        ended = self._end(known, validation.end_reason(reason), during_cleanup=False)
        self.limiter.ended(known.session_id)
        return ended

    def end_quietly(self, session: SessionLike, reason: str = "UserRequest") -> bool:
        """End a session during cleanup: a failure is logged and returned, never raised.

        After :meth:`stop`, and when the caller's time is used up, it takes at most 3 seconds. Afterwards the
        session no longer counts as open in this process. If it still counts in the org, the org refuses a
        start.
        """
        known, ended_for = session_from(session), validation.end_reason(reason)
        try:
            during_cleanup = not self._executor.deadline.allows(CLEANUP_SECONDS)
            try:
                self._end(known, ended_for, during_cleanup=during_cleanup)
            except AgentforceTransientError:
                if during_cleanup or not self._executor.deadline.stopped:
                    raise
                # The stop came during the end, or while it waited for the session's lock.
                self._end(known, ended_for, during_cleanup=True)
        except AgentforceError as error:
            log.warning("Session %s may still be open: %s", known.session_id, error)
            return False
        finally:
            self.limiter.ended(known.session_id)
        return True

    def submit_feedback(
        self, session: SessionLike, feedback_id: str, feedback: str, text: str | None = None
    ) -> None:
        """Rate an answer.

        :param feedback_id: the ``feedback_id`` of the turn.
        :param feedback: ``GOOD`` or ``BAD``.
        :param text: the reason.
        :raises AgentforceError: the feedback was not accepted.
        """
        request = FeedbackRequest(
            session_id=session_from(session).session_id,
            feedback_id=validation.path_id(feedback_id, "feedback_id"),
            rating=validation.feedback(feedback),
            comment=None if text is None else validation.message_text(text),
        )
        self._executor.execute(request)

    def get_session_trace(self, session: SessionLike) -> SessionTrace:
        """Return the org's own trace of a session, open or ended: its messages, and the actions that ran.

        The trace grows: a message appears after 5 to 15 minutes, sometimes after hours. It exists for
        sessions that started within 72 hours, in orgs with Data 360, *Agentforce Session Tracing* and *Audit
        and Feedback*.

        :raises AgentforceError: there is no trace (``status`` 404), or none yet; the org keeps no traces, and
            the error says what to turn on; or the call fails.
        """
        session_id = session_from(session).session_id
        request = SessionTraceRequest(session_id=session_id, my_domain=self.settings.host)
        attempt = self._executor.execute(request)
        trace: SessionTrace | None = attempt.value
        if trace is None:
            raise AgentforceRequestError(
                f"The session's trace is longer than {MAX_TRACE_BYTES >> 20} MiB and is not read.",
                hint="Look at the session in Salesforce.",
                operation=request.operation.value,
                status=attempt.status,
                session_id=session_id,
            )
        return trace

    def conversation(self, agent_id: str | None = None, **options: Any) -> Conversation:
        """Return a context manager that holds one session and always ends it.

        :param options: as for :meth:`start_session`, and ``end_reason``.
        """
        return Conversation(self, agent_id, **options)

    def get_plan(self, turn: Turn | Mapping[str, Any]) -> dict[str, Any]:
        """Return the steps of the agent's planner in a turn, as the org reports them. Salesforce does not
        document this call.

        :param turn: a :class:`Turn` or its dict.
        :raises AgentforceError: there is no such plan, or the org does not report it.
        """
        plan: dict[str, Any] = self._executor.execute(plans.request_for(turn)).value
        return plan

    def with_plan(self, turn: Turn) -> Turn:
        """Return *turn* with a summary of its plan, or unchanged if there is none within 10 seconds."""
        if turn.plan_id is None:
            return turn
        try:
            plan = plans.summary_of(self.within(_PLAN_SECONDS).get_plan(turn))
        except AgentforceError as error:
            log.warning("The plan of message %d is not known: %s", turn.sequence_id, error)
            return turn
        return replace(turn, plan=plan)

    @property
    def agent_tests(self) -> AgentTests:
        """The agent tests of the org."""
        from airflow_provider_agentforce.client.agent_tests import AgentTests  # noqa: PLC0415 - few use it

        return AgentTests(self.settings.host, self._executor)

    @property
    def records(self) -> Records:
        """The records of the org."""
        from airflow_provider_agentforce.client.records import Records  # noqa: PLC0415 - few use it

        return Records(self.settings.host, self._executor)

    def authenticate(self) -> tuple[TokenReply, str]:
        """Get a token, or use the current one.

        :returns: the org's reply, and the API host that follows from it.
        :raises AgentforceError: the org issues no token, or names a host that is not trusted.
        """
        token = self._tokens.token()
        return token.reply, token.access.api_url

    def probe(self) -> ErrorReply:
        """Ask the Agent API to end a session that does not exist. This starts, sends and changes nothing.

        :returns: the API's answer.
        :raises AgentforceError: the API cannot be reached, or does not accept the token.
        """
        request = EndRequest(session_id=str(uuid.uuid4()), reason="Other")
        return self._executor.execute(request).said

    def limited_to(self, *, max_concurrent_sessions: int, max_sessions_per_hour: int) -> AgentforceClient:
        """Return a client that uses only this share of the limits. It shares everything with this one."""
        other = copy(self)
        other.settings = replace(
            self.settings,
            max_concurrent_sessions=max_concurrent_sessions,
            max_sessions_per_hour=max_sessions_per_hour,
        )
        return other

    def with_budget(self, budget: Budget) -> AgentforceClient:
        """Return a client that uses no more than a budget. It shares everything with this one.

        Its starts and sends raise :class:`BudgetExceededError` before anything leaves.

        :raises AgentforceInputError: if the connection shares no limits, in which a budget is counted.
        """
        if self._limits is None:
            raise AgentforceInputError(
                "budget is counted for all workers in Redis: set the connection's extra limits_conn_id."
            )
        other = copy(self)
        vars(other).update(_spending=Spending(budget, self._limits.budgets))
        return other

    def within(self, seconds: float | None) -> AgentforceClient:
        """Return a client whose calls together end after *seconds*; ``None``: no limit.

        It shares the token, the connections and the limits with this one, and can be stopped separately. A
        message that is cut off by the end of the time fails with :class:`DeliveryUnknownError`.
        """
        tokens = self._tokens.sibling()
        executor = tokens.executor()
        executor.deadline.ends_in(seconds, firm=True)
        other = copy(self)
        vars(other).update(_executor=executor, _tokens=tokens)
        return other

    def time_left(self, seconds: float | None) -> None:
        """Set the time that the caller has left. The client begins no wait that would be longer."""
        self._executor.deadline.ends_in(seconds)

    def stop(self, *, keep_starts: bool = False) -> None:
        """End every wait and cut off every request, from any thread or a signal handler.

        A message in progress fails with :class:`DeliveryUnknownError`. After that only :meth:`end_quietly`
        works.

        :param keep_starts: let session starts in progress finish, because a session can be ended only after
            its start was answered. Call :meth:`stop` again to cut those off as well.
        """
        self._executor.deadline.stop()
        self._executor.transport.stop(keep_starts=keep_starts)

    def redact(self, text: str) -> str:
        """Return *text* with every secret of the connection masked."""
        return self._executor.redactor.redact(text)

    def close(self) -> None:
        """Close idle connections."""
        self._executor.transport.close()

    def _slot(self) -> Slot:
        """Wait for a slot, as long as the deadline allows."""
        deadline, settings, began = self._executor.deadline, self.settings, self.timing.clock()
        while True:
            deadline.check()
            try:
                return self.limiter.acquire(
                    most_open=settings.max_concurrent_sessions,
                    most_per_hour=settings.max_sessions_per_hour,
                    wait=_SLICE,
                )
            except RateLimitedError as error:
                deadline.check()
                waited = self.timing.clock() - began
                pause = error.retry_after or _SLICE
                if not deadline.allows(pause) or waited + pause > self.timing.longest_wait:
                    raise

    def _start_request(self, options: SessionOptions) -> StartRequest:
        bypass = options.bypass_user
        return StartRequest(
            agent_id=self.agent(options.agent_id),
            bypass_user=self.settings.bypass_user if bypass is None else bypass,
            my_domain=self.settings.host,
            external_session_key=options.external_session_key or str(uuid.uuid4()),
            options=options,
        )

    def _end(self, session: Session, reason: str, *, during_cleanup: bool) -> bool:
        request = EndRequest(session_id=session.session_id, agent_id=session.agent_id, reason=reason)
        last = self._executor.execute(request, CallOptions(during_cleanup=during_cleanup))
        return last.failure is not Failure.SESSION_GONE

    def _after_failed_start(self, agent_id: str, error: BaseException, session: Session | None) -> None:
        """End the session if it was started after all, and raise a clearer error if the agent is the cause.

        :param session: the session, if a signal handler raised the error after its start.
        :raises AgentforceRequestError: if the org has no such agent, or no active version of it.
        """
        if session is not None:
            self.end_quietly(session, "Error")
        if isinstance(error, RateLimitedError):
            return
        self._agent_ids.forget(agent_id)
        if not isinstance(error, AgentforceError):
            return
        if error.session_id is not None:
            self.end_quietly(Session(error.session_id, agent_id=agent_id), "Error")
        if error.status is not None and error.status >= 500:  # noqa: PLR2004
            self._check_agent(agent_id, error)

    def _check_agent(self, agent_id: str, error: AgentforceError) -> None:
        try:
            found = self.find_agents(agent_id)
        except AgentforceError:
            return  # the error of the start names the agent and how to check it
        if found and (found[0].active or not error.retryable):
            return
        try:
            agent_lookup.only_match(agent_id, found, self.settings.host)
        except AgentforceError as reason:
            fields = {"what": f"{error.what} {reason.what}", "hint": reason.hint}
            known = {"applied": False, "retry_after": None, "session_id": None}
            raise remade(error, AgentforceRequestError, **fields, **known) from error
