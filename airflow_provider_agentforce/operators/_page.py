"""The XCom of a task for its page: the conversation so far, bounded in size.

It is updated during the task, so that the page of a running, waiting or killed task has it, too. A failure to
write it never fails the task.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce._compat import Context, has_pages
from airflow_provider_agentforce.client.models import JournalEntry, Session, Turn
from airflow_provider_agentforce.client.open_session import Journal
from airflow_provider_agentforce.delivery import UnknownDelivery
from airflow_provider_agentforce.exceptions import AgentforceError, DeliveryUnknownError
from airflow_provider_agentforce.links.page import PAGE_XCOM
from airflow_provider_agentforce.operators._reporting import what_to_do

if TYPE_CHECKING:
    from airflow_provider_agentforce.operators._base import AgentforceBaseOperator
    from airflow_provider_agentforce.operators._unknown_delivery import ResolverState

_VERSION = 1
# Airflow stores an XCom in its database, and the page reads many of them.
_MOST_BYTES = 40_000
_MOST_TEXT = 4_000
_MOST_VALUE = 2_000
_MOST_FINDINGS = 20
RUNNING, FINISHED, FAILED = "running", "finished", "failed"


class TaskPage:
    """The contents of a task's page.

    :param kind: ``conversation``, ``message``, ``session``, ``end``, ``feedback`` or ``batch``.
    """

    def __init__(self, task: AgentforceBaseOperator, context: Context, kind: str) -> None:
        self._task = task
        self._context = context
        self._facts: dict[str, Any] = {"version": _VERSION, "kind": kind, "state": RUNNING}
        self._facts["try"] = context["ti"].try_number

    def add(self, **facts: Any) -> None:
        """Add facts to the page, as JSON values, to be written with the next update."""
        self._facts |= facts

    def write(self, **facts: Any) -> None:
        """Add facts to the page and write it."""
        self.add(**facts)
        if has_pages():
            task, at = self._task, _now()
            agent = {"org": task.org, "agent": task.agent_in_words, "at": at}
            task.push_in_failure(self._context, PAGE_XCOM, {**self._facts, **agent, **self.body()})

    def body(self) -> dict[str, Any]:
        """Return the other contents of the page."""
        return {}

    def finish(self, result: Any) -> None:
        """Set the end of the task.

        :param result: its result.
        """
        read = result.get("result") if isinstance(result, Mapping) else None
        self.write(state=FINISHED, **({"result": read} if read is not None and _small(read) else {}))

    def fail(self, error: BaseException) -> None:
        """Set why the task fails. Of another library's error only the type is shown, as its text may contain
        anything.
        """
        if isinstance(error, AgentforceError):
            what, hint = error.fact, what_to_do(error)
        else:
            what, hint = f"The task failed with {type(error).__name__}.", "See the log of the task."
        unknown = isinstance(error, DeliveryUnknownError) and not error.applied
        self.write(state=FAILED, error={"what": what, "hint": hint, "unknown": unknown})


class ConversationPage(TaskPage):
    """The page of a task with one session."""

    def __init__(self, task: AgentforceBaseOperator, context: Context, kind: str) -> None:
        super().__init__(task, context, kind)
        self._turns: dict[int, str] = {}
        self._sending: dict[str, Any] | None = None
        self._unknown: dict[str, Any] | None = None
        self._left_out = 0

    def began(self, session: Session) -> None:
        """Set the session."""
        self.write(
            session_id=session.session_id,
            external_session_key=session.external_session_key,
            greeting=_cut(session.greeting, _MOST_TEXT)[0],
            agent_id=session.agent_id,
        )

    def begin_again(self) -> None:
        """Forget the answers, because the conversation begins again."""
        self._turns.clear()
        self._sending = self._unknown = None
        self._left_out = 0

    def sends(self, number: int, request: Mapping[str, Any] | None) -> None:
        """Set the message that is about to leave."""
        self._sending = {"sequence_id": number, "request": _request(request)[0], "sent_at": _now()}
        self.write()

    def knows(self, turn: Turn, *, kept: bool = False, kept_from: int | None = None) -> None:
        """Add an answer.

        :param kept: it is recorded; the page is written with the next update.
        :param kept_from: the try that received it.
        """
        sent_at = self._sending and self._sending["sent_at"]
        self._note(turn, {"kept_from": kept_from} if kept else {"sent_at": sent_at, "at": _now()})
        if not kept:
            self.write()

    def not_acted(self) -> None:
        """Set that the agent did not act on the last message."""
        self._sending = None
        self.write()

    def resolves(self, delivery: UnknownDelivery, state: ResolverState) -> None:
        """Set the state of the steps that resolve a message."""
        self._unknown = {
            "sequence_id": delivery.sequence_id,
            "request": _request(delivery.request)[0],
            "session_id": delivery.session_id,
            "external_session_key": delivery.external_session_key,
            "sent_at": delivery.to_dict()["sent_at"],
            "error": delivery.error,
            "partial_text": _cut(delivery.partial_text or "", _MOST_TEXT)[0],
            **step_state(state),
        }
        self.write()

    def add_plans(self, turns: list[Turn]) -> None:
        """Add what became known about the turns after their answers."""
        for turn in turns:
            if turn.plan is not None and turn.sequence_id in self._turns:
                known = json.loads(self._turns[turn.sequence_id])
                self._note(turn, {name: known.get(name) for name in ("kept_from", "sent_at", "at")})

    def body(self) -> dict[str, Any]:
        """Return the turns, the current message, and the unknown delivery."""
        return {
            "turns": [json.loads(turn) for turn in self._turns.values()],
            "left_out": self._left_out,
            "sending": self._sending,
            "unknown": self._unknown,
        }

    def _note(self, turn: Turn, more: Mapping[str, Any]) -> None:
        # The XCom is bounded, so the oldest turns are dropped.
        self._turns[turn.sequence_id] = json.dumps({**_shown(turn), **more}, ensure_ascii=False)
        size = sum(len(one.encode()) for one in self._turns.values())
        while size > _MOST_BYTES and len(self._turns) > 1:
            size -= len(self._turns.pop(next(iter(self._turns))).encode())
            self._left_out += 1
        self._sending = None
        if self._unknown is not None and self._unknown["sequence_id"] == turn.sequence_id:
            self._unknown = None


class ShownJournal:
    """A journal that also updates the page."""

    def __init__(self, journal: Journal, page: ConversationPage) -> None:
        self._journal = journal
        self._page = page

    def replay(self, number: int, asked: Mapping[str, Any]) -> JournalEntry:
        """Return what is known about the message."""
        earlier = self._journal.replay(number, asked)
        if earlier.turn is not None:
            self._page.knows(earlier.turn, kept=True, kept_from=earlier.try_number)
        return earlier

    def intend(self, number: int, asked: Mapping[str, Any], request: dict[str, Any] | None) -> None:
        """Record that the message is about to leave."""
        # First, so that nothing else happens between the intent and the message.
        self._page.sends(number, request)
        self._journal.intend(number, asked, request)

    def settle(self, number: int, asked: Mapping[str, Any], turn: Turn | None) -> None:
        """Record the answer, or that the agent did not act."""
        self._journal.settle(number, asked, turn)
        if turn is None:
            self._page.not_acted()
        else:
            self._page.knows(turn)

    def doubt(self, number: int, asked: Mapping[str, Any], error: DeliveryUnknownError) -> None:
        """Record what is known about a message whose delivery is unknown."""
        self._journal.doubt(number, asked, error)


def step_state(state: ResolverState) -> dict[str, Any]:
    """Return the state of the steps of ``on_unknown_delivery``, and their findings."""
    findings = dict.fromkeys(one for found in state.findings.values() for one in found)
    return {"steps": state.steps, "step": state.step, "findings": list(findings)[:_MOST_FINDINGS]}


def _shown(turn: Turn) -> dict[str, Any]:
    text, cut_text = _cut(turn.text, _MOST_TEXT)
    request, cut_request = _request(turn.request)
    values = {"citations": turn.citations, "results": turn.results, "plan": turn.plan}
    kept = {name: value for name, value in values.items() if value and _small(value)}
    asked = turn.question
    question = {"type": asked["type"], "items": turn_items(asked)} if asked is not None else None
    return {
        "sequence_id": turn.sequence_id,
        "session_id": turn.session_id,
        "outcome": turn.outcome,
        "text": text,
        "request": request,
        "question": question,
        "reason": turn.failure_reason[:_MOST_VALUE],
        "feedback_id": turn.feedback_id,
        "plan_id": turn.plan_id,
        "is_content_safe": turn.is_content_safe,
        "resolution": turn.resolution,
        **kept,
        "cut": cut_text or cut_request or len(kept) < sum(map(bool, values.values())),
    }


def turn_items(asked: Mapping[str, Any]) -> list[Any]:
    """Return what a question asks about, if it is short enough."""
    from airflow_provider_agentforce.client.messages import asked_in  # noqa: PLC0415 - not at parse time

    items = list(asked_in(asked))
    return items if _small(items) else []


def _request(request: Mapping[str, Any] | None) -> tuple[dict[str, Any] | None, bool]:
    if request is None:
        return None, False
    text, cut = _cut(request.get("text") or "", _MOST_TEXT)
    kept = {name: value for name, value in request.items() if name != "text" and _small(value)}
    return {**kept, "text": text or None}, cut or len(kept) + 1 < len(request)


def _cut(text: str, most: int) -> tuple[str, bool]:
    return (text, False) if len(text) <= most else (f"{text[:most]}…", True)


def _small(value: Any) -> bool:
    return len(json.dumps(value)) <= _MOST_VALUE


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
