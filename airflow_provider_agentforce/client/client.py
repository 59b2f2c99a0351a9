"""The Agent API as a Python object, without Airflow."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

from airflow_provider_agentforce.client import calls, checks, directory, org_state, reading
from airflow_provider_agentforce.client.agents import Agent
from airflow_provider_agentforce.client.calling import Caller
from airflow_provider_agentforce.client.calls import Call, Operation
from airflow_provider_agentforce.client.concurrency_limiter import Slot
from airflow_provider_agentforce.client.conversation import Conversation
from airflow_provider_agentforce.client.jobs import CLEAN_UP_SECONDS, Job
from airflow_provider_agentforce.client.models import Session, SessionLike, Turn, session_from
from airflow_provider_agentforce.client.observing import Observer
from airflow_provider_agentforce.client.policy import Failure
from airflow_provider_agentforce.client.replies import TokenReply
from airflow_provider_agentforce.client.settings import Settings
from airflow_provider_agentforce.client.sse import StreamedTurn
from airflow_provider_agentforce.client.timing import Timing, default_timing
from airflow_provider_agentforce.exceptions import (
    AgentFailedError,
    AgentforceError,
    AgentforceInputError,
    AgentforceTransientError,
    DeliveryUnknownError,
    RateLimitedError,
)

log = logging.getLogger(__name__)

# A stop is seen after at most so many seconds.
_SLICE = 0.1


class AgentforceClient:
    """Talks to the agents of one org. Safe to share between threads; needs no Airflow.

    :param settings: how to reach the org.
    :param on_secret: is told every access token as it is issued, in all forms to be masked in a log.
    :param observers: are shown every call, each an
        :data:`~airflow_provider_agentforce.client.observing.Observer`.
    :param timing: how it waits; default: :func:`~airflow_provider_agentforce.client.timing.default_timing`.
    :ivar limiter: of the org, shared by all clients of this process.

    Every method raises an :class:`~airflow_provider_agentforce.exceptions.AgentforceError`, and nothing else,
    for what the org or the network do. What is tried again by itself is only what cannot have been acted on.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        on_secret: Callable[[str], None] = lambda _: None,
        observers: Sequence[Observer] = (),
        timing: Timing | None = None,
    ) -> None:
        self.settings = settings
        self.timing = timing or default_timing()
        self._caller = Caller(settings, on_secret, observers, self.timing)
        org = org_state.state_of(settings)
        self.limiter, self._directory = org.limiter, org.directory

    def agent(self, agent_id: str | None = None) -> str:
        """Return the id (``0Xx…``) of the agent that is given by id or API name; default: the settings' one.

        An id is returned as it is. A name is looked up in the org, once for all clients and threads of the
        process; the answer serves for ten minutes, or until a start with it fails.

        :raises AgentforceError: the org has no agent of that name, has several, or none of its versions is
            active; or the query fails.
        """
        return directory.id_of(self._caller, self._directory, self.settings.agent(agent_id))

    def find_agents(self, agent: str) -> list[Agent]:
        """Ask the org for the agents with this id or API name: none, one, or several of the same name."""
        return directory.find(self._caller, checks.agent(agent))

    def start_session(
        self,
        agent_id: str | None = None,
        *,
        variables: Any = None,
        tz: str | None = None,
        bypass_user: bool = True,
        external_session_key: str | None = None,
        surface_type: str | None = None,
        slot: Slot | None = None,
        on_sending: Callable[[], None] | None = None,
    ) -> Session:
        """Start a session with an agent.

        :param agent_id: id (``0Xx…``) or API name, see :meth:`agent`; default: the settings' one.
        :param variables: context variables, ``[{"name", "type", "value"}]`` or a dict.
        :param tz: time zone name, such as ``Europe/Berlin``.
        :param bypass_user: ``True``: the agent runs as its own user, as client credentials need; ``False``:
            as the token's user, as employee agents need.
        :param external_session_key: UUID that the org's event log shows; default: a random one. When a start
            has to be repeated although the first one may have arrived, the repetition gets a key of its own,
            and the session that is returned names it.
        :param surface_type: ``Custom``: have the agent answer in the response formats of its custom
            connection; default: in text.
        :param slot: taken from :attr:`limiter`, by a caller that does the waiting: when the org refuses for
            its limits, raise :class:`RateLimitedError` at once. When the start fails, the caller frees the
            slot. Default: wait for one, and for the org, up to a minute.
        :param on_sending: is called once, right before the first byte leaves; if it raises, none does.
        :raises AgentforceError: the session is not started, or is not known to be.
        """
        if not isinstance(bypass_user, bool):
            raise AgentforceInputError(f"bypass_user must be True or False, but is {bypass_user!r:.80}.")
        key = checks.session_key(str(uuid.uuid4()) if external_session_key is None else external_session_key)
        fields: dict[str, Any] = {
            "my_domain": self.settings.host,
            "tz": None if tz is None else checks.time_zone(tz),
            "variables": checks.variables(variables),
            "bypass_user": bypass_user,
            "surface_type": None if surface_type is None else checks.name(surface_type, "surface_type"),
        }

        def build(api: str, job: Job) -> Call:
            job.external_session_key = str(uuid.uuid5(uuid.UUID(key), str(job.lost))) if job.lost else key
            return calls.start(api, agent, external_session_key=job.external_session_key, **fields)

        agent = self.agent(agent_id)
        job = Job(
            Operation.START,
            build,
            parse=reading.read_start,
            agent_id=agent,
            on_sending=on_sending,
            wait_for_limits=slot is None,
        )
        taken = slot or self._slot()
        try:
            session_id, greeting = self._caller.perform(job).value
        except BaseException as error:
            if slot is None:
                self.limiter.release(taken)
            if not isinstance(error, RateLimitedError):
                self._directory.forget(agent)
            raise
        self.limiter.started(taken, session_id)
        return Session(session_id, 0, agent, job.external_session_key, greeting)

    def send_message(
        self,
        session: SessionLike,
        text: str,
        *,
        variables: Any = None,
        in_reply_to: str | None = None,
        stream: bool = False,
        on_chunk: Callable[[dict[str, Any]], None] | None = None,
        after_unknown: bool = False,
        on_sending: Callable[[], None] | None = None,
    ) -> Turn:
        """Send the next message of a session and return the agent's answer.

        :param session: a :class:`Session`, the last :class:`Turn`, or the dict of either.
        :param text: the message; it gets the session's ``sequence_id`` plus one, also when it is repeated.
        :param variables: context variables to set with this message.
        :param in_reply_to: id of the message that this one answers.
        :param stream: have the answer sent in pieces; the result is the same.
        :param on_chunk: is given each streamed message (a dict with ``type``) as it comes. An exception that
            it raises is logged and changes nothing.
        :param after_unknown: this very message was sent before and may still be worked on. A locked session
            is then reported as :class:`DeliveryUnknownError` instead of waited for.
        :param on_sending: is called once, right before the first byte leaves; if it raises, none does.
        :raises DeliveryUnknownError: the agent may have acted; the message is not sent again.
        :raises AgentforceError: the agent did not act.
        """
        known = session_from(session)
        message = checks.message_text(text)
        given = checks.variables(variables)
        replied_to = None if in_reply_to is None else checks.path_id(in_reply_to, "in_reply_to")
        number = known.sequence_id + 1
        checks.message_count(number, self.settings.max_messages_per_session, known.session_id)
        streamed = StreamedTurn()
        job = Job(
            Operation.SEND,
            build=lambda api, _job: calls.send(
                api,
                known.session_id,
                sequence_id=number,
                text=message,
                variables=given,
                in_reply_to=replied_to,
                stream=stream,
            ),
            parse=lambda exchange: reading.read_turn(exchange, streamed, known, number),
            on_piece=lambda piece: reading.pass_on(streamed.feed(piece), on_chunk),
            agent_id=known.agent_id,
            session_id=known.session_id,
            sequence_id=number,
            text=message,
            after_unknown=after_unknown,
            on_sending=on_sending,
        )
        try:
            turn: Turn = self._caller.perform(job).value
        except (DeliveryUnknownError, AgentFailedError) as error:
            if error.turn is None and streamed.begun:
                error.turn = streamed.turn(session=known, sequence_id=number)
            raise
        if turn.session_ended:
            self.limiter.ended(known.session_id)
        return turn

    def end_session(self, session: SessionLike, reason: str = "UserRequest") -> bool:
        """End a session. Ending one that is gone is no error.

        :param reason: ``UserRequest``, ``Transfer``, ``Expiration``, ``Error`` or ``Other``.
        :returns: ``True`` if it was open, ``False`` if it had ended before.
        :raises AgentforceError: the session may still be open.
        """
        return self._end(session_from(session), checks.end_reason(reason), cleaning_up=False)

    def end_quietly(self, session: SessionLike, reason: str = "UserRequest") -> bool:
        """End a session as part of a clean-up: a failure is logged and returned, never raised.

        After :meth:`stop`, and when the caller's time is used up, it takes at most 3 seconds. Afterwards the
        session no longer counts as open here: whether it does there, the org says best, by refusing a start.
        """
        known, ended_for = session_from(session), checks.end_reason(reason)
        try:
            hurry = not self._caller.patience.allows(CLEAN_UP_SECONDS)
            try:
                self._end(known, ended_for, cleaning_up=hurry)
            except AgentforceTransientError:
                if hurry or not self._caller.patience.stopped:
                    raise
                # The stop came in the middle of it, or while it waited for the session's lock.
                self._end(known, ended_for, cleaning_up=True)
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

        :param feedback_id: of the turn.
        :param feedback: ``GOOD`` or ``BAD``.
        :param text: why.
        :raises AgentforceError: the feedback was not taken.
        """
        session_id = session_from(session).session_id
        rated = checks.path_id(feedback_id, "feedback_id")
        rating = checks.feedback(feedback)
        words = None if text is None else checks.message_text(text)
        job = Job(
            Operation.FEEDBACK,
            build=lambda api, _job: calls.feedback(api, session_id, rated, rating, words),
            session_id=session_id,
        )
        self._caller.perform(job)

    def conversation(self, agent_id: str | None = None, **options: Any) -> Conversation:
        """Return a context manager that holds one session and ends it on every path.

        :param options: as :meth:`start_session`, and ``end_reason``.
        """
        return Conversation(self, agent_id, **options)

    def authenticate(self) -> tuple[TokenReply, str]:
        """Get a token, or take the one at hand.

        :returns: what the org said of it, and the API host that follows from it.
        :raises AgentforceError: no token is given, or the host it names is not trusted.
        """
        token = self._caller.tokens.get()
        return token.reply, self._caller.api_host(token)

    def within(self, seconds: float | None) -> AgentforceClient:
        """Return a client whose calls, taken together, end after *seconds*, ``None`` for no limit.

        It shares the token and the limits with this one, and can be stopped alone. A message that is cut by
        the end of the time fails with :class:`DeliveryUnknownError`.
        """
        other = copy(self)
        other._caller = self._caller.sibling(seconds)  # noqa: SLF001 - one of this class
        return other

    def time_left(self, seconds: float | None) -> None:
        """Set how much time the caller has. A wait that would outlast it is not begun."""
        self._caller.patience.ends_in(seconds)

    def stop(self, *, but_starts: bool = False) -> None:
        """End every wait and cut every request, from any thread or a signal handler.

        A message under way fails with :class:`DeliveryUnknownError`. Only :meth:`end_quietly` works after it.

        :param but_starts: let the starts of sessions that are under way come to their end, since a session
            can be ended only when its start has been answered. Call :meth:`stop` again to cut those, too.
        """
        self._caller.patience.stop()
        self._caller.transport.stop(but_starts=but_starts)

    def close(self) -> None:
        """Close idle connections."""
        self._caller.transport.close()

    def _slot(self) -> Slot:
        """Wait for a slot, as long as the caller's patience allows."""
        patience, settings, began = self._caller.patience, self.settings, self.timing.clock()
        while True:
            patience.check()
            try:
                return self.limiter.acquire(
                    most_open=settings.max_concurrent_sessions,
                    most_per_hour=settings.max_sessions_per_hour,
                    wait=_SLICE,
                )
            except RateLimitedError as error:
                patience.check()
                waited = self.timing.clock() - began
                if not patience.allows(error.retry_after or waited + _SLICE):
                    raise

    def _end(self, session: Session, reason: str, *, cleaning_up: bool) -> bool:
        job = Job(
            Operation.END,
            build=lambda api, _job: calls.end(api, session.session_id, reason),
            agent_id=session.agent_id,
            session_id=session.session_id,
            cleaning_up=cleaning_up,
        )
        ended = self._caller.perform(job).failure is not Failure.NOT_FOUND
        self.limiter.ended(session.session_id)
        return ended
