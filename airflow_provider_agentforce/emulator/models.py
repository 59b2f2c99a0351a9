"""The data that a test inspects: agents, sessions, turns, requests and test runs, and their ids."""

from __future__ import annotations

import hashlib
import ipaddress
import os
import time
import uuid
import zlib
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

_ID_LENGTHS = (15, 18)
_CHECKSUM_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"
_BLOCK = 5


def new_uuid() -> str:
    """Return a random UUID (version 4) as text."""
    return str(uuid.uuid4())


def new_session_id() -> str:
    """Return a UUID of version 7: the time in ms first, as captured session ids have it."""
    raw = bytearray(int(time.time() * 1000).to_bytes(6, "big") + os.urandom(10))
    raw[6] = 0x70 | (raw[6] & 0x0F)
    raw[8] = 0x80 | (raw[8] & 0x3F)
    return str(uuid.UUID(bytes=bytes(raw)))


def new_trace_id() -> str:
    """Return 32 hexadecimal digits."""
    return uuid.uuid4().hex


def iso_time(seconds: float) -> str:
    """Return a time since the epoch in Salesforce's format: UTC, with milliseconds."""
    moment = datetime.fromtimestamp(seconds, tz=timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def salesforce_id(fifteen: str) -> str:
    """Return the 18-character form of a 15-character record id: the last three encode the case."""
    suffix = ""
    for start in range(0, 15, _BLOCK):
        block = fifteen[start : start + _BLOCK]
        bits = sum(1 << position for position, char in enumerate(block) if char.isupper())
        suffix += _CHECKSUM_ALPHABET[bits]
    return fifteen + suffix


def user_id_of(username: str) -> str:
    """Return the id of a user, which stays the same from run to run."""
    return salesforce_id(f"005EM{zlib.crc32(username.lower().encode()):010d}")


def is_agent_id(value: str) -> bool:
    """Return whether ``value`` has the shape of a BotDefinition id: prefix ``0Xx``, 15 or 18 characters."""
    return value.startswith("0Xx") and len(value) in _ID_LENGTHS and value.isascii() and value.isalnum()


def is_loopback(host: str) -> bool:
    """Return whether ``host`` (a name or address without port) can only mean this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, kw_only=True)
class Agent:
    """An agent of the org.

    ``id`` is a BotDefinition id (``0Xx…``); without one it is derived from ``developer_name``, so it stays
    the same from run to run. ``employee`` agents have no user and refuse ``bypassUser: true``. The
    ``version`` is the newest one, and the active one of an agent that is active.
    """

    developer_name: str
    label: str = ""
    id: str = ""
    active: bool = True
    employee: bool = False
    version: int = 1

    def __post_init__(self) -> None:
        if not self.developer_name:
            raise ValueError("An agent needs a developer_name.")
        if not self.label:
            object.__setattr__(self, "label", self.developer_name.replace("_", " "))
        if not self.id:
            digest = hashlib.sha256(self.developer_name.encode()).hexdigest()
            object.__setattr__(self, "id", salesforce_id("0Xx" + digest[:12].upper()))
        if not is_agent_id(self.id):
            raise ValueError(
                f"{self.id!r} is not an agent id, which has 15 or 18 characters and starts with 0Xx."
            )


ORG_ID = salesforce_id("00DEM0000000001")
# The Run As user of the app.
USERNAME = "agent.user@emulator.example"
DEFAULT_AGENTS = (
    Agent(developer_name="Service_Agent", id=salesforce_id("0XxEM0000000001")),
    Agent(developer_name="Inactive_Agent", id=salesforce_id("0XxEM0000000002"), active=False),
    Agent(developer_name="Employee_Agent", id=salesforce_id("0XxEM0000000003"), employee=True),
)


@dataclass(kw_only=True)
class TurnRecord:
    """One message the agent acted on, with its answer.

    A resend of the same text under the same ``sequence_id`` adds to ``applied`` and replaces ``messages``.
    ``variables`` maps the names sent with the message to their values. ``got_instead`` says what the caller
    got instead of the answer, None if it got the answer. Times are seconds since the epoch.
    """

    sequence_id: float
    text: str
    type: str
    variables: dict[str, Any]
    messages: list[dict[str, Any]]
    stream: bool
    received_at: float
    applied: int = 1
    got_instead: str | None = None
    at: float = field(default_factory=time.time)


@dataclass(kw_only=True)
class SessionRecord:
    """One session, open or ended.

    ``end_reason`` is the client's ``x-session-end-reason``, the reason of the agent's SessionEnded, or
    ``IdleTimeout``. ``variables`` maps names to their present values. ``not_acted`` has the messages that a
    fault kept from the agent. Times are seconds since the epoch, except ``used_at``, which is monotonic.
    """

    session_id: str
    agent_id: str
    external_session_key: str
    variables: dict[str, Any]
    tz: str | None
    bypass_user: bool
    feature_support: str | None = None
    greeting: str = ""
    open: bool = True
    end_reason: str | None = None
    turns: list[TurnRecord] = field(default_factory=list)
    not_acted: list[TurnRecord] = field(default_factory=list)
    feedback: list[dict[str, Any]] = field(default_factory=list)
    started_at: float = field(default_factory=time.time)
    used_at: float = field(default_factory=time.monotonic)
    busy: bool = False

    @property
    def applied(self) -> int:
        """The number of messages that the agent acted on in this session, including resends."""
        return sum(turn.applied for turn in self.turns)

    def feedback_ids(self) -> set[str]:
        """Return the ids under which answers of this session may be rated."""
        return {
            str(message["feedbackId"])
            for turn in self.turns
            for message in turn.messages
            if message.get("feedbackId")
        }


@dataclass(kw_only=True)
class RequestRecord:
    """One request as it arrived.

    ``operation`` is ``token``, ``start``, ``send``, ``end``, ``feedback``, ``trace``, ``session_trace``,
    ``query``, ``write``, ``test`` or ``other``; ``stream`` is true for a streamed send.
    ``headers`` has lower-case names. ``body`` is the parsed JSON, else the text. ``status`` is None until
    answered, and stays None when the connection was dropped. ``at`` is in seconds since the epoch.
    """

    operation: str
    method: str
    path: str
    headers: dict[str, str]
    body: Any
    stream: bool = False
    status: int | None = None
    at: float = field(default_factory=time.time)


@dataclass(kw_only=True)
class EvaluationRun:
    """One run of an agent test: each poll of its status advances it to the next of the statuses ``ahead``.

    When none is ahead it has ended, unless it is ``endless``. Times are ISO 8601.
    """

    definition: str
    status: str
    ahead: list[str]
    endless: bool = False
    started: str = field(default_factory=lambda: iso_time(time.time()))
    ended: str | None = None

    def advance(self) -> None:
        """Advance to the next status, as a run does between two polls."""
        if self.ahead:
            self.status = self.ahead.pop(0)
            if not self.ahead and not self.endless:
                self.finish(self.status)

    def finish(self, status: str) -> None:
        """End the run."""
        self.status, self.ahead, self.ended = status, [], iso_time(time.time())
