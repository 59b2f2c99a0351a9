"""``@task.agentforce``: a function writes the messages, and the task holds the conversation."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce._compat import (
    AirflowFailException,
    AirflowSkipException,
    Context,
    DecoratedOperator,
    context_merge,
    determine_kwargs,
    task_decorator_factory,
)
from airflow_provider_agentforce.exceptions import AgentforceInputError
from airflow_provider_agentforce.operators._ledger import RENDERED, SESSION, Ledger
from airflow_provider_agentforce.operators._resumable import end_left
from airflow_provider_agentforce.operators.conversation import ConversationOperator

if TYPE_CHECKING:
    from airflow_provider_agentforce._compat import TaskDecorator

_NAME = "@task.agentforce"


class AgentforceDecoratedOperator(DecoratedOperator, ConversationOperator):
    """A :class:`~airflow_provider_agentforce.operators.ConversationOperator` whose messages a function
    writes.

    The function receives its arguments, and the context values that it names, as with every ``@task``. It
    returns a message (a string, or a dict with ``text`` and ``variables``), a list of messages, or a function
    that receives the answers so far and returns the next message. The return value is sent and never rendered
    as a template, wherever it came from.

    **Sends** and **returns** the same as the operator; the arguments of the decorator are those of the
    operator except ``messages``. Any other return value of the function fails the task before anything is
    sent.

    **A retry** calls the function again, and continues in the same session with the first message that was
    not answered (Airflow 3.3 and later). If the function then returns a different text for a message that was
    answered, the task fails: clear it to repeat the conversation. After a wait within a try, the function is
    called again unless its messages are recorded, which needs Airflow 3.3 or later and ``store_requests``. A
    function that it returns and messages that are too long are not recorded.

    **Templated:** the function's arguments (``op_args``, ``op_kwargs``), ``agent_id``, ``variables``, ``tz``,
    ``agentforce_conn_id``.

    :param python_callable: the function.
    :param op_args: its positional arguments.
    :param op_kwargs: its named arguments.
    """

    template_fields: Sequence[str] = (
        *DecoratedOperator.template_fields,
        *ConversationOperator.template_fields,
    )
    template_fields_renderers = {  # noqa: RUF012 - Airflow's own form
        **DecoratedOperator.template_fields_renderers,
        **ConversationOperator.template_fields_renderers,
    }
    custom_operator_name = _NAME
    # Shows the messages in the list of rendered templates, without rendering them.
    overwrite_rtif_after_execution = True

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Collection[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if "messages" in kwargs:
            raise AgentforceInputError(f"{_NAME} takes no messages: the function returns them.")
        if iscoroutinefunction(python_callable):
            raise AgentforceInputError(f"{_NAME}: the function must not be async.")
        super().__init__(
            python_callable=python_callable, op_args=op_args, op_kwargs=op_kwargs, messages=None, **kwargs
        )

    def execute(self, context: Context) -> dict[str, Any]:
        """Call the function and hold the conversation."""
        self._set_messages(context)
        result: dict[str, Any] = super().execute(context)
        return result

    def execute_complete(self, context: Context, event: Any = None) -> dict[str, Any]:
        """Continue after a wait, with the recorded messages of the function, if there are any."""
        recorded = Ledger.of(context).read(RENDERED)
        self.messages = (recorded.value or {}).get("messages") if recorded is not None else None
        if self.messages is None:
            self._set_messages(context)
        return super().execute_complete(context, event)

    def _set_messages(self, context: Context) -> None:
        from airflow_provider_agentforce.hooks.errors import airflow_errors  # noqa: PLC0415

        try:
            with airflow_errors():
                self._set_from(self._call(context))
        except BaseException as error:
            self._end_earlier_session(context, error)
            raise

    def _call(self, context: Context) -> Any:
        context_merge(context, self.op_kwargs)
        arguments = determine_kwargs(self.python_callable, self.op_args, context)
        return self.python_callable(*self.op_args, **arguments)

    def _set_from(self, returned: Any) -> None:
        if callable(returned):
            self.next_message = returned
        elif isinstance(returned, str | Mapping):
            self.messages = [returned]
        elif isinstance(returned, Sequence) and not isinstance(returned, bytes) and returned:
            self.messages = list(returned)
        else:
            what = "an empty list" if returned in ([], ()) else type(returned).__name__
            raise AgentforceInputError(
                f"{_NAME}: the function must return a message (a string, or a dict with text and variables), "
                f"a list of messages, or a function that gives the next one, but returned {what}."
            )

    def _end_earlier_session(self, context: Context, error: BaseException) -> None:
        """End the session that an earlier try left open for this one, unless another try follows."""
        final = isinstance(error, AirflowFailException | AirflowSkipException)
        ti = context["ti"]
        if context.get("task_state_store") is None or (not final and ti.try_number <= ti.max_tries):
            return
        try:
            entry = Ledger.of(context).read(SESSION)
            if entry is not None:
                end_left(self.open_client(), entry)
        except Exception as second:  # noqa: BLE001 - it must not hide the first error
            self.log.warning("A session of an earlier try may still be open: %s", type(second).__name__)


def agentforce_task(
    python_callable: Callable[..., Any] | None = None, *, multiple_outputs: bool = False, **kwargs: Any
) -> TaskDecorator:
    """Make a function a task that talks to an agent; Dags use it as ``@task.agentforce``.

    :param python_callable: the function, see :class:`AgentforceDecoratedOperator`.
    :param multiple_outputs: store every key of the result as a separate XCom, including ``turns``. The short
        ones (``session_id``, ``sequence_id``, ``agent_id``, ``text``, ``outcome``) always are.
    :param kwargs: arguments of :class:`~airflow_provider_agentforce.operators.ConversationOperator`, except
        ``messages``, and those of every task.
    """
    # Left open, Airflow would infer it from the return type of the function: the message, not the answer.
    return task_decorator_factory(
        python_callable,
        multiple_outputs=multiple_outputs,
        decorated_operator_class=AgentforceDecoratedOperator,
        **kwargs,
    )
