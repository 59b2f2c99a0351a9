"""Runs a golden conversation in a separate session, and checks the answers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from airflow_provider_agentforce.client.agent_test_results import (
    ERROR,
    FAILED,
    PASSED,
    Case,
    CaseCheck,
    case_of,
)
from airflow_provider_agentforce.client.client import AgentforceClient
from airflow_provider_agentforce.client.models import FAILED as FAILED_OUTCOME
from airflow_provider_agentforce.client.models import Session, SessionOptions, Turn
from airflow_provider_agentforce.client.open_session import OpenSession
from airflow_provider_agentforce.exceptions import AgentforceError, TaskStoppedError, one_line
from airflow_provider_agentforce.structured.json_in_answer import json_in
from airflow_provider_agentforce.testing.golden import (
    Expectation,
    GoldenConversation,
    error_words,
    printed,
    raised_by_users,
)

_LONGEST = 300


class _Absent:
    def __repr__(self) -> str:
        return "nothing"


_ABSENT = _Absent()


class ConversationTest:
    """One run of a golden conversation.

    :param number: number of the case, counted from 1.
    :param agent: id or API name of the agent if the conversation names none.
    :param repetition: number of this repetition, counted from 1; ``None`` if there is only one.
    :param external_session_key: UUID of the session in the org's event log; default: a random one.
    """

    def __init__(
        self,
        client: AgentforceClient,
        conversation: GoldenConversation,
        *,
        number: int = 1,
        agent: str | None = None,
        repetition: int | None = None,
        external_session_key: str | None = None,
    ) -> None:
        self._client = client
        self._conversation = conversation
        self._number = number
        self._repetition = repetition
        self._options = SessionOptions(
            conversation.agent or agent,
            conversation.variables,
            external_session_key=external_session_key,
        )
        self._checks: list[CaseCheck] = []
        self._answered = 0

    def start(self, **options: Any) -> Session:
        """Start the session.

        :param options: as for :meth:`.AgentforceClient.start`.
        :raises AgentforceError: it could not be started; no message was sent.
        """
        return self._client.start(self._options, **options)

    def hold(self, session: Session) -> Case:
        """Send the messages in *session* up to the first answer that does not pass, and end the session.

        :raises TaskStoppedError: the task was stopped.
        """
        began, error = time.monotonic(), ""
        with OpenSession(self._client, session) as open_session:
            try:
                self._send_all(open_session)
            except TaskStoppedError:
                raise
            except AgentforceError as raised:
                error = f"turn {self._answered + 1}: {raised}"
        return self._case(time.monotonic() - began, session.session_id, error)

    def failed_start(self, error: AgentforceError) -> Case:
        """Return the case of a session that could not be started."""
        return self._case(0.0, "", str(error))

    def cut(self, session: Mapping[str, Any]) -> Case:
        """Return the case of a conversation that a kill cut off, and end the session that it left open.

        :param session: dict of the session.
        """
        left = Session.from_dict(session)
        self._client.end_quietly(left)
        reason = "an earlier try was cut off in this conversation, and no message is sent twice"
        return self._case(0.0, left.session_id, reason)

    def _send_all(self, open_session: OpenSession) -> None:
        for number, turn in enumerate(self._conversation.turns, 1):
            if open_session.state == "ended":
                ended = CaseCheck(
                    f"turn {number}", "session", FAILED, reason="the agent has ended the session"
                )
                self._checks.append(ended)
                return
            answer = open_session.send(turn.said)
            self._answered = number
            found = list(checks_of(answer, turn.expected, f"turn {number}"))
            self._checks += found
            if any(check.status != PASSED for check in found):
                return

    def _case(self, seconds: float, session_id: str, error: str) -> Case:
        return case_of(
            self._number,
            self._conversation.name,
            tuple(self._checks),
            round(seconds, 3),
            session_id,
            error,
            self._repetition,
        )


def checks_of(turn: Turn, expected: Expectation, name: str) -> Iterator[CaseCheck]:
    """Yield the result of each check of an answer, the outcome first.

    :param name: name of the turn.
    """
    said = turn.text.casefold()
    good = turn.outcome != FAILED_OUTCOME if expected.outcome is None else turn.outcome == expected.outcome
    wanted = expected.outcome or "any but failed"
    yield _compared(f"{name}: outcome", "outcome", good, wanted, turn.outcome, turn.failure_reason)
    for text in expected.contains:
        yield _compared(f"{name}: contains", "contains", text.casefold() in said, text, turn.text)
    for text in expected.not_contains:
        yield _compared(f"{name}: not_contains", "not_contains", text.casefold() not in said, text, turn.text)
    if expected.matches is not None:
        found = expected.matches.search(turn.text) is not None
        yield _compared(f"{name}: matches", "matches", found, expected.matches.pattern, turn.text)
    for field, value in expected.fields.items():
        yield _field(turn, field, value, f"{name}: field {field}")
    if expected.check is not None:
        yield _checked_by_function(turn, expected, f"{name}: check")


def _compared(  # noqa: PLR0917 - a check's own fields
    name: str, kind: str, good: bool, expected: str, actual: str, reason: str = ""
) -> CaseCheck:
    shown = (one_line(expected, _LONGEST), one_line(actual, _LONGEST))
    return CaseCheck(name, kind, PASSED if good else FAILED, *shown, reason=reason)


def _checked_by_function(turn: Turn, expected: Expectation, name: str) -> CaseCheck:
    assert expected.check is not None  # noqa: S101 - the caller looks
    try:
        said = expected.check(turn)
    except AssertionError as error:
        reason = printed(error, str) or "an assert fails"
        return CaseCheck(name, "check", FAILED, reason=one_line(reason, _LONGEST))
    except raised_by_users() as error:
        return CaseCheck(name, "check", ERROR, reason=error_words(error, _LONGEST))
    good = said is None or said is True
    reason = "" if good else said if isinstance(said, str) and said else f"it returns {printed(said, repr)}"
    return CaseCheck(name, "check", PASSED if good else FAILED, reason=one_line(reason, _LONGEST))


def _field(turn: Turn, field: str, expected: Any, name: str) -> CaseCheck:
    found = list(_values_of(turn, field.split("."))) or [_ABSENT]
    check = _compared(name, "field", _same(found[0], expected), repr(expected), repr(found[0]))
    other = next((one for one in found if not _same(one, found[0])), None)
    if other is None:
        return check
    reason = f"the answer has several JSON values with this field, which differ: {found[0]!r} and {other!r}"
    return replace(check, status=ERROR, reason=one_line(reason, _LONGEST))


def _values_of(turn: Turn, names: list[str]) -> Iterator[Any]:
    """Yield a value in the JSON of an answer from each piece that has it, the most likely first."""
    for piece in json_in(turn):
        value = piece.value
        for name in names:
            value = value.get(name, _ABSENT) if isinstance(value, dict) else _ABSENT
        if value is not _ABSENT:
            yield value


def _same(one: Any, other: Any) -> bool:
    """Return whether two JSON values are equal; ``true`` is not 1, at any depth."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)
