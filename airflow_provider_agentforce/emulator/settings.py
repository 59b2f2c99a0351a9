"""Every setting of an emulator, said once: the keyword arguments, the command line and the checks."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Literal, get_args, get_origin, get_type_hints


def is_loopback(host: str) -> bool:
    """Say whether ``host`` (a name or address without port) can only mean this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, kw_only=True)
class EmulatorSettings:
    """The settings of an :class:`Emulator`, and the options of the command ``agentforce-emulator``.

    :param port: TCP port; 0 picks a free one.
    :param host: a loopback address.
    :param mode: ``official``, or ``seed`` for the answer shapes of the original guide.
    :param token_lifetime: seconds until a token expires.
    :param opaque_tokens: issue tokens that are not JWTs; the Agent API answers those with a bare 404.
    :param reject_opaque: answer an opaque token with that 404; false lets it pass.
    :param run_as_user: the app has a Run As user; false refuses tokens as an app without one does.
    :param strict_sequence: accept only the last ``sequenceId`` plus one.
    :param max_concurrent_sessions: open sessions, above which a start answers 429.
    :param max_sessions_per_hour: starts within an hour, above which a start answers 429.
    :param max_messages_per_session: messages, above which a send answers 429.
    :param retry_after: seconds to send as ``Retry-After`` with those 429; None sends no such header.
    :param inactive_status: how an inactive agent answers a start.
    :param session_idle_timeout: seconds without a request after which a session is gone; None: never.
    :param gone_status: how a session that has ended, has expired or never was answers.
    :param feedback_status: how feedback is accepted; the documents disagree.
    :param latency: seconds that the agent takes for a message, unless the script says otherwise.
    :param keep_alive: seconds that an idle connection is kept open.
    :raises ValueError: a value that is not valid; the message names the setting.
    """

    port: int = 0
    host: str = "127.0.0.1"
    mode: Literal["official", "seed"] = "official"
    token_lifetime: float = 1800.0
    opaque_tokens: bool = False
    reject_opaque: bool = True
    run_as_user: bool = True
    strict_sequence: bool = False
    max_concurrent_sessions: int = 50
    max_sessions_per_hour: int = 1000
    max_messages_per_session: int = 100
    retry_after: float | None = None
    inactive_status: Literal[404, 412, 422, 500] = 404
    session_idle_timeout: float | None = None
    gone_status: Literal[404, 410, 500] = 404
    feedback_status: Literal[201, 202] = 201
    latency: float = 0.0
    keep_alive: int = 5

    def __post_init__(self) -> None:
        if not is_loopback(self.host):
            raise ValueError(f"host must be a loopback address, not {self.host!r}.")
        for name, kind in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if get_origin(kind) is Literal and value not in get_args(kind):
                raise ValueError(f"{name} must be one of {get_args(kind)}, not {value!r}.")
            if isinstance(value, (int, float)) and value < 0:
                raise ValueError(f"{name} must not be negative: {value!r}.")
        if self.seed:
            # The original guide knows no other tokens.
            object.__setattr__(self, "opaque_tokens", True)
            object.__setattr__(self, "reject_opaque", False)

    @property
    def seed(self) -> bool:
        """Whether answers have the shapes of the original guide."""
        return self.mode == "seed"
