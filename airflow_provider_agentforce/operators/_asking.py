"""Who decides what an agent asks in a conversation: a function, or a person in Airflow's Required Actions.

A person's decision is recorded before it is sent, so that a later try sends the same and asks no one twice.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce.client.messages import Cancel, MessageLike, Reply, asked_in
from airflow_provider_agentforce.client.models import Turn
from airflow_provider_agentforce.delivery import Ask
from airflow_provider_agentforce.exceptions import AgentforceInputError, LedgerError, one_line
from airflow_provider_agentforce.operators._ledger import Ledger, fingerprint_of, turn_key
from airflow_provider_agentforce.operators._question import ANSWER, Decision, Question, listed, quoted

if TYPE_CHECKING:
    Decide = Callable[[Turn], MessageLike | None]
    AskPerson = Callable[[Ask, Question, datetime | None], Decision | None]

log = logging.getLogger(__name__)

APPROVE, DECLINE, SEND = "Approve", "Decline", "Send"
_APPROVAL: dict[str, Any] = {
    "subject": "The agent asks for your approval",
    "options": (APPROVE, DECLINE),
    "fields": {},
    "proposed": {},
}
_IN_TIME = "in time"
_NOT_IN_TIME = Cancel()
_HINT = (
    "The agent has not done what it asks about. Decide the other question in a function, or hold the "
    "conversation in a new run."
)


class Decisions:
    """The replies to an agent's questions.

    :param deciders: who decides, by the outcome of a turn.
    :param ledger: records a person's decisions.
    :param ask: returns a person's decision, ``None`` if none comes in time; may end the process to wait.
    """

    def __init__(
        self, deciders: Mapping[str, Decide | Ask | None], *, ledger: Ledger, ask: AskPerson
    ) -> None:
        self._deciders = deciders
        self._ledger = ledger
        self._ask = ask

    def on(self, turn: Turn) -> MessageLike | None:
        """Return the reply to a turn, ``None`` to continue with the next message.

        :raises AgentforceInputError: a person cannot be asked about it, or left all the fields blank.
        :raises LedgerError: the answers so far could not be recorded.
        """
        decider = self._deciders.get(turn.outcome)
        if isinstance(decider, Ask):
            return self._by_person(turn, decider)
        return None if decider is None else decider(turn)

    @staticmethod
    def ends_with(said: MessageLike) -> bool:
        """Return whether the conversation ends with it because no person decided in time."""
        return said is _NOT_IN_TIME

    def begin_again(self, answered: int) -> None:
        """Forget the decisions before the conversation begins again: an approval counts once.

        The decision about the last answer is kept, because it has not been sent.

        :param answered: the number of the last message that has an answer.
        :raises LedgerError: if that cannot be recorded.
        """
        for number in range(1, answered):
            if self._ledger.read(_key(number)) is not None:
                self._ledger.decide(_key(number), "", {}, done=False)

    def _by_person(self, turn: Turn, step: Ask) -> MessageLike:
        asked = turn.question
        if asked is None:
            raise _cannot_ask(turn, "its question has no id")
        question = question_about(turn, asked)
        # Without the session: a decision that could not be sent is sent in the next session.
        key, fingerprint = _key(turn.sequence_id), fingerprint_of(*question.about_what[1:])
        entry = self._ledger.read(key)
        value = entry.value if entry is not None and entry.fingerprint == fingerprint else None
        if value is None:
            value = {"since": datetime.now(timezone.utc).isoformat(), "decision": None}
            self._ledger.decide(key, fingerprint, value, done=False)
        if value["decision"] is None:
            self._check_kept(turn)
            since = datetime.fromisoformat(value["since"])
            until = None if step.timeout is None else since + step.timeout
            made = self._ask(step, question, until)
            _log_decision(made)
            value |= {"decision": asdict(made or Decision(_IN_TIME))}
            self._ledger.decide(key, fingerprint, value, done=False)
        return _reply_of(Decision(**value["decision"]), asked)

    def _check_kept(self, turn: Turn) -> None:
        """Refuse to ask if an answer would be lost during the wait."""
        if not self._ledger.keeps:
            raise LedgerError("An answer could not be recorded, so the task cannot wait for a person.")
        entries = [self._ledger.read_any_cycle(turn_key(number)) for number in range(1, turn.sequence_id + 1)]
        kept = [entry.value for entry in entries if entry is not None and entry.value is not None]
        if len(kept) < len(entries) or Turn.from_dict(kept[-1]).question is None:
            raise _cannot_ask(turn, "the answers so far are too long to be stored")


def question_about(turn: Turn, asked: Mapping[str, Any]) -> Question:
    """Return the question to a person about the question of an agent.

    :param asked: the ``Confirm`` or ``Inquire``.
    """
    items = asked_in(asked)
    said = (turn.request or {}).get("text")
    facts = {"Session": turn.session_id, "Message": turn.sequence_id, "Agent": turn.agent_id}
    body = [
        *(["What was sent:", quoted(said)] if said else []),
        "What the agent says:",
        quoted(turn.text),
        *(["What it asks about:", quoted("\n".join(map(_shown, items)))] if items else []),
        listed(facts),
    ]
    return Question(
        body="\n\n".join(body),
        about_what=[turn.session_id, turn.sequence_id, asked["type"], items, turn.text],
        hint=_HINT,
        **(_APPROVAL if asked["type"] == "Confirm" else _inquiry(items)),
    )


def _inquiry(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the form that asks for values."""
    return {
        "subject": "The agent asks",
        "options": (SEND, DECLINE),
        "fields": {_field_name(item): str(item["property"]) for item in items} or {ANSWER: "Your answer"},
        "proposed": {_field_name(item): _as_text(item["value"]) for item in items},
    }


