"""What the operators share: the hook, the kill, and how values go to XCom."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce._compat import LINKS_NEED_XCOM, BaseOperator, Context
from airflow_provider_agentforce.client import checks
from airflow_provider_agentforce.client.models import FAILED, OUTCOMES, Session, Turn, session_from
from airflow_provider_agentforce.exceptions import (
    AgentFailedError,
    AgentforceInputError,
    DeliveryUnknownError,
    TaskStoppedError,
    one_line,
)
from airflow_provider_agentforce.links import LINK_XCOM, AgentLink, agent_url

if TYPE_CHECKING:
    from airflow_provider_agentforce.client.client import AgentforceClient
    from airflow_provider_agentforce.hooks.agentforce import AgentforceHook

_SHORT_KEYS = ("session_id", "sequence_id", "agent_id", "text", "outcome", "greeting", "result")
_KEY_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "airflow-provider-agentforce")


def external_session_key(
    dag_id: str, run_id: str, task_id: str, map_index: int = -1, try_number: int = 1
) -> str:
    """Return the UUID under which a task's session appears in the agent's event log.

    The same five values always give the same key, so a session can be traced to its task and back.
    """
    parts = (dag_id, run_id, task_id, str(map_index), str(try_number))
    return str(uuid.uuid5(_KEY_NAMESPACE, "\0".join(parts)))


def key_of(task_instance: Any) -> str:
    """Return the external session key of a running task instance."""
    ti = task_instance
    return external_session_key(ti.dag_id, ti.run_id, ti.task_id, ti.map_index, ti.try_number)


class AgentforceBaseOperator(BaseOperator):
    """Base of the operators: opens the hook when the task runs and stops it when the task is killed.

    :param agentforce_conn_id: connection of type ``agentforce``. Templated.
    """

    ui_color = "#d7e9fb"
    operator_extra_links = (AgentLink(),)
    agent_url = ""

    def __init__(self, *, agentforce_conn_id: str = "agentforce_default", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.agentforce_conn_id = agentforce_conn_id
        self._killed = False

    @cached_property
    def hook(self) -> AgentforceHook:
        """The hook. Made when the task runs, so that parsing a Dag file loads no HTTP library."""
        from airflow_provider_agentforce.hooks.agentforce import AgentforceHook  # noqa: PLC0415

        return AgentforceHook(self.agentforce_conn_id)

    def on_kill(self) -> None:
        """End waits and cut the request under way; ``execute`` then cleans up and fails.

        Runs inside a signal handler of the task's main thread, so it takes no lock and talks to nobody.
        """
        self._killed = True
        hook = vars(self).get("hook")
        if hook is not None and "client" in vars(hook):
            hook.client.stop()

    def open_client(self) -> AgentforceClient:
        """Return the client, told how long this task may run."""
        client = self.hook.client
        client.time_left(self.execution_timeout.total_seconds() if self.execution_timeout else None)
        if self._killed:
            client.stop()
        return client

    def link_to(self, agent_id: str | None, context: Context) -> None:
        """Say which agent the task talks to, for the link to it; to all agents while only a name is known."""
        known = agent_id if checks.is_agent_id(agent_id) else None
        self.agent_url = agent_url(self.hook.settings.host, known)
        if LINKS_NEED_XCOM and self.agent_url:
            self.push_in_failure(context, LINK_XCOM, self.agent_url)

    def check_not_killed(self) -> None:
        """Raise :class:`TaskStoppedError` if the task was killed meanwhile."""
        if self._killed:
            raise TaskStoppedError("The task was told to stop.")

    def push(self, context: Context, values: Mapping[str, Any]) -> None:
        """Push the short ones of *values* as XComs of their own."""
        if self.do_xcom_push:
            for key in _SHORT_KEYS:
                if key in values:
                    context["ti"].xcom_push(key=key, value=values[key])

    def push_in_failure(self, context: Context, key: str, value: Any) -> None:
        """Push what would be lost with the failing task. A failure to do so must not hide the first error."""
        if not self.do_xcom_push:
            return
        try:
            context["ti"].xcom_push(key=key, value=value)
        except Exception as error:  # noqa: BLE001 - whatever the XCom backend raises
            self.log.warning("XCom %s could not be stored: %s", key, type(error).__name__)

    def keep_partial(self, context: Context, error: DeliveryUnknownError) -> None:
        """Push what could be read of a cut answer."""
        if error.turn is not None:
            self.push_in_failure(context, "partial_answer", error.turn.to_dict())

    def log_progress(self, message: dict[str, Any]) -> None:
        """Log what the agent says it is doing; the answer itself is not logged."""
        if message.get("type") == "ProgressIndicator":
            self.log.info("Agent: %s", one_line(str(message.get("message", "")), 200))


def check_fail_on(fail_on: Collection[str]) -> tuple[str, ...]:
    """Return *fail_on* as a tuple of known outcomes."""
    names = (fail_on,) if isinstance(fail_on, str) else tuple(fail_on)
    unknown = [name for name in names if name not in OUTCOMES]
    if unknown:
        raise AgentforceInputError(f"fail_on: {unknown[0]!r} is none of {', '.join(OUTCOMES)}.")
    return names


def check_choice(field: str, given: str, *choices: str) -> str:
    """Return *given* if it is one of *choices*."""
    if given not in choices:
        raise AgentforceInputError(f"{field} must be {' or '.join(choices)}, but is {given!r}.")
    return given


def check_outcome(turn: Turn, fail_on: Iterable[str]) -> None:
    """Fail the task for an answer that it does not accept.

    :raises AgentFailedError: with the whole answer as ``turn``.
    """
    if turn.outcome not in fail_on:
        return
    why = one_line(turn.failure_reason, 220).rstrip(".") if turn.outcome == FAILED else ""
    error = AgentFailedError(
        f"The agent's answer has the outcome {': '.join(filter(None, [turn.outcome, why]))}.",
        hint="fail_on says which outcomes fail the task.",
        operation="send",
        applied=True,
        session_id=turn.session_id,
    )
    error.turn = turn
    raise error


def session_of(session: Any, session_id: Any, sequence_id: Any) -> Session:
    """Read the session from the two ways of giving it."""
    if (session is None) == (session_id is None):
        raise AgentforceInputError(
            "Give either session (the output of a start or a send) or session_id and sequence_id."
        )
    if session is not None:
        return session_from(session)
    if sequence_id is None:
        raise AgentforceInputError(
            "sequence_id is missing: give the number of the last message, 0 after the start."
        )
    return session_from({"session_id": session_id, "sequence_id": sequence_id})
