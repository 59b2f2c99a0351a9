"""A limit on messages or sessions per day, counted for all workers and over all runs."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from airflow_provider_agentforce.client import validation
from airflow_provider_agentforce.exceptions import AgentforceError, BudgetExceededError

if TYPE_CHECKING:
    from airflow_provider_agentforce.client.budget_store import BudgetStore

MESSAGES, SESSIONS = KINDS = ("messages", "sessions")
STOP, WAIT = _AT_LIMIT = ("stop", "wait")


@dataclass(frozen=True)
class Budget:
    """A limit on the use of an org per day, from 00:00 to 24:00 UTC.

    The use is counted in the Redis of the connection's ``limits_conn_id``, for all tasks that have a budget
    of the same kind for the same org. A message counts when it leaves; a message that the org refuses does
    not count. After a kill a message that may have left stays counted, and is not counted again.

    :param kind: ``messages`` or ``sessions``.
    :param per_day: the number per day.
    :param at_limit: ``stop``: the work ends cleanly; ``wait``: it continues the next day, and the task waits
        without a worker slot.
    :raises AgentforceInputError: if a value cannot be used.
    """

    kind: Literal["messages", "sessions"]
    per_day: int
    at_limit: Literal["stop", "wait"] = "stop"

    def __post_init__(self) -> None:
        validation.one_of(KINDS, self.kind, "budget: kind")
        validation.one_of(_AT_LIMIT, self.at_limit, "budget: at_limit")
        object.__setattr__(self, "per_day", validation.count(self.per_day, "budget: per_day"))


class Spending:
    """One client's use of a budget.

    :param store: the store that counts.
    """

    def __init__(self, budget: Budget, store: BudgetStore) -> None:
        self.budget = budget
        self._store = store

    def check(self) -> None:
        """Check that something is left, before other work is done.

        :raises BudgetExceededError: if nothing is left.
        :raises AgentforceTransientError: if that cannot be found out now.
        """
        self._count(None)

    def spend(self) -> str:
        """Count one use, and return its record.

        :raises BudgetExceededError: if nothing is left.
        :raises AgentforceTransientError: if it cannot be counted now.
        """
        one = uuid.uuid4().hex
        self._count(one)
        return one

    def give_back(self, one: str) -> None:
        """Remove a use that did not happen from the count. If that fails, it stays counted."""
        self._store.refund(self.budget.kind, one)

    def _count(self, one: str | None) -> None:
        budget = self.budget
        left = self._store.spend(budget.kind, budget.per_day, one)
        if left > 0:
            raise BudgetExceededError(
                f"The budget of {budget.per_day:,} {budget.kind} a day is used up until 00:00 UTC.",
                retry_after=left,
                retryable=budget.at_limit == WAIT,
            )


class BudgetCharge:
    """Pays for one call right before it leaves.

    :param spending: ``None``: there is no budget.
    :param kind: ``messages`` or ``sessions``.
    :param before_send: is called first. The message that it records is not sent if this raises an error.
    """

    def __init__(
        self, spending: Spending | None, kind: str, before_send: Callable[[str | None], None] | None
    ) -> None:
        self._spending = spending if spending is not None and spending.budget.kind == kind else None
        self._before_send = before_send
        self._paid: dict[str | None, str] = {}

    def charge(self, key: str | None) -> None:
        """Count the call, once for each *key*; this is the ``before_send`` of a call."""
        if self._before_send is not None:
            self._before_send(key)
        if self._spending is not None and key not in self._paid:
            self._paid[key] = self._spending.spend()

    def failed(self, error: BaseException) -> None:
        """Undo the last count if, according to its *error*, the call was refused, or not sent."""
        refused = isinstance(error, AgentforceError) and error.applied is False
        if refused and self._spending is not None and self._paid:
            self._spending.give_back(self._paid.popitem()[1])
