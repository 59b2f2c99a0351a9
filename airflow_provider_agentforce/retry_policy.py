"""Retries by Airflow at the time that the org asks for. Needs Airflow 3.3 or later."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce.exceptions import AgentforceError

if TYPE_CHECKING:
    from airflow.sdk import Context, RetryPolicy
    from airflow.sdk.definitions.retry_policy import RetryDecision
else:
    try:
        from airflow.sdk.definitions.retry_policy import RetryDecision, RetryPolicy
    except ImportError as error:
        raise ImportError("AgentforceRetryPolicy needs Airflow 3.3 or later.") from error


class AgentforceRetryPolicy(RetryPolicy):
    """Retry a task at the time that the org asks for, and not before.

    ``retry_policy=AgentforceRetryPolicy()`` on an operator uses an error's ``retry_after`` (of a 429 or 503)
    as the delay before the next try. Errors without one keep the task's ``retry_delay``. Final errors and
    unknown deliveries end the task without this policy, and ``retries`` remains the limit.

    :param longest: seconds; a longer wait fails the task.
    """

    def __init__(self, longest: float = 3600.0) -> None:
        self.longest = longest

    def evaluate(
        self,
        exception: BaseException,
        try_number: int,  # noqa: ARG002 - Airflow's signature
        max_tries: int,  # noqa: ARG002
        context: Context | None = None,  # noqa: ARG002
    ) -> RetryDecision:
        """Decide on one failure."""
        if not isinstance(exception, AgentforceError) or exception.retry_after is None:
            return RetryDecision.default()
        if exception.retry_after > self.longest:
            return RetryDecision.fail(f"The org asks to wait {exception.retry_after:g} s.")
        delay = timedelta(seconds=exception.retry_after)
        return RetryDecision.retry(delay, f"The org asks to wait {exception.retry_after:g} s.")

    def serialize(self) -> dict[str, Any]:
        """Return the arguments for :meth:`deserialize`."""
        return {"longest": self.longest}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> AgentforceRetryPolicy:
        """Return the policy that :meth:`serialize` described."""
        return cls(**data)
