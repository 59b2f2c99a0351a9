"""The hook: an Airflow connection as an :class:`~airflow_provider_agentforce.client.AgentforceClient`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce._compat import AirflowNotFoundException, BaseHook, mask_secret
from airflow_provider_agentforce.client import Session, Settings, Turn
from airflow_provider_agentforce.client.client import AgentforceClient
from airflow_provider_agentforce.client.json_values import decode_unambiguous
from airflow_provider_agentforce.client.messages import Transfer, given_message
from airflow_provider_agentforce.client.models import SessionLike, SessionOptions, session_from
from airflow_provider_agentforce.client.open_session import Conversation
from airflow_provider_agentforce.client.session_trace import SessionTrace
from airflow_provider_agentforce.exceptions import AgentforceInputError, one_line
from airflow_provider_agentforce.get_provider_info import CONN_FIELDS, UI_FIELD_BEHAVIOUR
from airflow_provider_agentforce.hooks.errors import airflow_errors
from airflow_provider_agentforce.hooks.limits import limits_problem, limits_store
from airflow_provider_agentforce.hooks.managed_agent import ManagedAgentMixin
from airflow_provider_agentforce.instrumentation import observers

if TYPE_CHECKING:
    from typing_extensions import Self

    from airflow_provider_agentforce.client.checklist import Diagnosis

_TEST_SECONDS = 20.0
_CREATE_IT = "Create it under Admin > Connections, or give the id of another one."
_CHECK_IT = "Then check it: python -m airflow_provider_agentforce check {}."


class AgentforceHook(BaseHook, ManagedAgentMixin):
    """Talk to the agents of the org that a connection names.

    It has the methods of :class:`~airflow_provider_agentforce.client.AgentforceClient`. An error that a retry
    cannot fix and a message whose delivery is unknown end the task without a retry by Airflow.

    A copy or pickle of a hook creates its own client on first use, and does not share the sessions.

    :param agentforce_conn_id: connection of type ``agentforce``.
    """

    conn_name_attr = "agentforce_conn_id"
    default_conn_name = "agentforce_default"
    conn_type = "agentforce"
    hook_name = "Salesforce Agentforce"

    def __init__(self, agentforce_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.agentforce_conn_id = agentforce_conn_id
        self.held_sessions = {}

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for a copy or pickle: everything but the client and the open sessions."""
        made = {"settings", "plain_client", "client"}
        kept = {name: value for name, value in vars(self).items() if name not in made}
        return {**kept, "held_sessions": {}}

    @cached_property
    def settings(self) -> Settings:
        """The checked connection.

        :raises AgentforceInputError: lists every missing field and unknown extra.
        """
        try:
            return self._read_settings()
        except AgentforceInputError as error:
            name = one_line(self.agentforce_conn_id, 80)
            hint = f"{error.hint or 'Correct the connection.'} {_CHECK_IT.format(name)}"
            raise AgentforceInputError(f"Connection {name}: {error.what}", hint=hint) from None

    def _read_settings(self) -> Settings:
        # Airflow's Test button invents an id, which would be confusing in an error.
        try:
            connection = self.get_connection(self.agentforce_conn_id)
        except AirflowNotFoundException:
            raise _missing(self.agentforce_conn_id) from None
        return settings_of(connection)

    @cached_property
    def plain_client(self) -> AgentforceClient:
        """A client whose errors do not end the task, for callers that decide about a retry themselves."""
        with airflow_errors():
            settings = self.settings
            limits = limits_store(settings)
        _mask(settings)
        return AgentforceClient(settings, on_secret=mask_secret, observers=observers(), limits=limits)

    @cached_property
    def client(self) -> AgentforceClient:
        """The client. There is one per hook, so all calls share one token and its connections."""
        return TaskClient.of(self.plain_client)

    def get_conn(self) -> AgentforceClient:
        """Return the client. Its errors end the task like those of the hook."""
        return self.client

    @airflow_errors()
    def start_session(
        self,
        agent_id: str | None = None,
        *,
        variables: Any = None,
        tz: str | None = None,
        bypass_user: bool | None = None,
        external_session_key: str | None = None,
        surface_type: str | None = None,
    ) -> Session:
        """Start a session. See :meth:`.AgentforceClient.start_session`."""
        options = SessionOptions(agent_id, variables, tz, bypass_user, external_session_key, surface_type)
        return self.hold(self.client.start(options)).session

    @airflow_errors()
    def send_message(
        self,
        session: SessionLike,
        text: str | None = None,
        *,
        reply: object = None,
        cancel: object = None,
        transfer: Transfer | None = None,
        variables: Any = None,
        in_reply_to: str | None = None,
        stream: bool = False,
        on_chunk: Callable[[dict[str, Any]], None] | None = None,
    ) -> Turn:
        """Send the next message of a session. See :meth:`.AgentforceClient.send_message`.

        Give exactly one of ``text``, ``reply``, ``cancel`` and ``transfer``.

        :param text: the message.
        :param reply: answers the agent's question: a :class:`.Reply`, its items, or the turn with the
            question.
        :param cancel: declines it: a :class:`.Cancel`, ``True``, or the turn with the question.
        :param transfer: the result of an escalation.
        """
        known = session_from(session)
        return self.hold(known).send(
            given_message(text=text, reply=reply, cancel=cancel, transfer=transfer, last=session),
            variables=variables,
            in_reply_to=in_reply_to,
            stream=stream,
            on_chunk=on_chunk,
            sequence_id=known.sequence_id,
            client=self.client,
        )

    def submit_feedback(
        self, session: SessionLike, feedback_id: str, feedback: str, text: str | None = None
    ) -> None:
        """Rate an answer ``GOOD`` or ``BAD``. See :meth:`.AgentforceClient.submit_feedback`."""
        self.client.submit_feedback(session, feedback_id, feedback, text)

    def get_session_trace(self, session: SessionLike) -> SessionTrace:
        """Return the org's own trace of a session. See :meth:`.AgentforceClient.get_session_trace`."""
        return self.client.get_session_trace(session)

    def get_plan(self, turn: Turn | Mapping[str, Any]) -> dict[str, Any]:
        """Return the steps of the agent's planner in a turn. See :meth:`.AgentforceClient.get_plan`."""
        return self.client.get_plan(turn)

    @airflow_errors()
    def query(self, soql: str) -> Iterator[dict[str, Any]]:
        """Yield the records of a SOQL query. See :meth:`.Records.query`."""
        return _raising_as_a_task(self.plain_client.records.query(soql))

    @airflow_errors()
    def end_session(self, session: SessionLike, reason: str = "UserRequest") -> bool:
        """End a session; ``False`` if it had already ended. See :meth:`.AgentforceClient.end_session`."""
        self.forget_session(session)
        return self.client.end_session(session, reason)

    def end_quietly(self, session: SessionLike, reason: str = "UserRequest") -> bool:
        """End a session without raising an error. See :meth:`.AgentforceClient.end_quietly`."""
        self.forget_session(session)
        return self.client.end_quietly(session, reason)

    @airflow_errors()
    def conversation(self, agent_id: str | None = None, **options: Any) -> Conversation:
        """Return a context manager that holds one session and ends it on every path.

        :param options: as :meth:`start_session`, and ``end_reason``.
        """
        return _HookConversation(self, agent_id, **options)

    def diagnose(self, *, start_session: bool = False) -> Diagnosis:
        """Check the connection step by step. The result contains neither a secret nor the connection's id.

        :param start_session: also start a session with the default agent, and end it. Salesforce may charge
            for it.
        :returns: the findings; no error is raised.
        """
        from airflow_provider_agentforce.client.diagnostics import diagnose, unusable  # noqa: PLC0415 - only here

        try:
            settings = self._read_settings()
        except AgentforceInputError as error:
            return unusable(error)
        _mask(settings)
        quick = dataclasses.replace(settings, timeout=min(settings.timeout, _TEST_SECONDS))
        client = AgentforceClient(quick, on_secret=mask_secret)
        try:
            return diagnose(client, settings, limits_problem(settings), start_session=start_session)
        finally:
            client.close()

    def test_connection(self) -> tuple[bool, str]:
        """Check the connection as :meth:`diagnose` does, for Airflow's Test button."""
        found = self.diagnose()
        return found.good, str(found)

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Return the form's standard fields for Airflow up to 3.1; later ones read the provider info."""
        return {
            "hidden_fields": UI_FIELD_BEHAVIOUR["hidden-fields"],
            "relabeling": UI_FIELD_BEHAVIOUR["relabeling"],
            "placeholders": UI_FIELD_BEHAVIOUR["placeholders"],
        }

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Return the form's extra fields for Airflow up to 3.1; later ones read the provider info."""
        from flask_appbuilder.fieldwidgets import (  # noqa: PLC0415 - only there
            BS3PasswordFieldWidget,
            BS3TextFieldWidget,
        )
        from wtforms import PasswordField, StringField  # noqa: PLC0415 - only there

        kinds = {"password": (PasswordField, BS3PasswordFieldWidget)}
        widgets = {}
        for name, field in CONN_FIELDS.items():
            kind, widget = kinds.get(field["schema"].get("format"), (StringField, BS3TextFieldWidget))
            widgets[name] = kind(field["label"], description=field["description"], widget=widget())
        return widgets


