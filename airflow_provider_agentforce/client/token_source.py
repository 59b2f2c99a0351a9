"""Gets one access token for all threads, renews it in time, and replaces one that is refused."""

from __future__ import annotations

import logging
import random
import time
from dataclasses import dataclass, field, replace
from urllib.parse import urlencode

from typing_extensions import Self

from airflow_provider_agentforce.client import failure_catalogue, jwt_bearer, responses, validation
from airflow_provider_agentforce.client.answer_reader import JsonReader
from airflow_provider_agentforce.client.api_requests import ApiRequest, HttpCall
from airflow_provider_agentforce.client.attempt import Access
from airflow_provider_agentforce.client.delivery_policy import Operation
from airflow_provider_agentforce.client.executor import RequestExecutor
from airflow_provider_agentforce.client.responses import TokenReply
from airflow_provider_agentforce.client.settings import JWT_BEARER, Settings
from airflow_provider_agentforce.client.single_flight import SingleFlight
from airflow_provider_agentforce.client.token_file import KeptToken, TokenFile
from airflow_provider_agentforce.exceptions import AgentforceTransientError

log = logging.getLogger(__name__)

DEFAULT_API = "https://api.salesforce.com"
# JWT-based access tokens live 30 minutes at most, and the reply need not tell
# (https://developer.salesforce.com/docs/ai/agentforce/guide/agent-api-get-started.html).
UNTOLD_LIFETIME = 28 * 60.0
_LEEWAY = 60.0
_JITTER = 30.0
# A token service that hangs must not hold up every call while the old token lives.
_PAUSE = 10.0
# Attempts of the token call that another thread's wait covers.
_LONGEST_FLIGHT = 3


@dataclass(frozen=True, kw_only=True)
class TokenRequest(ApiRequest):
    """Exchanges the credentials of the app or the user for a token. They are in the body, never in a URL.

    https://developer.salesforce.com/docs/ai/agentforce/guide/agent-api-get-started.html

    :param now: wall clock in seconds: an assertion is short-lived, and some tokens state only their expiry.
    """

    operation = Operation.TOKEN
    doing = "Getting an access token"
    settings: Settings
    now: float = 0.0

    def for_attempt(self, losses: int, now: float) -> Self:  # noqa: ARG002 - a token call does no harm twice
        """Return the request as of *now*."""
        return replace(self, now=now)

    def call(self, api_url: str) -> HttpCall:  # noqa: ARG002 - the org's own host issues tokens
        """Return ``POST /services/oauth2/token``."""
        settings, assertion = self.settings, ""
        if settings.auth == JWT_BEARER:
            assertion = jwt_bearer.assertion(
                settings.signing_key,
                consumer_key=settings.consumer_key,
                username=settings.username or "",
                audience=settings.audience or "",
                now=self.now,
            )
            form = {"grant_type": jwt_bearer.GRANT_TYPE, "assertion": assertion}
        else:
            form = {
                "grant_type": "client_credentials",
                "client_id": settings.consumer_key,
                "client_secret": settings.consumer_secret or "",
            }
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        url = f"{settings.host}/services/oauth2/token"
        return HttpCall("POST", url, headers, urlencode(form).encode("ascii"), secret=assertion)

    def read(self, reader: JsonReader) -> TokenReply:
        """Return the token."""
        return responses.token(reader.body, now=self.now)


@dataclass(frozen=True)
class Token:
    """An access token and its times on the timing's monotonic clock."""

    reply: TokenReply = field(repr=False)
    access: Access
    renew_at: float
    ends_at: float


class TokenCache:
    """The data that the token sources of a client and its siblings share.

    :param file: the file that other processes also share; ``None``: none.
    """

    def __init__(self, file: TokenFile | None = None) -> None:
        self.token: Token | None = None
        self.renewal: SingleFlight[Token] = SingleFlight()
        self.file = file


