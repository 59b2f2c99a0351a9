"""Every setting of an emulator in one checked value, so that a wrong one fails at once and by name."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Literal

from airflow_provider_agentforce.emulator.errors import INACTIVE_AGENT

Mode = Literal["official", "seed"]
MODES = ("official", "seed")
FEEDBACK_STATUSES = (201, 202)


def is_loopback(host: str) -> bool:
    """Say whether ``host`` (a name or address without port) can only mean this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings documented at :class:`~airflow_provider_agentforce.emulator.Emulator`.

    :raises ValueError: a value that no emulator can have.
    """

    port: int
    host: str
    mode: Mode
    token_lifetime: float
    opaque_tokens: bool
    reject_opaque: bool
    run_as_user: bool
    strict_sequence: bool
    max_concurrent_sessions: int
    max_sessions_per_hour: int
    max_messages_per_session: int
    retry_after: float | None
    inactive_status: int
    session_idle_timeout: float | None
    feedback_status: int
    latency: float
    keep_alive: int

    def __post_init__(self) -> None:
        checks = (
            (is_loopback(self.host), f"host must be a loopback address, not {self.host!r}."),
            (self.mode in MODES, f"mode must be one of {MODES}, not {self.mode!r}."),
            (
                self.inactive_status in INACTIVE_AGENT,
                f"inactive_status must be one of {tuple(INACTIVE_AGENT)}, not {self.inactive_status!r}.",
            ),
            (
                self.feedback_status in FEEDBACK_STATUSES,
                f"feedback_status must be one of {FEEDBACK_STATUSES}, not {self.feedback_status!r}.",
            ),
            (self.latency >= 0, f"latency must not be negative: {self.latency!r}."),
            (self.token_lifetime >= 0, f"token_lifetime must not be negative: {self.token_lifetime!r}."),
        )
        for holds, problem in checks:
            if not holds:
                raise ValueError(problem)

    @property
    def seed(self) -> bool:
        """Whether answers have the shapes of the original guide."""
        return self.mode == "seed"