def settings_of(connection: Any) -> Settings:
    """Return the checked settings of an Airflow connection.

    :raises AgentforceInputError: lists every missing field and unknown extra, but not the connection's id.
    """
    conn_type = AgentforceHook.conn_type
    if connection.conn_type and connection.conn_type != conn_type:
        raise AgentforceInputError(
            f"its type is {connection.conn_type}, not {conn_type}.",
            hint=f"Choose the type {AgentforceHook.hook_name} for it, or give the id of another one.",
        )
    if connection.schema:
        raise AgentforceInputError("schema is not used.", hint="Leave it empty.")
    return Settings.from_fields(
        host=_with_port(connection.host, connection.port),
        login=connection.login,
        password=connection.password,
        extra=_extra(connection.extra),
    )


def _missing(conn_id: str) -> AgentforceInputError:
    """Return the error of a connection that Airflow does not find, because it skips unreadable ones."""
    name = f"AIRFLOW_CONN_{conn_id.upper()}"
    text = os.environ.get(name)
    if text is None:
        return AgentforceInputError("it does not exist.", hint=_CREATE_IT)
    form = "JSON" if text.lstrip().startswith("{") else "a URI"
    return AgentforceInputError(
        f"it cannot be read: the environment variable {name} does not contain a connection as {form}.",
        hint="Correct the variable.",
    )