class TokenSource:
    """Provides access to an org with its own token call. It can be shared between threads.

    :param executor: makes the token call, without access.
    :param cache: shared with the sources of sibling clients.
    """

    def __init__(
        self,
        settings: Settings,
        executor: RequestExecutor,
        cache: TokenCache | None = None,
    ) -> None:
        self._settings = settings
        self._executor = executor
        self._cache = cache or TokenCache(_file_of(settings))

    def sibling(self) -> TokenSource:
        """Return a source of the same token with its own deadline, which can be stopped alone."""
        return TokenSource(self._settings, self._executor.sibling(), self._cache)

    def executor(self) -> RequestExecutor:
        """Return an executor whose requests have the token; it shares the deadline of the token call."""
        return self._executor.with_access(self.access)

    def access(self, refused: Access | None = None, during_cleanup: bool = False) -> Access:
        """Return an access: the current token, or a new one.

        :param refused: the access that the org refused; a newer token of another thread is returned.
        :param during_cleanup: return the current token, whatever its age.
        :raises AgentforceError: the org issues no token. Threads that wait for the same call share its error.
        """
        token = self._cache.token
        if during_cleanup and token is not None:
            return token.access
        return self.token(refused).access

    def token(self, refused: Access | None = None) -> Token:
        """Return a token that has not expired, like :meth:`access`.

        A renewal that fails for a temporary reason is postponed until the old token expires.
        """
        token = self._usable(refused)
        if token is not None:
            return token
        longest = self._settings.timeout * _LONGEST_FLIGHT
        return self._cache.renewal.share(
            lambda: self._usable(refused) or self._renew(refused), self._executor.deadline, longest=longest
        )

    def _usable(self, refused: Access | None) -> Token | None:
        if self._cache.file is not None:
            self._cache.file.learn(self._learn)
        token = self._cache.token
        fresh = token is not None and token.access is not refused and self._now() < token.renew_at
        return token if fresh else None

    def _learn(self, kept: KeptToken) -> None:
        """Use the token that another process has obtained meanwhile."""
        known = self._cache.token
        if known is None or known.reply.access_token != kept.reply.access_token:
            self._executor.redactor.add(kept.reply.access_token)
            since = self._now() - time.time()
            self._cache.token = self._token(kept.reply, kept.renew_at + since, kept.ends_at + since)

    def _renew(self, refused: Access | None) -> Token:
        file = self._cache.file
        if file is None:
            return self._renew_here(refused)
        with file.lock(self._executor.deadline, longest=self._settings.timeout):
            return self._usable(refused) or self._renew_here(refused)

    def _renew_here(self, refused: Access | None) -> Token:
        old = self._cache.token
        try:
            self._cache.token = new = self._fetch()
        except AgentforceTransientError:
            if old is None or old.access is refused or self._now() >= old.ends_at:
                raise
            log.warning("The access token could not be renewed early; it is used until it expires.")
            # Among the secrets added last, the assertions of the attempts have replaced it.
            self._executor.redactor.add(old.reply.access_token)
            self._cache.token = new = replace(old, renew_at=self._now() + _PAUSE)
        return new

    def _fetch(self) -> Token:
        settings, asked_at, by_the_wall = self._settings, self._now(), time.time()
        request = TokenRequest(settings=settings, auth=settings.auth)
        reply: TokenReply = self._executor.execute(request).value
        self._executor.redactor.add(reply.access_token)
        if not reply.is_jwt:
            log.warning(failure_catalogue.OPAQUE_TOKEN)
        lifetime = UNTOLD_LIFETIME if reply.lifetime is None else reply.lifetime
        # Most of a short lifetime (a test org, a lowered setting) must remain usable.
        early = min(_LEEWAY, lifetime / 4) + random.uniform(0, min(_JITTER, lifetime / 8))  # noqa: S311
        token = self._token(reply, asked_at + lifetime - early, asked_at + lifetime)
        if self._cache.file is not None:
            ends_at = by_the_wall + lifetime
            self._cache.file.write(KeptToken(reply, by_the_wall, renew_at=ends_at - early, ends_at=ends_at))
        return token

    def _token(self, reply: TokenReply, renew_at: float, ends_at: float) -> Token:
        access = Access(reply.access_token, self._api_url(reply), opaque=not reply.is_jwt)
        return Token(reply, access, renew_at=renew_at, ends_at=ends_at)

    def _api_url(self, reply: TokenReply) -> str:
        """Return the Agent API's origin: the setting, else what the token reply names, else the default."""
        if self._settings.api_url is not None:
            return self._settings.api_url
        named = reply.api_instance_url
        if not named:
            return DEFAULT_API
        redacted = self._executor.redactor.redact(named)
        return validation.named_by_reply(redacted, trusted=(self._settings.host,))

    def _now(self) -> float:
        return self._executor.timing.clock()


def _file_of(settings: Settings) -> TokenFile | None:
    return TokenFile(settings) if settings.share_token else None
