"""Arguments of several operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, NoReturn

from airflow_provider_agentforce._compat import date_time_trigger
from airflow_provider_agentforce.client import validation
from airflow_provider_agentforce.client.models import SessionOptions
from airflow_provider_agentforce.delivery import RESEND
from airflow_provider_agentforce.exceptions import BudgetExceededError, RateLimitedError
from airflow_provider_agentforce.operators import _arguments as arguments
from airflow_provider_agentforce.operators._base import AgentforceBaseOperator

if TYPE_CHECKING:
    from airflow_provider_agentforce.client.budget import Budget
    from airflow_provider_agentforce.client.client import AgentforceClient
    from airflow_provider_agentforce.client.models import Turn
    from airflow_provider_agentforce.delivery import OnUnknownDelivery

# Seconds. A shorter wait for a limit takes place in the worker slot.
_WORTH_A_DEFERRAL = 60.0


class UsesLimits(AgentforceBaseOperator):
    """An operator that starts sessions or sends messages, and may have to wait for a limit.

    :param budget: limit on the use per day, a :class:`~airflow_provider_agentforce.client.budget.Budget`.
    :param deferrable: free the worker slot during a wait of a minute or more. Default: ``[operators]
        default_deferrable``.
    """

    def __init__(
        self, *, budget: Budget | None = None, deferrable: bool | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.budget = arguments.check_budget(budget)
        self.deferrable = arguments.check_deferrable(deferrable)

    def open_client(self) -> AgentforceClient:
        """Return the client, which keeps within the budget."""
        client = super().open_client()
        return client if self.budget is None else client.with_budget(self.budget)

    def pause_for(self, error: BaseException) -> float | None:
        """Return the seconds for which the task may free its slot because a limit is reached.

        ``None``: the agent may have acted, the error is not such a limit, or the wait is too short.
        """
        if self._killed or not isinstance(error, RateLimitedError | BudgetExceededError):
            return None
        pause = error.retry_after or 0.0
        worth_it = self.deferrable and pause >= _WORTH_A_DEFERRAL
        wanted = isinstance(error, BudgetExceededError) or worth_it
        return pause if wanted and error.retryable and error.applied is False else None

    def wait_without_slot(self, pause: float) -> NoReturn:
        """Free the worker slot for *pause* seconds. Nothing is sent meanwhile."""
        until = datetime.now(timezone.utc) + timedelta(seconds=pause)
        self.log.info(
            "Waiting until %s for a limit, without a worker slot.", until.isoformat(timespec="seconds")
        )
        self.defer_until(until, date_time_trigger(until))


class StartsSessions(UsesLimits):
    """An operator that starts sessions.

    :param agent_id: id (``0Xx…``) or API name of the agent. Default: the connection's extra ``agent_id``.
    :param variables: context variables, ``[{"name", "type", "value"}]`` or a dict of names to values.
    :param tz: time zone name, such as ``Europe/Berlin``.
    :param bypass_user: ``True`` for service agents, ``False`` for employee agents. Default: the value that
        fits the connection's ``auth``.
    :param surface_type: ``Custom`` for an agent that has a custom connection.
    """

    template_fields: Sequence[str] = ("agent_id", "variables", "tz", *AgentforceBaseOperator.template_fields)

    def __init__(
        self,
        *,
        agent_id: str | None = None,
        variables: Any = None,
        tz: str | None = None,
        bypass_user: bool | None = None,
        surface_type: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.agent_id = agent_id
        self.variables = variables
        self.tz = tz
        self.bypass_user = bypass_user
        self.surface_type = surface_type

    def check_arguments(self) -> None:
        """Refuse literals with which no session can be started."""
        SessionOptions(bypass_user=self.bypass_user, surface_type=self.surface_type)
        arguments.check_variables(self.variables)
        arguments.check_values(
            self,
            agent_id=validation.agent,
            tz=validation.time_zone,
            external_session_key=validation.session_key,
        )

    def session_options(self, agent_id: str, external_session_key: str) -> SessionOptions:
        """Return the rendered arguments, checked.

        :param agent_id: id of the agent from the connection or the operator.
        """
        return SessionOptions(
            agent_id, self.variables, self.tz, self.bypass_user, external_session_key, self.surface_type
        )


class SendsMessages(UsesLimits):
    """An operator that sends messages.

    :param output_type: a pydantic model, a ``TypedDict``, another type, or a JSON schema.
    :param output_retries: corrective questions about an answer that does not fit, 0 or 1.
    :param on_unknown_delivery: the reaction if it is not known whether the agent acted, see
        :mod:`airflow_provider_agentforce.delivery`.
    :param store_requests: store each message with its answer.
    """

    def __init__(
        self,
        *,
        output_type: Any = None,
        output_retries: int = 1,
        on_unknown_delivery: OnUnknownDelivery = "fail",
        store_requests: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.output_type = arguments.check_output_type(output_type)
        self.output_retries = arguments.check_choice("output_retries", output_retries, 0, 1)
        self.on_unknown_delivery = on_unknown_delivery
        self.steps = arguments.check_steps(on_unknown_delivery)
        self.store_requests = arguments.check_choice("store_requests", store_requests, True, False)

    @property
    def resends(self) -> bool:
        """Whether a message may be sent again even if the agent may have acted."""
        return self.steps == (RESEND,)

    @property
    def resolves(self) -> bool:
        """Whether there is a step that resolves a message."""
        return len(self.steps) > 1


class StoresPlans(SendsMessages):
    """An operator that sends messages and can store what the agent's planner did.

    :param store_plans: store what the planner did with each answer.
    """

    def __init__(self, *, store_plans: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.store_plans = arguments.check_choice("store_plans", store_plans, True, False)

    def explain(self, client: AgentforceClient) -> Callable[[Turn], Turn] | None:
        """Return the function that adds its plan to a turn, ``None`` if plans are not stored."""
        return client.with_plan if self.store_plans else None
