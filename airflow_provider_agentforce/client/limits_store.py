"""The sessions and starts of an org's processes, kept in Redis. Needs the extra ``redis``.

A lease has an id that its process has chosen: a request that is repeated because its reply was lost counts
once.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from airflow_provider_agentforce.client.budget_store import BudgetStore
from airflow_provider_agentforce.client.redis_scripts import (
    RedisScripts,
    StoreRefusedError,
    StoreUnreachableError,
    ms,
    text,
)
from airflow_provider_agentforce.exceptions import AgentforceInputError, AgentforceTransientError

_LEASE_SECONDS = 45.0
_BEAT_SECONDS = 5.0
# Beats after which a silent process no longer counts.
_SILENT_BEATS = 3
# After a restart in which Redis lost its data: beats until all processes have reported their leases.
_SETTLING_BEATS = 2
# How long a group that was refused counts as waiting.
_WANTING_SECONDS = 1.5

_COMMON = """
local open, starts, members, pause, wish, born, settle = unpack(KEYS)

local function put(key, score, member, ttl)
  redis.call('ZADD', key, score, member)
  redis.call('PEXPIRE', key, ttl)
end

local function left(key)
  return math.max(0, redis.call('PTTL', key))
end

-- If the clock has been set back, a time that it showed before counts as the latest possible one.
local function not_after(key, latest)
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', key, '(' .. latest, '+inf')) do
    redis.call('ZADD', key, latest, member)
  end
end

local function known()
  not_after(members, now)
  redis.call('ZREMRANGEBYSCORE', members, '-inf', now - asked.silent)
  local at, is_new, up = age_of(born, asked.born)
  local wait = 0
  if asked.age and asked.age ~= at then
    wait = string.match(at, '|(%d+)') + asked.settle - now
  elseif is_new then
    wait = asked.settle - up * 1000
  end
  if wait > left(settle) then
    redis.call('SET', settle, 1, 'PX', math.min(wait, asked.settle))
  end
  return at
end
"""

# Grants a lease, or says why not. Returns {granted, ms until one may come free or -1, processes, ms that the
# org asked to wait, age of the data, open sessions, starts within the hour}.
_ACQUIRE = (
    _COMMON
    + """
local wanting, turns = KEYS[8], KEYS[9]
not_after(open, now + asked.ttl)
not_after(starts, now)
not_after(wanting, now)
not_after(turns, now)
redis.call('ZREMRANGEBYSCORE', open, '-inf', now)
redis.call('ZREMRANGEBYSCORE', starts, '-inf', now - asked.window)
redis.call('ZREMRANGEBYSCORE', wanting, '-inf', now - asked.wanting)
put(members, now, asked.process, asked.silent)
local at = known()

local function answer(granted, free_in)
  return {granted, free_in, redis.call('ZCARD', members), left(wish), at,
          redis.call('ZCARD', open), redis.call('ZCARD', starts)}
end

local function refuse(free_in)
  put(wanting, now, asked.group, asked.wanting)
  return answer(0, free_in)
end

if redis.call('ZSCORE', open, asked.lease) then
  return answer(1, 0)
end
local wait = math.max(left(pause), left(settle))
if wait > 0 then
  return refuse(wait)
end
local started = redis.call('ZCARD', starts)
if started >= asked.most_per_hour then
  local rank = started - asked.most_per_hour
  local score = redis.call('ZRANGE', starts, rank, rank, 'WITHSCORES')[2]
  return refuse(math.max(1, score + asked.window - now))
end
local free = asked.most_open - redis.call('ZCARD', open)
if free <= 0 then
  return refuse(-1)
end

-- A slot is kept for each group that waits and comes first: the one with fewer sessions open, or of two with
-- as many the one whose last start is longer ago. If the starts of the hour run out first, groups take turns.
local others, held = {}, {}
for _, group in ipairs(redis.call('ZRANGE', wanting, 0, -1)) do
  if group ~= asked.group then
    others[#others + 1] = group
  end
end
for _, lease in ipairs(#others > 0 and redis.call('ZRANGE', open, 0, -1) or {}) do
  local group = string.match(lease, '^[^|]*')
  held[group] = (held[group] or 0) + 1
end
local in_turns = asked.most_per_hour - started <= free
local function last_start(group)
  return tonumber(redis.call('ZSCORE', turns, group) or 0)
end
local function comes_first(group)
  local fewer = (held[asked.group] or 0) - (held[group] or 0)
  if in_turns or fewer == 0 then
    return last_start(group) < last_start(asked.group)
  end
  return fewer > 0
end
local kept = 0
for _, group in ipairs(others) do
  kept = kept + (comes_first(group) and 1 or 0)
end
if free <= kept or in_turns and kept > 0 then
  return refuse(-1)
end
put(turns, now, asked.group, asked.window)
put(open, now + asked.ttl, asked.lease, 2 * asked.ttl)
put(starts, now, asked.lease, asked.window)
return answer(1, 0)
"""
)

# Reports the leases of a process, and with `all` also that it has no others, and when it started sessions.
_SYNC = (
    _COMMON
    + """
local function only(key, mine)
  local suffix = '|' .. asked.process .. '|'
  for _, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do
    if string.find(member, suffix, 1, true) and not mine[member] then
      redis.call('ZREM', key, member)
    end
  end
end

local mine = {}
for _, lease in ipairs(asked.leases) do
  mine[lease] = true
  put(open, now + asked.ttl, lease, 2 * asked.ttl)
end
if asked.all then
  only(open, mine)
  local begun = {}
  for _, start in ipairs(asked.starts) do
    begun[start[1]] = true
    if not redis.call('ZSCORE', starts, start[1]) then
      put(starts, now - start[2], start[1], asked.window)
    end
  end
  only(starts, begun)
end
if #asked.leases > 0 or asked.all then
  put(members, now, asked.process, asked.silent)
end
return known()
"""
)

# Gives a lease back; `forget`: no session was started with it. Notes a pause that the org asked for.
_RETURN = (
    _COMMON
    + """
if asked.lease then
  redis.call('ZREM', open, asked.lease)
  if asked.forget then
    redis.call('ZREM', starts, asked.lease)
  end
end
if asked.started then
  redis.call('DEL', wish)
end
for key, ms in pairs({[pause] = asked.pause or 0, [wish] = asked.wish or 0}) do
  if ms > left(key) then
    redis.call('SET', key, 1, 'PX', ms)
  end
end
return 0
"""
)


@dataclass(frozen=True)
class Grant:
    """The store's answer to a request for a start.

    :param granted: whether the start is allowed.
    :param free_in: seconds until the next start is allowed, if that is known.
    :param processes: how many use the org.
    :param asked_for: seconds that the org has asked to wait.
    :param age: changes when the store has lost its data.
    :param open: sessions that are open, of all processes.
    :param starts: of all processes within the hour.
    """

    granted: bool
    free_in: float | None
    processes: int
    asked_for: float
    age: str
    open: int
    starts: int


class LimitsStore:
    """The limits of one org in Redis. Safe to share between threads.

    :param client: a ``redis.Redis``. Its address and credentials are used, not its timeouts and retries.
    :param org: identifies the org.
    :param name: of the Redis connection, for errors.
    :param lease: seconds after which the leases of a dead process are free.
    :param beat: seconds between two reports of a process.
    :param group: whose sessions these are. Groups that wait share what is free: the ids of Dags, for example.
    :ivar budgets: the org's budgets, in the same Redis.
    """

    def __init__(
        self,
        client: Any,
        org: str,
        *,
        name: str = "redis",
        group: str = "",
        lease: float = _LEASE_SECONDS,
        beat: float = _BEAT_SECONDS,
    ) -> None:
        self.beat = beat
        self._lease_seconds = lease
        self.name = name
        self.group = hashlib.sha256(group.encode()).hexdigest()[:8]
        self._scripts = RedisScripts(client, org)
        self.budgets = BudgetStore(self._scripts)
        names = ("open", "starts", "processes", "pause", "wish", "born", "settle", "waiting", "turns")
        self._keys = self._scripts.keys(*names)
        register = self._scripts.register
        self._acquire, self._sync, self._return = map(register, (_ACQUIRE, _SYNC, _RETURN))

    def close(self) -> None:
        """Close the connections to Redis."""
        self._scripts.client.close()

    def check(self) -> None:
        """Check that Redis can be used.

        :raises AgentforceInputError: if it refuses the user, the password, or the commands to this user.
        :raises AgentforceTransientError: if it cannot be reached.
        """
        try:
            self.renew("check", (), window=0.0, age=None)
        except StoreRefusedError as error:
            raise AgentforceInputError(
                f"limits_conn_id: Redis refuses the connection {self.name!r}: {error}",
                hint="Correct its user and password, or the rights of the user.",
            ) from None
        except StoreUnreachableError as error:
            raise AgentforceTransientError(
                f"limits_conn_id: the Redis of the connection {self.name!r} cannot be reached: {error}",
                hint="Until it can, each task uses its share of the limits.",
            ) from None

    def lease(self, process: str) -> str:
        """Return the id of a new lease.

        :param process: its id.
        """
        return f"{self.group}|{process}|{uuid.uuid4().hex[:12]}"

    def acquire(
        self,
        lease: str,
        process: str,
        *,
        most_open: int,
        most_per_hour: int,
        window: float,
        age: str | None,
    ) -> Grant:
        """Take a lease, and count a start.

        :param window: seconds of the hourly limit.
        :param age: of the data that the process knows. If the store has lost it, nothing is granted until
            all processes have said what they hold.
        :raises StoreUnreachableError: if it is not known whether it is taken.
        """
        asked = {
            "lease": lease,
            "process": process,
            "group": self.group,
            "most_open": most_open,
            "most_per_hour": most_per_hour,
            "window": ms(window),
            "wanting": ms(_WANTING_SECONDS),
            **_known(age),
        }
        granted, free_in, processes, wish, age, is_open, starts = self._run(self._acquire, asked)
        return Grant(
            granted=bool(granted),
            free_in=free_in / 1000 if free_in > 0 else None,
            processes=processes,
            asked_for=wish / 1000,
            age=text(age),
            open=is_open,
            starts=starts,
        )

    def renew(
        self,
        process: str,
        leases: Collection[str],
        starts: Mapping[str, float] | None = None,
        *,
        window: float,
        age: str | None,
    ) -> str:
        """Renew leases, including those that have expired.

        :param starts: ages in seconds of the starts of this process, by lease; then the store also forgets
            other leases and starts of it. ``None``: leave them.
        :param age: as of :meth:`acquire`.
        :returns: what changes when the store has lost its data.
        :raises StoreUnreachableError: if it cannot be asked.
        """
        asked = {
            "process": process,
            "leases": list(leases),
            "all": starts is not None,
            "starts": [[lease, ms(age)] for lease, age in (starts or {}).items()],
            "window": ms(window),
            **_known(age),
        }
        return text(self._run(self._sync, asked))

    def give_back(
        self,
        lease: str | None,
        *,
        forget: bool = False,
        started: bool = False,
        pause: float = 0.0,
        asked_for: float = 0.0,
    ) -> None:
        """Give back a lease, if one is given.

        :param forget: the start that it was taken for was refused, or never made.
        :param started: the org accepts sessions again.
        :param pause: seconds for which no process may start a session.
        :param asked_for: seconds that the org asked to wait.
        :raises StoreUnreachableError: if it is not known whether this was done.
        """
        asked = {"forget": forget, "started": started, "pause": ms(pause), "wish": ms(asked_for)}
        self._run(self._return, {**asked, **({"lease": lease} if lease else {})})

    def _run(self, script: Any, asked: dict[str, Any]) -> Any:
        common = {
            "ttl": ms(self._lease_seconds),
            "silent": ms(_SILENT_BEATS * self.beat),
            "settle": ms(_SETTLING_BEATS * self.beat),
        }
        return self._scripts.run(script, self._keys, {**common, **asked})


def _known(age: str | None) -> dict[str, str]:
    # Lua would take a null for a value.
    return {} if age is None else {"age": age}
