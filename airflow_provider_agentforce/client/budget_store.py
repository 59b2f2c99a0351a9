"""The use of an org's budgets by all its processes, counted in Redis. Needs the extra ``redis``."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import redis

from airflow_provider_agentforce.client.after_fork import ForkSafeLock
from airflow_provider_agentforce.client.redis_scripts import RedisScripts, StoreUnreachableError, ms, text
from airflow_provider_agentforce.exceptions import AgentforceTransientError

log = logging.getLogger(__name__)

_DAY = 86400.0
# Counts a member of today's budget. Returns {ms until tomorrow if it is used up, else 0, how many are used,
# age of the data, day}. What is lost is what a process knows to be used beyond what is there since the loss.
_SPEND = """
local used, day, lost, born = unpack(KEYS)
local today = math.floor(now / asked.day)
local before = tonumber(redis.call('GET', day))
-- A clock that is set back across midnight makes no new day.
if before == today + 1 then
  today = before
end
if before ~= today then
  redis.call('DEL', used, lost)
  redis.call('SET', day, today, 'PX', 2 * asked.day)
end
local counted = redis.call('SCARD', used)
local more = tonumber(redis.call('GET', lost) or 0)
local age = age_of(born, asked.born, counted)
if asked.age and asked.age ~= age and asked.today == today then
  more = math.max(more, asked.known - string.match(age, '(%d+)$'))
  redis.call('SET', lost, more, 'PX', 2 * asked.day)
end
local free_in = 0
if asked.one == nil or redis.call('SISMEMBER', used, asked.one) == 0 then
  if counted + more >= asked.per_day then
    free_in = (today + 1) * asked.day - now
  elseif asked.one then
    redis.call('SADD', used, asked.one)
    redis.call('PEXPIRE', used, 2 * asked.day)
    counted = counted + 1
  end
end
return {free_in, counted + more, age, today}
"""


class _Spent(NamedTuple):
    """A process's knowledge of the use of a budget.

    :param age: changes when the store has lost its data.
    """

    used: int
    age: str
    day: int


class BudgetStore:
    """The budgets of one org. Safe to share between threads.

    :param scripts: of the org.
    """

    def __init__(self, scripts: RedisScripts) -> None:
        self._scripts = scripts
        self._spend = scripts.register(_SPEND)
        self._spent: dict[str, _Spent] = {}
        self._learning = ForkSafeLock()

    def spend(self, kind: str, per_day: int, one: str | None) -> float:
        """Count *one* towards today's budget of a kind; ``None``: check without counting.

        :param one: its id; it counts once, however often it is sent.
        :returns: 0 if it is counted, seconds until tomorrow if nothing is left.
        :raises AgentforceTransientError: if the store cannot be reached.
        """
        asked: dict[str, Any] = {"per_day": per_day, "day": ms(_DAY)}
        if one is not None:
            asked["one"] = one
        known = self._spent.get(kind)
        if known is not None:
            asked |= {"known": known.used, "age": known.age, "today": known.day}
        try:
            free_in, used, age, day = self._scripts.run(self._spend, self._keys(kind), asked)
        except StoreUnreachableError as error:
            raise AgentforceTransientError(
                "The budget cannot be counted because the Redis of limits_conn_id cannot be reached "
                f"({error}); nothing was sent."
            ) from error
        spent = _Spent(used, text(age), day)
        with self._learning:
            latest = self._spent.get(kind)
            # Another thread may know of a later use.
            if latest is None or latest[1:] != spent[1:] or latest.used < used:
                self._spent[kind] = spent
        return float(free_in) / 1000

    def refund(self, kind: str, one: str) -> None:
        """Stop counting *one*. If that fails, it stays counted."""
        try:
            self._scripts.client.srem(self._keys(kind)[0], one)
        except redis.RedisError as error:
            log.warning("A refused call stays counted in the budget: %s", type(error).__name__)

    def _keys(self, kind: str) -> list[str]:
        budget = f"budget:{kind}"
        return self._scripts.keys(budget, f"{budget}:day", f"{budget}:lost", f"{budget}:born")
