"""The steps that follow when it is not known whether an agent acted on a message: ``on_unknown_delivery``.

The operators run the steps in order until one of them knows. Each says whether the agent acted, or that it
cannot tell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Literal

from airflow_provider_agentforce.exceptions import AgentforceInputError, shown

if TYPE_CHECKING:
    from typing import TypeAlias

FAIL: Literal["fail"] = "fail"
RESEND: Literal["resend"] = "resend"
_LONGEST = timedelta(days=365)
_TIMES = ("sent_at", "first_sent_at")
_WAYS_OUT = '"fail", "trace", "ask", "resend", a function, Check(…), Trace(…), Ask(…), or a list of these'


@dataclass(frozen=True)
class UnknownDelivery:
    """A message that left without proof whether the agent acted on it.

    :param request: the message: ``type``, ``text``, ``reply`` and ``variables``; ``None`` if it was not kept.
    :param session_id: the session of the message; ``None`` if that is not known.
    :param external_session_key: the UUID of the session in the org's event log.
    :param sequence_id: the number of the message in its session.
    :param agent_id: the agent's id, if it is known.
    :param sent_at: when it was sent, with a time zone. After repetitions this is the last time. In a batch
        it is the time at which the answer was given up, which is later.
    :param error: what went wrong, one line.
    :param partial_text: the part of the answer that could be read.
    :param findings: the findings of earlier steps, one line each.
    :param record_key: in a batch, the key of the record as in the input.
    :param same_before: how many messages with the same text the session received before; ``None`` if that is
        not known.
    :param first_sent_at: the earliest time at which it may have been sent, if that is before ``sent_at``.
    """

    request: dict[str, Any] | None = None
    session_id: str | None = None
    external_session_key: str | None = None
    sequence_id: int | None = None
    agent_id: str | None = None
    sent_at: datetime | None = None
    error: str = ""
    partial_text: str | None = None
    findings: tuple[str, ...] = ()
    record_key: Any = None
    same_before: int | None = None
    first_sent_at: datetime | None = None

    @property
    def text(self) -> str | None:
        """The text of the message; ``None`` for a message of another type or one that was not kept."""
        return self.request.get("text") if self.request else None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        times = {name: None if (at := getattr(self, name)) is None else at.isoformat() for name in _TIMES}
        return {**vars(self), **times, "findings": list(self.findings)}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> UnknownDelivery:
        """Read the output of :meth:`to_dict`. Fields that this version does not know are ignored.

        :raises ValueError, TypeError: if a field cannot be read.
        """
        known = {name: value[name] for name in cls.__dataclass_fields__ if name in value}
        times = {name: datetime.fromisoformat(known[name]) for name in _TIMES if known.get(name) is not None}
        return cls(**{**known, **times, "findings": tuple(known.get("findings", ()))})

    def found(self, *findings: str) -> UnknownDelivery:
        """Return it with more findings."""
        return replace(self, findings=(*self.findings, *findings))


@dataclass(frozen=True)
class Check:
    """Ask your own function whether the agent acted.

    :param function: receives the :class:`UnknownDelivery` and returns ``True`` if the agent acted, ``False``
        if it did not, or ``None`` if it cannot tell. Any other value, and any exception, counts as ``None``,
        with a warning.
    :param after: how long to wait after the message left: the agent may keep working for two minutes.
    """

    function: Callable[[UnknownDelivery], bool | None]
    after: timedelta = timedelta(0)

    def __post_init__(self) -> None:
        _check_function("Check", self.function)
        _check_time("Check", "after", self.after, least=timedelta(0))


@dataclass(frozen=True)
class Trace:
    """Look for the message in the org's own trace of the session, repeatedly.

    A message that is found there was delivered, and its answer is read from the trace. A missing message
    proves nothing.

    :param timeout: how long to look; Salesforce writes the trace minutes after the turn, or later.
    :param outcome_of: receives the text of an answer from the trace and returns its outcome, one of
        ``answered``, ``needs_input``, ``needs_confirmation``, ``escalated``, ``failed`` and ``ended``,
        because the trace has the words of an answer but not its kind. Without it, or if it fails or returns
        any other value, the answer counts as ``answered``, with a warning.
    """

    timeout: timedelta = timedelta(minutes=30)
    outcome_of: Callable[[str], str] | None = None

    def __post_init__(self) -> None:
        _check_time("Trace", "timeout", self.timeout, least=timedelta(0))
        if self.outcome_of is not None:
            _check_function("Trace: outcome_of", self.outcome_of)


@dataclass(frozen=True)
class Ask:
    """Let a person decide, in Airflow's Required Actions.

    :param timeout: how long to wait for the person; after that the next step follows, or the agent's question
        in a conversation is cancelled. Default: no limit.
    :param assigned_users: the users who may answer, each an Airflow ``HITLUser`` (``{"id", "name"}``);
        default: everyone whose role may respond for the Dag.
    :param notifiers: Airflow notifiers, which are called with the task's context when the question is asked.
    """

    timeout: timedelta | None = None
    assigned_users: Sequence[Mapping[str, str]] = ()
    notifiers: Sequence[Callable[..., Any]] = ()

    def __post_init__(self) -> None:
        if self.timeout is not None:
            _check_time("Ask", "timeout", self.timeout, least=timedelta(seconds=1))
        for field in ("assigned_users", "notifiers"):
            given = getattr(self, field)
            if isinstance(given, str | Mapping) or not isinstance(given, Sequence):
                raise AgentforceInputError(f"Ask: {field} must be a list, but is {shown(given)}.")
        for user in self.assigned_users:
            if not _is_user(user):
                raise AgentforceInputError(
                    'Ask: each of assigned_users must be {"id": "…", "name": "…"}, but one is '
                    f"{shown(user)}."
                )
        for notifier in self.notifiers:
            if not callable(notifier):
                raise AgentforceInputError(
                    f"Ask: each of notifiers must be an Airflow notifier, but one is {shown(notifier)}."
                )


@dataclass
class Verdict:
    """The finding of a step about an unknown delivery.

    :param by: the step: ``check``, ``trace``, ``ask`` or ``resend``.
    :param acted: whether the agent acted; ``None``: unknown, and the message is sent again.
    :param text: the agent's answer, if it is known.
    :param answer: ``recovered``, ``given`` by a person, ``lost``, or ``None`` if there cannot be one.
    :param user: the person who decided.
    :param note: further information.
    :param outcome: the outcome of the answer, if it is known not to be ``answered``.
    """

    by: Literal["check", "trace", "ask", "resend"]
    acted: bool | None
    text: str = ""
    answer: Literal["recovered", "given", "lost"] | None = None
    user: str | None = None
    note: str | None = None
    outcome: str | None = None

    def resolution(self) -> dict[str, Any]:
        """Return it in the form of turns, rows and XCom."""
        at = datetime.now(timezone.utc).isoformat(timespec="seconds")
        said = {"by": self.by, "acted": self.acted, "answer": self.answer}
        return {**said, "user": self.user, "at": at, "note": self.note}


Step: TypeAlias = "Literal['fail', 'resend'] | Check | Trace | Ask"
OneStep: TypeAlias = "Step | Literal['trace', 'ask'] | Callable[[UnknownDelivery], bool | None]"
OnUnknownDelivery: TypeAlias = "OneStep | Sequence[OneStep]"


def steps_of(given: Any) -> tuple[Step, ...]:
    """Return the steps that *given* names; the last one is ``"fail"`` or ``"resend"``.

    :raises AgentforceInputError: one of them is not a step, the list is empty, or a step before the last one
        ends the list.
    """
    one = isinstance(given, str | Check | Trace | Ask) or callable(given)
    steps = [given] if one else given
    if not isinstance(steps, Sequence) or not steps:
        raise AgentforceInputError(f"on_unknown_delivery must be {_WAYS_OUT}, but is {shown(given)}.")
    found: list[Step] = [_step_of(step) for step in steps]
    if sum(isinstance(step, Ask) for step in found) > 1:
        raise AgentforceInputError(
            'on_unknown_delivery: a task can ask only one question; give "ask" only once.'
        )
    for step in found[:-1]:
        if step in (FAIL, RESEND):
            raise AgentforceInputError(
                f'on_unknown_delivery: "{step}" ends the list; the steps after it would not run.'
            )
    return tuple(found if found[-1] in (FAIL, RESEND) else [*found, FAIL])


def _step_of(given: Any) -> Step:
    if isinstance(given, Check | Trace | Ask):
        return given
    if isinstance(given, str):
        named: dict[str, Step] = {FAIL: FAIL, RESEND: RESEND, "trace": Trace(), "ask": Ask()}
        if given in named:
            return named[given]
    elif given in (Check, Trace, Ask):
        name = given.__name__
        raise AgentforceInputError(f"on_unknown_delivery has the class {name}: write {name}(…).")
    elif callable(given):
        return Check(given)
    raise AgentforceInputError(f"on_unknown_delivery must be {_WAYS_OUT}, but has {shown(given)}.")


def _is_user(given: object) -> bool:
    return isinstance(given, Mapping) and all(isinstance(given.get(name), str) for name in ("id", "name"))


def _check_function(name: str, given: Any) -> None:
    if not callable(given):
        raise AgentforceInputError(f"{name} must be a function, but is {shown(given)}.")
    if iscoroutinefunction(given):
        raise AgentforceInputError(f"{name} must be a function that is not async.")


def _check_time(name: str, field: str, given: Any, *, least: timedelta) -> None:
    if not isinstance(given, timedelta) or not least <= given <= _LONGEST:
        raise AgentforceInputError(
            f"{name}: {field} must be a timedelta from {least.total_seconds():g} seconds to {_LONGEST.days} "
            f"days, but is {shown(given)}."
        )
