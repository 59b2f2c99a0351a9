"""The client's arguments and results: frozen, typed values whose dicts are the XCom formats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from airflow_provider_agentforce.client import validation
from airflow_provider_agentforce.client.error_words import reason_of
from airflow_provider_agentforce.exceptions import AgentFailedError, AgentforceInputError, one_line

ANSWERED = "answered"
NEEDS_INPUT = "needs_input"
NEEDS_CONFIRMATION = "needs_confirmation"
ESCALATED = "escalated"
FAILED = "failed"
ENDED = "ended"
ANSWER_LOST = "answer_lost"
OUTCOMES = (ANSWERED, NEEDS_INPUT, NEEDS_CONFIRMATION, ESCALATED, FAILED, ENDED, ANSWER_LOST)


@dataclass(frozen=True)
class SessionOptions:
    """The options of a start.

    :param agent_id: id (``0Xx…``) or API name of the agent; ``None``: the agent of the settings.
    :param variables: context variables, ``[{"name", "type", "value"}]`` or a dict; kept as that list.
    :param tz: time zone name, such as ``Europe/Berlin``.
    :param bypass_user: ``True``: the agent runs as its own user; ``False``: as the token's user, as employee
        agents need; ``None``: ``True`` with client credentials, ``False`` with a token of a named user.
    :param external_session_key: UUID that the org's event log shows; ``None``: a random one.
    :param surface_type: ``Custom``: the agent answers in the response formats of its custom connection;
        ``None``: in text.
    :raises AgentforceInputError: a value cannot be used.
    """

    agent_id: str | None = None
    variables: Any = None
    tz: str | None = None
    bypass_user: bool | None = None
    external_session_key: str | None = None
    surface_type: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.bypass_user, bool | None):
            raise validation.refusal(
                self.bypass_user, "bypass_user", "must be True or False, or None for the value that fits auth"
            )
        key, surface = self.external_session_key, self.surface_type
        checked = {
            "variables": validation.variables(self.variables),
            "tz": None if self.tz is None else validation.time_zone(self.tz),
            "external_session_key": None if key is None else validation.session_key(key),
            "surface_type": None if surface is None else validation.name(surface, "surface_type"),
        }
        vars(self).update(checked)

    def with_variables(self, variables: list[dict[str, Any]]) -> SessionOptions:
        """Return a copy with other variables, which are already checked."""
        other = object.__new__(type(self))
        vars(other).update(vars(self), variables=variables)
        return other


@dataclass(frozen=True)
class Session:
    """A started session.

    :param session_id: the org's id of the session, an opaque text.
    :param sequence_id: number of the last message, 0 after the start.
    :param agent_id: the agent's BotDefinition id (``0Xx…``).
    :param external_session_key: the UUID that the org's event log shows for this session.
    :param greeting: the agent's first words, ``""`` if it has none.
    :param agent_version: id of the agent's version that was active when the session started, ``None`` if
        that is not known.
    """

    session_id: str
    sequence_id: int = 0
    agent_id: str | None = None
    external_session_key: str | None = None
    greeting: str = ""
    agent_version: str | None = None

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], field_name: str = "session") -> Session:
        """Read the dict of a session or a turn.

        :param field_name: the name of *value* in an error.
        :raises AgentforceInputError: if it names no session, or contains an id or number that is not valid.
        """
        if value.get("session_id") is None:
            raise AgentforceInputError(f"{field_name} has no session_id. Did the task that starts it run?")
        return _checked(cls(**{name: value[name] for name in _names(cls) if name in value}), field_name)

    def to_dict(self) -> dict[str, Any]:
        """Return the XCom format: JSON values only."""
        return dict(vars(self))


@dataclass(frozen=True)
class Turn:
    """One message and its answer.

    :param session_id: the session of the message.
    :param sequence_id: the number of the message; the next message has this number plus one.
    :param agent_id: the agent's id, if it is known.
    :param text: the answer, ``""`` if the agent said nothing readable.
    :param outcome: one of ``OUTCOMES``.
    :param messages: the answer's messages as received, with values that every XCom backend can store.
    :param citations: all ``citedReferences`` of the answer.
    :param results: all ``result`` entries of the answer (what its actions returned).
    :param feedback_id: the id for :meth:`.AgentforceClient.submit_feedback`, or ``None``.
    :param plan_id: the id of the agent's plan, or ``None``.
    :param is_content_safe: ``False`` if the trust layer flagged a message, ``None`` if it said nothing.
    :param request: the message: ``type``, ``text``, ``reply`` and ``variables``; ``None`` if it was not kept.
    :param resolution: how an unknown delivery was resolved: ``by``, ``acted``, ``answer`` (``recovered``,
        ``given``, ``lost``), ``user``, ``at`` and ``note``; otherwise ``None``.
    :param plan: the planner's ``subagent`` and ``actions``; ``None`` unless it was requested.
    :param agent_version: that of the session.
    """

    session_id: str
    sequence_id: int
    agent_id: str | None
    text: str
    outcome: str
    messages: list[dict[str, Any]] = field(default_factory=list)
    citations: list[Any] = field(default_factory=list)
    results: list[Any] = field(default_factory=list)
    feedback_id: str | None = None
    plan_id: str | None = None
    is_content_safe: bool | None = None
    request: dict[str, Any] | None = None
    resolution: dict[str, Any] | None = None
    plan: dict[str, Any] | None = None
    agent_version: str | None = None

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Turn:
        """Read the output of :meth:`to_dict`. Fields that this version does not know are ignored.

        :raises TypeError: if a field without a default is missing.
        """
        return cls(**{name: value[name] for name in _names(cls) if name in value})

    def to_dict(self) -> dict[str, Any]:
        """Return the XCom format: JSON values only, and ``plan`` only if it was requested."""
        return {name: value for name, value in vars(self).items() if name != "plan" or value is not None}

    @property
    def question(self) -> dict[str, Any] | None:
        """The ``Confirm`` or ``Inquire`` that waits for a reply, ``None`` if there is none."""
        asked = [one for one in self.messages if one.get("type") in ("Confirm", "Inquire") and one.get("id")]
        return asked[-1] if asked and not self.session_ended else None

    @property
    def session_ended(self) -> bool:
        """Whether the agent ended the session with this answer, regardless of the outcome."""
        return any(message.get("type") == "SessionEnded" for message in self.messages)

    @property
    def failure_reason(self) -> str:
        """The reason for a failure in the words of the agent or the org; ``""`` if there is none."""
        reasons = [
            reason_of(message) for message in self.messages if message.get("type") in ("Failure", "Error")
        ]
        return "; ".join(dict.fromkeys(filter(None, reasons)))

    def as_error(self, hint: str = "") -> AgentFailedError:
        """Return the error of an answer whose outcome is not accepted.

        :param hint: what to do.
        """
        why = one_line(self.failure_reason, 220).rstrip(".") if self.outcome == FAILED else ""
        return AgentFailedError(
            f"The agent's answer has the outcome {': '.join(filter(None, [self.outcome, why]))}.",
            hint=hint,
            operation="send",
            applied=True,
            session_id=self.session_id,
            turn=self,
        )


SessionLike = Session | Turn | Mapping[str, Any]


class JournalEntry(NamedTuple):
    """A journal's record of a message.

    :param turn: its answer.
    :param sent: whether it may have been sent before.
    :param resolution: as in a :class:`Turn`, if it allows the message to be sent again.
    :param try_number: number of the try that received the answer, if it is known.
    """

    turn: Turn | None = None
    sent: bool = False
    resolution: dict[str, Any] | None = None
    try_number: int | None = None


def session_from(value: object, field_name: str = "session") -> Session:
    """Read a session from a :class:`Session`, a :class:`Turn`, or the dict of either from XCom.

    :param field_name: the name of *value* in an error.
    :raises AgentforceInputError: if it is none of these, or contains an id or number that is not valid.
    """
    # Anyone can make a session or a turn, so its ids are checked before they become part of a URL.
    if isinstance(value, Session):
        return _checked(value, field_name)
    if isinstance(value, Turn):
        known = Session(
            value.session_id, value.sequence_id, value.agent_id, agent_version=value.agent_version
        )
        return _checked(known, field_name)
    if isinstance(value, Mapping):
        return Session.from_dict(value, field_name)
    raise AgentforceInputError(
        f"{field_name} must be the output of a start or a send (a dict with session_id and sequence_id), "
        f"but is {type(value).__name__}. Pass start.output itself, or session_id= and sequence_id=."
    )


def _checked(session: Session, field_name: str) -> Session:
    agent_id = session.agent_id
    return Session(
        session_id=validation.path_id(session.session_id, f"{field_name}.session_id"),
        sequence_id=validation.sequence_id(session.sequence_id, f"{field_name}.sequence_id"),
        agent_id=None if agent_id is None else validation.path_id(agent_id, f"{field_name}.agent_id"),
        external_session_key=session.external_session_key,
        greeting=session.greeting or "",
        agent_version=session.agent_version,
    )


def _names(kind: type[Session | Turn]) -> list[str]:
    return [one.name for one in fields(kind)]