def _key(number: int) -> str:
    return f"decision_{number}"


def _cannot_ask(turn: Turn, why: str) -> AgentforceInputError:
    return AgentforceInputError(
        f"A person cannot be asked how to reply to the answer to message {turn.sequence_id}: {why}.",
        hint=f"Give on_{turn.outcome} a function.",
    )


def _log_decision(made: Decision | None) -> None:
    if made is None:
        log.warning("No person decided in time. The agent's question is cancelled.")
    else:
        log.info("%s has decided: %s", made.user or "Somebody", made.option)


def _reply_of(decision: Decision, asked: Mapping[str, Any]) -> MessageLike:
    if decision.option == _IN_TIME:
        return _NOT_IN_TIME
    if decision.option == DECLINE:
        return Cancel()
    if decision.option == APPROVE and asked["type"] == "Confirm":
        return Reply()
    values = decision.values
    filled = [
        {**item, "value": _parsed(values[_field_name(item)], item["value"])}
        for item in asked_in(asked)
        if values.get(_field_name(item))
    ]
    if decision.option != SEND or not (filled or decision.answer):
        raise AgentforceInputError(
            f'{decision.user or "Somebody"} chose "{one_line(decision.option, 40)}" and left every field '
            "blank. Nothing was sent."
        )
    return Reply(filled) if filled else decision.answer


def _field_name(item: Mapping[str, Any]) -> str:
    return f"{item['type']}/{item['property']}"


def _shown(item: Mapping[str, Any]) -> str:
    value = item["value"]
    return _field_name(item) + ("" if value is None else f": {json.dumps(value, ensure_ascii=False)}")


def _as_text(proposed: Any) -> str:
    """Return a proposed value for a person to edit; a list has choices, of which none is selected."""
    if proposed is None or isinstance(proposed, list):
        return ""
    return proposed if isinstance(proposed, str) else json.dumps(proposed, ensure_ascii=False)


def _parsed(written: str, proposed: Any) -> Any:
    """Parse a person's input, as JSON if the agent proposed a number, a boolean or an object."""
    if not _as_text(proposed) or isinstance(proposed, str):
        return written
    try:
        return json.loads(written, parse_constant=str)
    except ValueError:
        return written
