"""Keeps one access token for all threads: gets it once, renews it in time, replaces one that is refused."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from airflow_provider_agentforce.client.responses import TokenReply
from airflow_provider_agentforce.exceptions import AgentforceTransientError

log = logging.getLogger(__name__)

# JWT-based access tokens live 30 minutes at most, and the reply need not tell
# (https://developer.salesforce.com/docs/ai/agentforce/guide/agent-api-get-started.html).
UNTOLD_LIFETIME = 28 * 60.0
_LEEWAY = 60.0
_JITTER = 30.0
# A token service that hangs must not hold up every call while the old token lives.
_PAUSE = 10.0


@dataclass(frozen=True)
class Token:
    """An access token and its times on the monotonic clock, which no change of the wall clock moves."""

    reply: TokenReply = field(repr=False)
    renew_at: float
    ends_at: float

    @property
    def value(self) -> str:
        """The bearer."""
        return self.reply.access_token


class _Held:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.token: Token | None = None


class TokenCache:
    """One token for any number of threads.

    :param fetch: makes the token call with all its retries and returns the reply, or raises.
    """

    def __init__(self, fetch: Callable[[], TokenReply]) -> None:
        self._fetch = fetch
        self._held = _Held()

    def fetched_by(self, fetch: Callable[[], TokenReply]) -> TokenCache:
        """Return a cache of the same token whose holder makes the token call in its own way."""
        other = TokenCache(fetch)
        other._held = self._held
        return other

    @property
    def current(self) -> Token | None:
        """The token at hand, whatever its age, without a call."""
        return self._held.token

    def get(self) -> Token:
        """Return a token that still lives, getting or renewing it if needed.

        A renewal that fails for a passing reason is put off while the old token lives.
        """
        token = self._held.token
        if token is not None and time.monotonic() < token.renew_at:
            return token
        with self._held.lock:
            token = self._held.token
            if token is not None and time.monotonic() < token.renew_at:
                return token
            try:
                return self._renew()
            except AgentforceTransientError:
                if token is None or time.monotonic() >= token.ends_at:
                    raise
                log.warning("The access token could not be renewed early; it is used until it ends.")
                self._held.token = replace(token, renew_at=time.monotonic() + _PAUSE)
                return self._held.token

    def replace(self, refused: Token) -> Token:
        """Return another token than *refused*. Threads that were refused the same one share one exchange."""
        with self._held.lock:
            if self._held.token is not None and self._held.token is not refused:
                return self._held.token
            return self._renew()

    def _renew(self) -> Token:
        asked_at = time.monotonic()
        reply = self._fetch()
        lifetime = UNTOLD_LIFETIME if reply.lifetime is None else reply.lifetime
        # A short life (a test org, a lowered setting) must leave most of itself for use.
        early = min(_LEEWAY, lifetime / 4) + random.uniform(0, min(_JITTER, lifetime / 8))  # noqa: S311
        self._held.token = Token(reply, renew_at=asked_at + lifetime - early, ends_at=asked_at + lifetime)
        return self._held.token
