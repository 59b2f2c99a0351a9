"""Finds the session of a task: in its arguments, or from the tasks before it, up to the start."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from airflow_provider_agentforce._compat import Context, XComNotFound
from airflow_provider_agentforce.client import validation
from airflow_provider_agentforce.client.models import Session, Turn, session_from
from airflow_provider_agentforce.exceptions import AgentforceInputError, shown
from airflow_provider_agentforce.operators._arguments import check_values, has_template
from airflow_provider_agentforce.operators._base import AgentforceBaseOperator
from airflow_provider_agentforce.operators._rendering import task_of

# A template renders a missing value to one of these.
_NOTHING = ("", "None", "null")
_PULLED = re.compile(r"""xcom_pull\(\s*(?:task_ids\s*=\s*)?\[?\s*["']([^"']+)["']""")


class TakesSession(AgentforceBaseOperator):
    """Base of the operators that use a session that another task has started.

    :param session: the output of a start or a send.
    :param session_id: instead of *session*; an id, or a template that renders to one.
    """

    template_fields: Sequence[str] = ("session", "session_id", *AgentforceBaseOperator.template_fields)

    def __init__(self, *, session: Any = None, session_id: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.session = session
        self.session_id = session_id
        # As in the Dag: Airflow replaces the fields above with rendered values.
        self.session_arguments = {"session": session, "session_id": session_id}

    def check_arguments(self) -> None:
        """Refuse a missing session, or one that is given twice."""
        field = validation.only_one_of(session=self.session, session_id=self.session_id)
        given = getattr(self, field)
        if isinstance(given, str) and given.strip() in _NOTHING:
            raise AgentforceInputError(f"{field} is {shown(given)}. Give the output of a start or a send.")
        check_values(self, session=session_from, session_id=partial(validation.path_id, field="session_id"))

    def render_template(
        self, content: Any, context: Context, jinja_env: Any = None, seen_oids: set[int] | None = None
    ) -> Any:
        """Render; the output of a task that left none is ``None``, also in a template. Called by Airflow."""
        from jinja2 import UndefinedError  # noqa: PLC0415 - not at parse time

        try:
            return super().render_template(content, context, jinja_env, seen_oids)
        except (UndefinedError, XComNotFound):
            ours = {"session", "session_id", "sequence_id"} & set(self.fields_with(content))
            if ours and _names_in(content):
                return None
            raise

    def given_session(self, sequence_id: Any, context: Context) -> Session:
        """Return the session from either argument.

        :raises AgentforceInputError: if neither or both are given, or the task before left none.
        """
        nothing = self.session is None and self.session_id is None
        if _is_nothing(self.session_id) or (nothing and _names_up(_arguments(self, context))):
            raise self.left_none(context)
        if (self.session is None) == (self.session_id is None):
            raise AgentforceInputError(
                "Give either session (the output of a start or a send) or session_id and sequence_id."
            )
        if self.session is not None:
            return session_from(self.session)
        return session_from({"session_id": self.session_id, "sequence_id": number_of(sequence_id)})

    def left_none(self, context: Context) -> AgentforceInputError:
        """Return the error that names the task which left no session."""
        field = "session" if self.session_id is None else "session_id"
        names = _names_up(_arguments(self, context)) or sorted(self.upstream_task_ids)
        who = f"the task {' or '.join(names)}" if names else "the task before it"
        return AgentforceInputError(
            f"{field} is {shown(getattr(self, field), 40)}: {who} left no session. "
            "Find out why, and clear it."
        )


def number_of(sequence_id: Any) -> Any:
    """Return *sequence_id*, which belongs to a session's id.

    :raises AgentforceInputError: there is none.
    """
    if sequence_id is None:
        raise AgentforceInputError(
            "sequence_id is missing: give the number of the last message, 0 after the start."
        )
    return sequence_id


def newest_number(task: TakesSession, session: Session, context: Context) -> int:
    """Return the number of the last message that tasks before *task* have sent in its session, 0 without any.

    A parallel task, and a function that sends with the hook, may have sent others.
    """
    written = task_of(context, task.task_id)
    before = written.get_flat_relatives(upstream=True) if written is not None else ()
    senders = [one for one in before if issubclass(getattr(one, "operator_class", type(one)), TakesSession)]
    found = [sent for one in senders for sent in _sent_by(one, context)]
    return max((number for session_id, number in found if session_id == session.session_id), default=0)


def session_to_end(task: TakesSession, context: Context) -> Session | None:
    """Return the session of *task*, even if tasks that used it since have failed.

    :returns: ``None`` if the task that starts sessions has started none.
    :raises AgentforceInputError: if there are several, or a task other than the start left none.
    """
    given, last = _arguments(task, context), None
    found = _given_sessions(task, may_be_missing=bool(_names_up(given)))
    if not found:
        for last in _tasks_up(given, context):
            found = _output(last, context)
            if found:
                break
    if len(found) > 1:
        raise AgentforceInputError(
            f"session contains {len(found)} sessions. Map the task over them: "
            "EndSessionOperator.partial(…).expand(session=start.output)."
        )
    if found:
        return found[0]
    if getattr(getattr(last, "operator_class", last), "starts_session", False):
        return None
    raise task.left_none(context)


def _given_sessions(task: TakesSession, *, may_be_missing: bool) -> list[Session]:
    """Return the sessions in a task's arguments.

    :param may_be_missing: skip what cannot be read, because the tasks before know the session.
    """
    try:
        return _sessions_in(task.session) or _sessions_in(task.session_id)
    except AgentforceInputError:
        if may_be_missing:
            return []
        raise


def _arguments(task: Any, context: Context) -> Mapping[str, Any]:
    """Return how the Dag passes the session to a task: references, templates or values."""
    written = task_of(context, task.task_id) or task
    if not hasattr(written, "partial_kwargs"):
        # A task in between that selects the session has it in the arguments of its function.
        function = {name: getattr(written, name, None) for name in ("op_args", "op_kwargs")}
        given: Mapping[str, Any] = getattr(written, "session_arguments", function)
        return given
    expand = written.expand_input.value
    mapped = expand if isinstance(expand, Mapping) else {}
    names = ("session", "session_id")
    return {name: mapped.get(name, written.partial_kwargs.get(name)) for name in names}


def _tasks_up(arguments: Mapping[str, Any], context: Context) -> Iterator[Any]:
    """Yield the tasks through which the session passes, the last one first."""
    waiting, seen = _names_up(arguments), set[str]()
    while waiting:
        name = waiting.pop(0)
        task = None if name in seen else task_of(context, name)
        seen.add(name)
        if task is not None:
            yield task
            waiting.extend(_names_up(_arguments(task, context)))


def _names_up(arguments: Mapping[str, Any]) -> list[str]:
    return [name for value in arguments.values() for name in _names_in(value)]


def _names_in(value: Any) -> list[str]:
    """Return the ids of the tasks whose output an argument is."""
    if isinstance(value, str):
        return _PULLED.findall(value) if has_template(value) else []
    if isinstance(value, Mapping | Sequence):
        items = value.values() if isinstance(value, Mapping) else value
        return [name for item in items for name in _names_in(item)]
    if not hasattr(value, "iter_references"):
        return []
    return [operator.task_id for operator, _ in value.iter_references()]


def _output(task: Any, context: Context) -> list[Session]:
    """Return the sessions that a task left, even if it failed after it had one."""
    for reference in (task.output, task.output["session_id"]):
        try:
            found = _sessions_in(reference.resolve(context))
        except Exception:  # noqa: BLE001, S112 - Airflow has several ways to say that there is none
            continue
        if found:
            return found
    return []


def _sent_by(task: Any, context: Context) -> list[tuple[Any, int]]:
    """Return the session and the number of each message that a task has sent, from their own XComs."""
    try:
        ids, numbers = (task.output[name].resolve(context) for name in ("session_id", "sequence_id"))
        pairs = [(ids, numbers)] if isinstance(ids, str) else list(zip(ids, numbers, strict=True))
    except Exception:  # noqa: BLE001 - Airflow has several ways to say that there is none
        return []
    return [(session_id, number) for session_id, number in pairs if isinstance(number, int)]


def _sessions_in(value: Any) -> list[Session]:
    if value is None or _is_nothing(value):
        return []
    if isinstance(value, str):
        return [session_from({"session_id": value})]
    if isinstance(value, Mapping | Session | Turn) or not isinstance(value, Sequence):
        return [session_from(value)]
    known = {one.session_id: one for item in value for one in _sessions_in(item)}
    return list(known.values())


def _is_nothing(value: Any) -> bool:
    return isinstance(value, str) and value.strip() in _NOTHING
