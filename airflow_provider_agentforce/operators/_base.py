"""The base of the operators: the hook, the kill, and the values for XCom."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from airflow_provider_agentforce._compat import LINKS_NEED_XCOM, BaseOperatorLink, Context, mask_secret
from airflow_provider_agentforce.client import validation
from airflow_provider_agentforce.client.models import Turn
from airflow_provider_agentforce.exceptions import (
    AgentforceInputError,
    DeliveryUnknownError,
    TaskStoppedError,
    key_lines,
    one_line,
)
from airflow_provider_agentforce.links.agent import LINK_XCOM, AgentLink, agent_url
from airflow_provider_agentforce.links.page import ConversationLink, full_page_url
from airflow_provider_agentforce.operators._arguments import (
    check_connection_id,
    check_names,
    check_references,
    check_renderable,
    check_templates,
    may_change,
)
from airflow_provider_agentforce.operators._rendering import RendersOnlyTemplates, leaves
from airflow_provider_agentforce.operators._reporting import reported

if TYPE_CHECKING:
    from airflow_provider_agentforce.client.client import AgentforceClient
    from airflow_provider_agentforce.hooks.agentforce import AgentforceHook
    from airflow_provider_agentforce.operators._page import TaskPage

_OURS = __name__.partition(".")[0] + "."
# How late a trigger may fire before the scheduler resumes the task without it.
_LATE = timedelta(minutes=1)
# The kind of the event for a trigger that never fired.
_LOST = "lost"
_EVENT_KEYS = (
    *("result_path", "results", "dead_letter", "tables", "records", "counts", "written", "errors"),
    *("session_id", "agent_id", "agent_version", "outcome", "agreement"),
    *("run_id", "status", "passed", "failed", "skipped"),
)
_SHORT_KEYS = ("session_id", "sequence_id", "agent_id", "text", "outcome", "greeting", "result")


def _checked(make: Callable[..., Any]) -> Callable[..., Any]:
    """Make an invalid argument a final error, which Airflow does not retry."""

    @wraps(make)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return make(*args, **kwargs)
        except AgentforceInputError as error:
            from airflow_provider_agentforce.hooks.errors import final  # noqa: PLC0415 - not at parse time

            raise final(error) from error.__cause__

    return wrapper


class AgentforceBaseOperator(RendersOnlyTemplates):
    """Base of the operators: opens the hook when the task runs and stops it when the task is killed.

    :param agentforce_conn_id: connection of type ``agentforce``. Templated.
    """

    template_fields: Sequence[str] = ("agentforce_conn_id",)
    ui_color = "#d7e9fb"
    operator_extra_links: Collection[BaseOperatorLink] = (AgentLink(),)
    agent_url = ""
    store_requests = True
    is_reported = False
    page: TaskPage | None = None
    org = ""
    agent_in_words = ""
    linked_agent_id: str | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Wrap ``execute`` and ``execute_complete`` so that the log reports the result, and ``__init__`` so
        that an invalid argument is final.
        """
        super().__init_subclass__(**kwargs)
        # Airflow creates the operator of a mapped task when the task runs, so __init__ may fail there, too.
        if "__init__" in vars(cls):
            cls.__init__ = _checked(cls.__init__)  # type: ignore[method-assign]
        for name in ("execute", "execute_complete"):
            if name in vars(cls):
                setattr(cls, name, reported(vars(cls)[name]))

    @_checked
    def __new__(cls, *_args: Any, **kwargs: Any) -> Any:
        """Check the names before Airflow does: a subclass may have other arguments."""
        if cls.__module__.startswith(_OURS):
            check_names(cls, kwargs)
        check_references(cls, kwargs)
        return super().__new__(cls, **kwargs)

    def __init__(self, *, agentforce_conn_id: str = "agentforce_default", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.agentforce_conn_id = agentforce_conn_id
        self._killed = False

    def check_literals(self) -> None:
        """Refuse invalid literals when the Dag is parsed; the last line of each ``__init__``.

        A task that Airflow has just unmapped is not checked: its values may be data.
        """
        dag = self.get_dag()
        if dag is not None and dag.has_task(self.task_id) and dag.get_task(self.task_id) is not self:
            return
        for field in self.template_fields:
            self._check_templates(field)
        if not may_change(self.agentforce_conn_id):
            check_connection_id(self.agentforce_conn_id)
        self.check_arguments()

    def _check_templates(self, field: str) -> None:
        value = getattr(self, field, None)
        try:
            # A decorated function may receive arguments of any kind.
            if not field.startswith("op_"):
                check_renderable(field, value)
            check_templates(field, value, lambda text: self.get_template_env().parse(text))
        except RecursionError:
            raise AgentforceInputError(f"{field} is nested too deeply, or contains itself.") from None

    def render_template(
        self, content: Any, context: Context, jinja_env: Any = None, seen_oids: set[int] | None = None
    ) -> Any:
        """Render, and have Airflow mask a private key in the wrong place. Called by Airflow."""
        return mask_keys(super().render_template(content, context, jinja_env, seen_oids))

    def check_arguments(self) -> None:
        """Refuse other invalid literals when the Dag is parsed."""

    def pre_execute(self, context: Any) -> None:
        """Store the link to the task's page now; Airflow stores it only when the task ends."""
        super().pre_execute(context)
        for link in self._page_links:
            if url := link.get_link(self, ti_key=context["ti"]):
                self.push_in_failure(context, link.xcom_key, url)

    @property
    def _page_links(self) -> list[ConversationLink]:
        return [link for link in self.operator_extra_links if isinstance(link, ConversationLink)]

    def log_page(self, context: Context) -> None:
        """Log the address of the task's page, if it has one."""
        url = full_page_url(context["ti"]) if self._page_links else ""
        if url:
            self.log.info("Messages, answers and their state: %s", url)

    @cached_property
    def hook(self) -> AgentforceHook:
        """The hook. Made when the task runs, so that parsing a Dag file loads no HTTP library."""
        from airflow_provider_agentforce.hooks.agentforce import AgentforceHook  # noqa: PLC0415

        return AgentforceHook(check_connection_id(self.agentforce_conn_id))

    def defer_until(self, moment: datetime, trigger: Any) -> NoReturn:
        """Free the worker slot until *trigger* fires, at most until a minute after *moment*.

        The scheduler enforces that limit, so the task also resumes without a triggerer.
        """
        left = max(moment - datetime.now(timezone.utc), timedelta(0))
        self.defer(trigger=trigger, method_name="execute_complete", timeout=left + _LATE)
        raise AssertionError("unreachable")  # pragma: no cover

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Any) -> Any:
        """Continue after a wait, also if its trigger is lost. Called by Airflow."""
        if hasattr(self, next_method) or not hasattr(self, "execute_complete"):
            return super().resume_execution(next_method, next_kwargs, context)
        why = str((next_kwargs or {}).get("error"))
        late = "timeout" in why.lower()
        if late:
            self.log.warning(
                "The wait reached its timeout without an event from the triggerer, and the task continues. "
                "This is normal if a person was asked; otherwise look whether a triggerer runs."
            )
        else:
            self.log.warning("The trigger that waited for the task is lost (%s). The task continues.", why)
        lost = {"error": why, "error_type": _LOST, "late": late}
        return super().resume_execution("execute_complete", {"event": lost}, context)

    def on_kill(self) -> None:
        """End waits and cut the current request; ``execute`` then cleans up and fails.

        Runs inside a signal handler of the task's main thread: it must not take locks or do I/O.
        """
        self._killed = True
        hook = vars(self).get("hook")
        if hook is not None and "plain_client" in vars(hook):
            hook.plain_client.stop()

    def open_client(self) -> AgentforceClient:
        """Return the client, with the time limit of this task."""
        client = self.hook.plain_client
        client.time_left(self.execution_timeout.total_seconds() if self.execution_timeout else None)
        if self._killed:
            client.stop()
        return client

    def link_to(self, agent_id: str | None, context: Context) -> None:
        """Set the agent for the link to it; the link leads to all agents while only a name is known."""
        known = self.linked_agent_id = agent_id if validation.is_agent_id(agent_id) else None
        self.org = self.hook.settings.host
        self._note_agent(agent_id)
        self.agent_url = agent_url(self.org, known)
        if LINKS_NEED_XCOM and self.agent_url:
            self.push_in_failure(context, LINK_XCOM, self.agent_url)

    def _note_agent(self, agent_id: str | None) -> None:
        """Set the agent's name for the log: its name, if a lookup returned it, and its id."""
        before = self.agent_in_words
        if not agent_id or agent_id in before:
            return
        named = before and not validation.is_agent_id(before)
        self.agent_in_words = f"{before} ({agent_id})" if named else agent_id

    def check_not_killed(self) -> None:
        """Raise :class:`TaskStoppedError` if the task was killed meanwhile."""
        if self._killed:
            raise TaskStoppedError("The task was stopped.")

    def push(self, context: Context, values: Mapping[str, Any]) -> None:
        """Push those of *values* that are short as separate XComs."""
        if self.do_xcom_push:
            for key in _SHORT_KEYS:
                if key in values:
                    context["ti"].xcom_push(key=key, value=values[key])

    def push_in_failure(self, context: Context, key: str, value: Any) -> None:
        """Push values that the failing task would lose. A failure here must not hide the first error."""
        if not self.do_xcom_push:
            return
        try:
            context["ti"].xcom_push(key=key, value=value)
        except Exception as error:  # noqa: BLE001 - whatever the XCom backend raises
            self.log.warning("XCom %s could not be stored: %s", key, type(error).__name__)

    def get_openlineage_facets_on_start(self) -> Any:
        """Return what is known of the task's inputs and outputs; called by the OpenLineage provider."""
        return self.get_openlineage_facets_on_complete(None)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """Return the task's inputs and outputs; called by the OpenLineage provider, also after a failure."""
        from airflow_provider_agentforce.instrumentation.lineage import operator_lineage  # noqa: PLC0415

        inputs, outputs = self.lineage_uris()
        if self.linked_agent_id is not None:
            inputs = [*self.uri_in_org(f"BotDefinition/{self.linked_agent_id}"), *inputs]
        return operator_lineage(self, task_instance, inputs, outputs, getattr(self, "soql", None))

    def lineage_uris(self) -> tuple[list[str], list[str]]:
        """Return the URIs of what the task reads and of what it writes, besides the agent."""
        return [], []

    def uri_in_org(self, path: str) -> list[str]:
        """Return the URI of *path* in the org, in a list that is empty until the task has used its
        connection.
        """
        if "hook" not in vars(self):
            return []
        return [f"salesforce://{urlsplit(self.hook.settings.host).netloc}/{path}"]

    def update_outlet_events(
        self, context: Context, result: dict[str, Any], *, nothing_changed: bool = False
    ) -> dict[str, Any]:
        """Add counts and paths of *result* to the events of the task's outlets, and return it.

        Airflow sends the events when the task succeeds. A failure here must not fail it.

        :param nothing_changed: the task was a dry run, so no event is sent.
        """
        if nothing_changed and self.outlets:
            self.log.info("A dry run changes nothing, so the outlets have no event.")
            self.outlets = []
        try:
            events: Any = context.get("outlet_events")
            for outlet in self.outlets if events is not None else ():
                events[outlet].extra.update(_event_details(result))
        except Exception as error:  # noqa: BLE001 - whatever an outlet of another kind makes of it
            self.log.warning("The outlets' events have no details: %s", type(error).__name__)
        return result

    def keep_partial(self, context: Context, error: DeliveryUnknownError) -> None:
        """Push the readable part of a cut answer."""
        if error.turn is not None:
            kept = {} if self.store_requests else {"request": None}
            self.push_in_failure(context, "partial_answer", {**error.turn.to_dict(), **kept})

    def log_progress(self, message: dict[str, Any]) -> None:
        """Log the agent's progress; the answer itself is not logged."""
        if message.get("type") == "ProgressIndicator":
            self.log.info("Agent: %s", one_line(str(message.get("message", "")), 200))


def mask_keys(value: Any) -> Any:
    """Have Airflow mask the private keys in *value*, at any depth of its collections; return it."""
    for one in leaves(value):
        for line in key_lines(one) if isinstance(one, str) else ():
            mask_secret(line)
    return value


def _event_details(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return a result for the event of an asset: without texts, and with the lengths of lists."""
    counted = {"turns", "cases"} & set(result)
    return {name: result[name] for name in _EVENT_KEYS if name in result} | {
        name: len(result[name]) for name in counted
    }


def is_lost(event: Any) -> bool:
    """Return whether an event means that the trigger is lost, or too late (``late``)."""
    return isinstance(event, Mapping) and event.get("error_type") == _LOST


def check_outcome(turn: Turn, fail_on: Iterable[str]) -> None:
    """Fail the task for an answer that it does not accept.

    :raises AgentFailedError: with the whole answer as ``turn``.
    """
    if turn.outcome in fail_on:
        raise turn.as_error("Read the conversation; fail_on of the task says which outcomes fail it.")
