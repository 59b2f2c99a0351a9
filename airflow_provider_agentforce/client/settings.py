"""The settings of a connection to an org, all checked before anything is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from airflow_provider_agentforce.client import jwt_bearer, validation
from airflow_provider_agentforce.exceptions import AgentforceInputError, one_line
from airflow_provider_agentforce.redaction import forms

CLIENT_CREDENTIALS = "client_credentials"
JWT_BEARER = "jwt_bearer"
_OF_JWT_BEARER = ("username", "private_key", "private_key_path", "audience")


@dataclass(frozen=True)
class Settings:
    """The address and the limits of an org.

    :param host: the org's My Domain URL, ``https://acme.my.salesforce.com``.
    :param consumer_key: key of the External Client App.
    :param consumer_secret: secret of the External Client App; never shown. ``jwt_bearer`` needs none.
    :param agent_id: id (``0Xx…``) or API name of the agent for calls that name none.
    :param api_url: Agent API host. Default: the token reply's ``api_instance_url``, else
        ``https://api.salesforce.com``.
    :param auth: ``client_credentials``, or ``jwt_bearer`` for a token of the user that *username* names.
    :param username: name with which the user logs in to Salesforce.
    :param private_key: RSA key as PEM or as the Base64 of a PEM; never shown. The app has its certificate.
    :param private_key_path: path of a file that contains the key, instead of ``private_key``.
    :param audience: audience of the signed JWT. Default: ``https://test.salesforce.com`` for the My
        Domain of a sandbox, otherwise ``https://login.salesforce.com``.
    :param timeout: seconds for a whole call. The API gives up after 120 s and says so; with a longer timeout
        that answer arrives.
    :param max_concurrent_sessions: sessions that this process may have open at once.
    :param max_sessions_per_hour: session starts per hour from this process.
    :param max_messages_per_session: messages in one session.
    :param limits_conn_id: id of an Airflow connection of type ``redis``: the limits apply to all processes
        that share it. The hook reads it.
    :param share_token: keep the access token, encrypted, in a file for all processes of this user on this
        machine.
    :ivar signing_key: the private key as PEM, ``""`` without one.
    :raises AgentforceInputError: if a value cannot be used.
    """

    host: str
    consumer_key: str
    consumer_secret: str | None = field(default=None, repr=False)
    agent_id: str | None = None
    api_url: str | None = None
    auth: str = CLIENT_CREDENTIALS
    username: str | None = None
    private_key: str | None = field(default=None, repr=False)
    private_key_path: str | None = None
    audience: str | None = None
    timeout: float = 130.0
    max_concurrent_sessions: int = 50
    max_sessions_per_hour: int = 1000
    max_messages_per_session: int = 100
    limits_conn_id: str | None = None
    share_token: bool = False
    signing_key: str = field(default="", init=False, repr=False)

    def __post_init__(self) -> None:
        try:
            self._check()
        except AgentforceInputError as error:
            # A line of the key may be in another field.
            what = jwt_bearer.without_pieces(error.what, self.private_key)
            raise error.replaced(what=what) from None

    def _check(self) -> None:
        checked: dict[str, Any] = {
            "host": validation.my_domain(self.host),
            "consumer_key": validation.secret(self.consumer_key, "login (consumer key)"),
            "agent_id": None if self.agent_id is None else validation.agent(self.agent_id),
            "api_url": None if self.api_url is None else validation.origin(self.api_url, "api_url"),
            "timeout": validation.positive(self.timeout, "timeout", most=3600),
        }
        for limit in ("max_concurrent_sessions", "max_sessions_per_hour", "max_messages_per_session"):
            checked[limit] = validation.count(getattr(self, limit), limit)
        if self.limits_conn_id is not None:
            checked["limits_conn_id"] = validation.connection_id(self.limits_conn_id, "limits_conn_id")
        checked["share_token"] = validation.switch(self.share_token, "share_token")
        grants = {CLIENT_CREDENTIALS: self._client_credentials, JWT_BEARER: self._jwt_bearer}
        grant = grants[validation.one_of(tuple(grants), self.auth, "auth")]
        vars(self).update(checked, **grant(checked["host"]))

    def _client_credentials(self, _host: str) -> dict[str, Any]:
        problems = _only_of_jwt_bearer(vars(self))
        if problems:
            raise AgentforceInputError(problems[0])
        return {"consumer_secret": _secret(self.consumer_secret)}

    def _jwt_bearer(self, host: str) -> dict[str, Any]:
        keys = [self.private_key, self.private_key_path]
        if self.username is None or keys.count(None) == len(keys):
            raise AgentforceInputError(
                f"auth {JWT_BEARER} needs a username, and a private_key or a private_key_path."
            )
        if None not in keys:
            raise AgentforceInputError("Give either private_key or private_key_path, not both.")
        key = None if self.private_key is None else validation.text(self.private_key, "private_key")
        path = None if self.private_key_path is None else validation.path_of_key(self.private_key_path)
        return {
            "consumer_secret": None if self.consumer_secret is None else _secret(self.consumer_secret),
            "username": validation.username(self.username),
            "private_key_path": path,
            "audience": validation.audience(self.audience or jwt_bearer.default_audience(host)),
            "signing_key": jwt_bearer.read_key(key, path),
        }

    @classmethod
    def from_fields(
        cls, *, host: str | None, login: str | None, password: str | None, extra: Mapping[str, Any]
    ) -> Settings:
        """Read the fields of an Airflow connection. Blank extras count as not given.

        :raises AgentforceInputError: one that lists every missing field and every unknown extra, or every
            field of a wrong type. It shows no value.
        """
        _check_types({"host": host, "login": login, "password": password}, extra)
        needed = {"host (My Domain URL)": host, "login (consumer key)": login}
        if (extra.get("auth") or CLIENT_CREDENTIALS) == CLIENT_CREDENTIALS:
            needed["password (consumer secret)"] = password
        missing = [name for name, value in needed.items() if not (value or "").strip()]
        given = {name: value for name, value in extra.items() if value is not None and str(value).strip()}
        problems = _problems(missing, extra, given)
        if problems:
            what = jwt_bearer.without_pieces(" ".join(problems), extra.get("private_key"))
            raise AgentforceInputError(what)
        return cls(str(host), str(login), (password or "").strip() or None, **given)

    @property
    def bypass_user(self) -> bool:
        """Whether an agent runs as its own user by default: not with the token of a named user."""
        return self.auth == CLIENT_CREDENTIALS

    @property
    def secrets(self) -> tuple[str, ...]:
        """The values that must never be shown, in whole or in part."""
        key = jwt_bearer.key_parts(self.signing_key, self.private_key) if self.signing_key else ()
        return (*((self.consumer_secret,) if self.consumer_secret else ()), *key)

    def secret_forms(self) -> set[str]:
        """Return every form in which the secrets can be written, for masking."""
        found = jwt_bearer.key_forms(self.signing_key, self.private_key) if self.signing_key else set()
        if self.consumer_secret is not None:
            found |= forms(self.consumer_key, self.consumer_secret) - forms(self.consumer_key)
        return found

    def agent(self, agent_id: object = None) -> str:
        """Return *agent_id*, or else the connection's agent, checked: an id or an API name, unchanged.

        :raises AgentforceInputError: if neither is given, or it cannot be an agent's id or API name.
        """
        chosen = self.agent_id if agent_id is None or agent_id == "" else agent_id
        if chosen is None:
            raise AgentforceInputError(
                "Neither the call nor the connection names an agent.",
                hint="Give agent_id, or set the connection's extra agent_id.",
            )
        return validation.agent(chosen)


def _check_types(texts: Mapping[str, object], extra: object) -> None:
    problems = [
        f"The connection's {name} must be text, but is of type {type(value).__name__}."
        for name, value in texts.items()
        if not isinstance(value, str | None)
    ]
    if not isinstance(extra, Mapping):
        problems.append(
            f"The connection's extra must be an object of names and values, but is of type "
            f"{type(extra).__name__}."
        )
    if problems:
        raise AgentforceInputError(" ".join(problems))


def _problems(missing: list[str], extra: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    problems = [f"The connection lacks {', '.join(missing)}."] if missing else []
    unknown = sorted(set(extra) - set(EXTRAS))
    if unknown:
        names = ", ".join(one_line(name, 80) for name in unknown)
        problems.append(f"Unknown extra {names}; known are {', '.join(EXTRAS)}.")
    if missing and "auth" not in given:
        problems += _only_of_jwt_bearer(given)
    return problems


def _only_of_jwt_bearer(given: Mapping[str, Any]) -> list[str]:
    """Return the problem with settings that the other flow does not use."""
    unused = ", ".join(name for name in _OF_JWT_BEARER if given.get(name) is not None)
    return [f"Only auth {JWT_BEARER} uses {unused}: set the extra auth to {JWT_BEARER}."] if unused else []


def _secret(value: object) -> str:
    return validation.secret(value, "password (consumer secret)")


_STANDARD = {"host", "consumer_key", "consumer_secret"}
EXTRAS = tuple(one.name for one in fields(Settings) if one.init and one.name not in _STANDARD)