def _mask(settings: Settings) -> None:
    # Airflow compiles all its patterns for each new one, so the long ones come last.
    for form in sorted(settings.secret_forms(), key=len):
        mask_secret(form)


class TaskClient(AgentforceClient):
    """A client whose errors end the Airflow task where no retry may follow."""

    @classmethod
    def of(cls, client: AgentforceClient) -> Self:
        """Return a client that shares everything with *client*."""
        other = cls.__new__(cls)
        vars(other).update(vars(client))
        return other

    @airflow_errors()
    def conversation(self, agent_id: str | None = None, **options: Any) -> Conversation:
        """Return a context manager that holds one session and ends it on every path."""
        return TaskConversation(self, agent_id, **options)

    agent = airflow_errors()(AgentforceClient.agent)
    end_quietly = airflow_errors()(AgentforceClient.end_quietly)
    authenticate = airflow_errors()(AgentforceClient.authenticate)
    get_plan = airflow_errors()(AgentforceClient.get_plan)
    find_agents = airflow_errors()(AgentforceClient.find_agents)
    start = airflow_errors()(AgentforceClient.start)
    start_session = airflow_errors()(AgentforceClient.start_session)
    send = airflow_errors()(AgentforceClient.send)
    send_message = airflow_errors()(AgentforceClient.send_message)
    submit_feedback = airflow_errors()(AgentforceClient.submit_feedback)
    get_session_trace = airflow_errors()(AgentforceClient.get_session_trace)
    end_session = airflow_errors()(AgentforceClient.end_session)


class TaskConversation(Conversation):
    """A conversation whose errors end the Airflow task where no retry may follow."""

    __enter__ = airflow_errors()(Conversation.__enter__)
    send = airflow_errors()(Conversation.send)
    end = airflow_errors()(Conversation.end)


class _HookConversation(TaskConversation):
    """Shares its message numbers with :meth:`AgentforceHook.invoke_agent`."""

    def __init__(self, hook: AgentforceHook, *args: Any, **options: Any) -> None:
        super().__init__(hook.client, *args, **options)
        self._hook = hook

    def __enter__(self) -> Self:
        super().__enter__()
        self._hook.held_sessions[self.session.session_id] = self
        return self

    def end_quietly(self) -> bool:
        self._hook.forget_session(self.session)
        return super().end_quietly()


def _raising_as_a_task(records: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    with airflow_errors():
        yield from records


def _with_port(host: str | None, port: int | None) -> str | None:
    # The port may be given in the address and in its own field, because the Test button needs it there.
    if not host or not port or host.strip().rstrip("/").endswith(f":{port}"):
        return host
    return f"{host.strip().rstrip('/')}:{port}"


def _extra(text: str | None) -> dict[str, Any]:
    # Airflow's own extra_dejson logs broken JSON and continues without it, which would silently drop a limit.
    try:
        extra = decode_unambiguous(text) if text else {}
    except (ValueError, RecursionError) as error:
        raise AgentforceInputError(f"extra must be a JSON object, but cannot be read: {error}.") from None
    if not isinstance(extra, dict):
        raise AgentforceInputError("extra must be a JSON object.")
    return extra
