"""What an org's processes share in Redis: scripts that run there. Needs the extra ``redis``.

Each operation is one script, so that it is atomic, and the time is that of Redis, so that the clocks of the
workers do not matter.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError
from redis.retry import Retry

from airflow_provider_agentforce.exceptions import one_line

# A worker that waits for its Redis does nothing else, and its share is known.
_CALL_SECONDS = 2.0
_BORN_SECONDS = 30 * 86400.0
_REFUSALS = (redis.AuthenticationError, NoPermissionError)

_BEGIN = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local asked = cjson.decode(ARGV[1])

-- Returns the age of the data, whether it is new, and the seconds since Redis began, at least: its uptime is
-- the difference of two times in whole seconds. A Redis that has begun again, or has taken the place of
-- another one, may have lost what was written last.
local function age_of(key, ttl, more)
  local info = redis.pcall('INFO', 'server')
  info = type(info) == 'string' and info or ''
  local run = string.match(info, 'run_id:(%x+)') or ''
  local age = redis.call('GET', key)
  local is_new = not age or string.match(age, '^%x*') ~= run
  if is_new then
    age = table.concat({run, now, more}, '|')
    redis.call('SET', key, age)
  end
  redis.call('PEXPIRE', key, ttl)
  local up = tonumber(string.match(info, 'uptime_in_seconds:(%d+)')) or math.huge
  return age, is_new, up - 1
end
"""


class StoreUnreachableError(Exception):
    """The store cannot be reached now."""


class StoreRefusedError(StoreUnreachableError):
    """Redis refuses the user, the password, or a command to this user."""


class RedisScripts:
    """Runs scripts on the keys of one org. Safe to share between threads.

    :param client: a ``redis.Redis``. Its address and credentials are used, not its timeouts and retries.
    :param org: identifies the org.
    """

    def __init__(self, client: Any, org: str) -> None:
        digest = hashlib.sha256(org.encode()).hexdigest()[:16]
        self._prefix = f"agentforce:{{{digest}}}"
        self.client = _impatient(client)

    def keys(self, *names: str) -> list[str]:
        """Return the org's keys of these names."""
        return [f"{self._prefix}:{name}" for name in names]

    def register(self, script: str) -> Any:
        """Return a script that can be run. It knows ``now``, ``asked`` and ``age_of``."""
        return self.client.register_script(_BEGIN + script)

    def run(self, script: Any, keys: list[str], asked: dict[str, Any]) -> Any:
        """Run a script on *keys*.

        :param asked: what it is to know, as JSON.
        :raises StoreUnreachableError: if it is not known whether it ran.
        """
        try:
            return script(keys=keys, args=[json.dumps({"born": ms(_BORN_SECONDS), **asked})])
        except (redis.RedisError, OSError) as error:
            kind = StoreRefusedError if isinstance(error, _REFUSALS) else StoreUnreachableError
            raise kind(f"{type(error).__name__}: {one_line(str(error), 120)}") from error


def ms(seconds: float) -> int:
    """Convert seconds to milliseconds."""
    return int(seconds * 1000)


def text(value: Any) -> str:
    """Return what a script returned as text; the client may decode it or not."""
    return value.decode() if isinstance(value, bytes) else str(value)


def _impatient(client: Any) -> Any:
    """Return a client of the same Redis with a timeout; by default there is none."""
    pool = client.connection_pool
    options = {
        **pool.connection_kwargs,
        "socket_timeout": _CALL_SECONDS,
        "socket_connect_timeout": _CALL_SECONDS,
        # A connection that Redis has closed meanwhile is opened again once. A repeated request counts once.
        "retry": Retry(NoBackoff(), 1),
    }
    return redis.Redis(
        connection_pool=redis.ConnectionPool(connection_class=pool.connection_class, **options)
    )
