"""One call to carry out, what is known of it so far, and what its last attempt brought."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_agentforce.client.calls import Call, Operation
from airflow_provider_agentforce.client.policy import Failure
from airflow_provider_agentforce.client.tokens import Token
from airflow_provider_agentforce.client.transport import Exchange

CLEAN_UP_SECONDS = 3.0


@dataclass
class Job:
    """One call to carry out, and what is known of it so far.

    :param build: makes the request from the API host and this job.
    :param parse: reads the reply of a 2xx; raises :class:`UnreadableReplyError` for one that is no use.
    :param on_piece: is given the bytes of an event stream as they arrive.
    :param agent_id: the agent's BotDefinition id, when it is known.
    :param sequence_id: number of the message.
    :param text: the message; not shown, as it may be confidential.
    :param on_sending: is called once, right before the first byte leaves; if it raises, none does.
    :param after_unknown: an earlier try of this very message may still be running, so a lock is evidence.
    :param wait_for_limits: wait and try again when the org refuses for its limits.
    :param cleaning_up: try for a few seconds only, even after a stop.
    :ivar api: origin of the Agent API that the last attempt went to.
    :ivar attempts: attempts begun.
    :ivar lost: attempts that may have been acted on without our knowing.
    :ivar repeated_after: why, for each attempt that was followed by another.
    :ivar begun: when, on the monotonic clock.
    :ivar result: of the last attempt, ``None`` when none came to its end.
    :ivar error: what the caller gets instead of the result; set while observers are told.
    """

    operation: Operation
    build: Callable[[str, Job], Call] = field(repr=False)
    parse: Callable[[Exchange], Any] = field(default=lambda _: None, repr=False)
    on_piece: Callable[[bytes], None] | None = None
    agent_id: str | None = None
    session_id: str | None = None
    sequence_id: int | None = None
    text: str | None = field(default=None, repr=False)
    external_session_key: str | None = None
    on_sending: Callable[[], None] | None = None
    after_unknown: bool = False
    wait_for_limits: bool = True
    cleaning_up: bool = False
    api: str = ""
    attempts: int = 0
    lost: int = 0
    renewed: bool = False
    begun: float = field(default_factory=time.monotonic)
    repeated_after: list[Failure] = field(default_factory=list)
    result: Result | None = field(default=None, repr=False)
    error: BaseException | None = None

    def time_to_clean_up(self) -> float:
        """Return the seconds left for a clean-up."""
        return self.begun + CLEAN_UP_SECONDS - time.monotonic()


@dataclass
class Result:
    """What the last attempt at a job brought."""

    exchange: Exchange
    value: Any = None
    failure: Failure | None = None
    detail: str = ""
    cause: BaseException | None = None
    token: Token | None = None
    pause: float | None = None
