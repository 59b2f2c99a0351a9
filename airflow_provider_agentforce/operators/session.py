"""The operators that start and end a session that several tasks share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow_provider_agentforce._compat import Context
from airflow_provider_agentforce.client import validation
from airflow_provider_agentforce.exceptions import AgentforceTransientError
from airflow_provider_agentforce.links.agent import AgentLink
from airflow_provider_agentforce.links.page import ConversationLink
from airflow_provider_agentforce.operators._arguments import may_change
from airflow_provider_agentforce.operators._identity import key_of
from airflow_provider_agentforce.operators._ledger import SESSION, Ledger, fingerprint_of
from airflow_provider_agentforce.operators._session_source import TakesSession, session_to_end
from airflow_provider_agentforce.operators._shared import StartsSessions


class StartSessionOperator(StartsSessions):
    """Start a session with an agent for the sends that follow.

    **Sends** ``POST /agents/{id}/sessions``. **Returns** a dict with ``session_id``, ``sequence_id`` (0),
    ``agent_id``, ``greeting``, ``external_session_key`` and ``agent_version`` (an id, or ``None``); the first
    four are also separate XComs.

    **A retry** starts another session, because a try that fails ends its own. On Airflow 3.3 and later, if a
    try was killed after the start, the next try uses the same session. If the org's answer was lost, the log
    names the external session key of a session that may be open until it idles out.

    **Templated:** ``agent_id``, ``variables``, ``tz``, ``external_session_key``, ``agentforce_conn_id``.

    :param agent_id: id (``0Xx…``) or API name of the agent. Default: the connection's extra ``agent_id``.
        A name is looked up in the org when a session is started; results contain the id.
    :param variables: context variables, ``[{"name", "type", "value"}]`` or a dict of names to values.
    :param tz: time zone name, such as ``Europe/Berlin``.
    :param bypass_user: ``True``: the agent runs as its own user, as service agents need with client
        credentials. Employee agents need ``False``. Default: the value that fits the connection's ``auth``.
    :param surface_type: ``Custom`` for an agent that has a custom connection, to get answers in that
        connection's response formats, see :class:`~airflow_provider_agentforce.structured.OutputType`.
    :param external_session_key: UUID for the org's event log. Default: derived from the Dag, run, task, map
        index and try, see :func:`~airflow_provider_agentforce.operators.external_session_key`.
    :param budget: limit on the use per day, over all runs:
        :class:`Budget("messages", per_day=5000) <airflow_provider_agentforce.client.budget.Budget>`.
    :param deferrable: free the worker slot during a wait of a minute or more for a limit or a
        ``Retry-After``. Default: ``[operators] default_deferrable``.
    :param agentforce_conn_id: connection of type ``agentforce``.
    """

    template_fields: Sequence[str] = ("external_session_key", *StartsSessions.template_fields)
    template_fields_renderers = {"variables": "json"}  # noqa: RUF012 - Airflow's own form
    operator_extra_links = (ConversationLink(), AgentLink())
    starts_session = True

    def __init__(self, *, external_session_key: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.external_session_key = external_session_key
        self.check_literals()

    def execute(self, context: Context) -> dict[str, Any]:
        """Start the session."""
        return self._start(context)

    def execute_complete(self, context: Context, event: Any = None) -> dict[str, Any]:  # noqa: ARG002
        """Start the session after a wait for a limit."""
        return self._start(context)

    def _start(self, context: Context) -> dict[str, Any]:
        from airflow_provider_agentforce.hooks.errors import airflow_errors  # noqa: PLC0415
        from airflow_provider_agentforce.operators._page import ConversationPage  # noqa: PLC0415
        from airflow_provider_agentforce.operators._resumable import resume_or_start  # noqa: PLC0415

        with airflow_errors():
            page = self.page = ConversationPage(self, context, "session")
            client = self.open_client()
            agent_id = client.settings.agent(self.agent_id)
            self.link_to(agent_id, context)
            ledger = Ledger.of(context)
            options = self.session_options(agent_id, self.external_session_key or key_of(context["ti"]))
            fingerprint = fingerprint_of(self.agentforce_conn_id, agent_id)
            try:
                session, _ = resume_or_start(client, ledger, fingerprint, options)
            except AgentforceTransientError as error:
                pause = self.pause_for(error)
                if pause is None:
                    raise
                self.wait_without_slot(pause)
            try:
                page.began(session)
                values = session.to_dict()
                self.push(context, values)
                self.link_to(session.agent_id, context)
                self.check_not_killed()
            except BaseException:
                # Airflow does not run the teardown of a failed setup.
                client.end_quietly(session)
                ledger.forget(SESSION)
                raise
            self.log.info(
                "Started session %s with agent %s; external session key %s.",
                session.session_id,
                session.agent_id,
                session.external_session_key,
            )
            return values


class EndSessionOperator(TakesSession):
    """End a session. Use it as a teardown: ``end.as_teardown(setups=start)``.

    **Sends** ``DELETE /sessions/{id}``. **Returns** ``{"session_id", "ended"}``; ``ended`` is ``False`` if
    there was nothing left to end, which is not an error.

    The session is found by its start: if the send whose output is given failed, was skipped or cleared, the
    session is that of the tasks before it. If the start began no session, there is nothing to end.

    **A retry** is harmless. **Templated:** ``session``, ``session_id``, ``reason``, ``agentforce_conn_id``.

    :param session: the output of a start or a send.
    :param session_id: instead of ``session``.
    :param reason: ``UserRequest``, ``Transfer``, ``Expiration``, ``Error`` or ``Other``.
    :param agentforce_conn_id: connection of type ``agentforce``.
    """

    operator_extra_links = (ConversationLink(), AgentLink())
    template_fields: Sequence[str] = ("reason", *TakesSession.template_fields)
    template_fields_renderers = {"session": "json"}  # noqa: RUF012 - Airflow's own form

    def __init__(self, *, reason: str = "UserRequest", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.reason = reason
        self.check_literals()

    def check_arguments(self) -> None:
        """Refuse a literal that is not a reason."""
        super().check_arguments()
        if not may_change(self.reason):
            validation.end_reason(self.reason)

    def execute(self, context: Context) -> dict[str, Any]:
        """End the session."""
        from airflow_provider_agentforce.hooks.errors import airflow_errors  # noqa: PLC0415
        from airflow_provider_agentforce.operators._page import TaskPage  # noqa: PLC0415

        with airflow_errors():
            reason = validation.end_reason(self.reason)
            session = session_to_end(self, context)
            if session is None:
                self.log.info("Nothing to end: the start task returned no session.")
                return {"session_id": None, "ended": False}
            self.link_to(session.agent_id, context)
            self.page = TaskPage(self, context, "end")
            self.page.write(session_id=session.session_id)
            ended = self.open_client().end_session(session, reason)
            self.log.info(
                "Session %s %s.", session.session_id, "has been ended" if ended else "had already ended"
            )
            self.page.add(ended=ended)
            return {"session_id": session.session_id, "ended": ended}
