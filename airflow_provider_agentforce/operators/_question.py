"""Questions to a person through Airflow's Required Actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any
from uuid import UUID

from airflow_provider_agentforce import _compat
from airflow_provider_agentforce._compat import INTERRUPTIONS, Context
from airflow_provider_agentforce.client.failure_catalogue import HOW_TO_LOOK
from airflow_provider_agentforce.exceptions import AgentforceInputError, one_line
from airflow_provider_agentforce.operators._ledger import QUESTION, Ledger, fingerprint_of

if TYPE_CHECKING:
    from airflow_provider_agentforce.delivery import Ask, UnknownDelivery
    from airflow_provider_agentforce.operators._base import AgentforceBaseOperator

DONE = "It was done"
NOT_DONE = "It was not: send it"
GIVE_UP = "Fail"
_ACTED = {DONE: True, NOT_DONE: False}
ANSWER = "answer"
ASKED_BEFORE = (
    "This task instance has asked a question before. Below Airflow 3.4 the UI would show that one, so it "
    "cannot ask a second one."
)
_MOST_KEYS = 100
# Airflow needs a wait longer than zero.
_SOON = timedelta(seconds=1)
_MOST_TEXT = 4000


@dataclass(frozen=True)
class Question:
    """A question to a person.

    :param subject: its title.
    :param body: Markdown.
    :param options: the answers to choose from.
    :param about_what: identifies the question, as JSON values.
    :param fields: text fields that the person may fill in: their titles by their names.
    :param proposed: the initial values of these fields, by their names.
    :param hint: what to do if it cannot be asked.
    """

    subject: str
    body: str
    options: Sequence[str]
    about_what: Sequence[Any]
    fields: Mapping[str, str] = field(default_factory=dict)
    proposed: Mapping[str, str] = field(default_factory=dict)
    hint: str = "Look at the session yourself. Clearing the task sends the message again."

    @classmethod
    def about(
        cls, unknown: Sequence[UnknownDelivery], *, may_send: bool, as_json: bool = False, results: str = ""
    ) -> Question:
        """Return the question about one message, or about the messages of several records.

        :param may_send: sending again is one of the options.
        :param as_json: the agent's answer must be JSON.
        :param results: where a batch writes its results.
        """
        options = (DONE, *([NOT_DONE] if may_send else []), GIVE_UP)
        what = [
            [one.session_id, one.sequence_id, one.to_dict()["sent_at"], str(one.record_key)]
            for one in unknown
        ]
        if len(unknown) == 1 and unknown[0].record_key is None:
            form = " (JSON that fits the task's output_type)" if as_json else ""
            fields = {ANSWER: f"The agent's answer, if you know it{form}"}
            return cls("Did the agent act on this message?", _body(unknown[0]), options, what, fields)
        keys = [one_line(str(one.record_key), 80) for one in unknown[:_MOST_KEYS]]
        left = len(unknown) - _MOST_KEYS
        more = [f"and {left} more; the task's log has them all"] if left > 0 else []
        seen = dict.fromkeys(finding for one in unknown for finding in one.findings)
        body = [
            f"{len(unknown)} records have an unknown delivery: it is not known whether the agent acted.",
            listed({"Agent": unknown[0].agent_id, "Results": results}, 500),
            "The decision applies to all of them. Their keys:",
            quoted("\n".join([*keys, *more])),
            *(["What was found out:", quoted("\n".join(list(seen)[:20]))] if seen else []),
            HOW_TO_LOOK,
        ]
        return cls(f"Did the agent act on these {len(unknown)} records?", "\n\n".join(body), options, what)

    def form(self) -> dict[str, Any]:
        """Return the options and fields for Airflow."""
        params = {
            name: {
                "value": self.proposed.get(name, ""),
                "description": title,
                # Airflow offers no option while a field that must not be null is blank.
                "schema": {"type": ["null", "string"], "title": title},
            }
            for name, title in self.fields.items()
        }
        return {"options": list(self.options), "params": params}


@dataclass(frozen=True)
class Decision:
    """A person's decision.

    :param option: the chosen option.
    :param values: the values of the fields, by their names.
    :param user: the person's name.
    """

    option: str
    values: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None

    @property
    def answer(self) -> str:
        """The agent's answer, if the person knows it; otherwise ``""``."""
        return self.values.get(ANSWER, "")

    @property
    def acted(self) -> bool | None:
        """Whether the agent acted; ``None``: the task must fail."""
        return _ACTED.get(self.option)

    @classmethod
    def of(cls, event: Mapping[str, Any]) -> Decision:
        """Parse the event with which Airflow resumes a task."""
        user: Any = event.get("responded_by_user")
        name = user.get("name") if isinstance(user, Mapping) else getattr(user, "name", None)
        given = event.get("params_input") or {}
        values = {key: str("" if value is None else value).strip() for key, value in given.items()}
        return cls(str(event["chosen_options"][0]), values, name)


def decided(
    question: Question,
    step: Ask,
    until: datetime | None,
    *,
    task: AgentforceBaseOperator,
    context: Context,
    event: Mapping[str, Any],
) -> Decision | None:
    """Return the decision, ``None`` if there is none in time; wait for it without a worker slot.

    :param event: the event that resumes the task.
    :raises AgentforceInputError: as :func:`asks_second` says.
    """
    asked = _AskedQuestion(context, question)
    if event.get("chosen_options") and asked.begun:
        return Decision.of(event)
    if event.get("error_type") == "timeout" and asked.is_over(until):
        return None
    if asked.comes_second:
        raise AgentforceInputError(f"{ASKED_BEFORE} Nothing was sent.", hint=question.hint)
    if asked.may_be_answered and "error" not in event:
        # Asking again would delete an existing answer, and only a trigger can read it.
        task.log.info("An earlier try asked a person, or was about to ask. Looking for the decision.")
        asked.notify(step, context, task)
        end = _now() if asked.ended else until
        task.defer_until(_now(), _compat.answer_trigger(asked.ti_id, end, **question.form()))
    asked.put(question, step, context)
    asked.notify(step, context, task)
    how_long = "without a time limit" if until is None else f"until {until.isoformat(timespec='seconds')}"
    task.log.info("Waiting for a person's decision under Airflow's Required Actions, %s.", how_long)
    raise _compat.awaiting_input("execute_complete", None if until is None else max(until - _now(), _SOON))


def asks_second(question: Question, context: Context) -> bool:
    """Return whether the task instance has asked another question, which this Airflow would show."""
    return _AskedQuestion(context, question).comes_second


class _AskedQuestion:
    """The recorded state of a task's question.

    The ledger's entry says that a question is about to be asked, that it was asked, and that the notifiers
    were called. Wherever a try is killed, the next one knows whether a question may exist, and what remains
    to be done.

    :ivar comes_second: the task instance has asked another question, which this Airflow would show.
    :ivar begun: an earlier try, or this one before a wait, was about to ask it.
    :ivar may_be_answered: it may have an answer that only a trigger can read.
    :ivar ti_id: id of the task instance that Airflow has the question under.
    :ivar ended: it ended with its try, and a person can no longer answer it (Airflow 3.4 and later).
    """

    def __init__(self, context: Context, question: Question) -> None:
        self._ledger = ledger = Ledger.of(context)
        self._fingerprint = fingerprint_of(*question.about_what)
        # Each try asks for itself (Airflow 3.4 and later).
        self._per_try = _compat.questions_change()
        entry = ledger.read_any_cycle(QUESTION)
        recorded = {} if entry is None else dict(entry.value or {})
        self.begun = entry is not None and (entry.fingerprint, entry.cycle) == (
            self._fingerprint,
            ledger.cycle,
        )
        self.comes_second = entry is not None and not self.begun and not self._per_try
        self._state: dict[str, Any] = recorded if self.begun else {}
        self._this_try = self.ti_id = context["ti"].id
        asked_by = recorded.get("asked_by")
        self._asked_in_this_try = asked_by == str(self._this_try)
        if self._per_try and self.begun and asked_by is not None:
            self.ti_id = UUID(asked_by)
        self.ended = self.ti_id != self._this_try
        self.may_be_answered = self.ended or (self.begun and not self._per_try)

    def is_over(self, until: datetime | None) -> bool:
        """Return whether no one can answer any more, after a wait that has timed out."""
        return not self.ended or (until is not None and until <= _now())

    def done(self, what: str) -> bool:
        """Return whether it is recorded: ``asked`` or ``notified``."""
        return bool(self._state.get(what))

    def put(self, question: Question, step: Ask, context: Context) -> None:
        """Add the question to the Required Actions, after recording that it may exist."""
        if self.done("asked") and not self._per_try:
            return
        if not self.begun or self.ended:
            # Until this question replaces it, Airflow still has the previous one with its answer.
            self._note("asked_by", None if self._asked_in_this_try else str(self._this_try))
        texts = {"subject": question.subject, "body": question.body}
        users = list(step.assigned_users)
        _compat.ask_person(context["ti"], **texts, assigned_users=users, **question.form())
        self._state["asked_by"] = str(self._this_try)
        self._note("asked")

    def _note(self, what: str, value: str | bool | None = True) -> None:
        self._state[what] = value
        self._ledger.decide(QUESTION, self._fingerprint, self._state, done=False)

    def notify(self, step: Ask, context: Context, task: AgentforceBaseOperator) -> None:
        """Call the notifiers once; again only after a kill during the call."""
        if not step.notifiers or self.done("notified"):
            return
        for notifier in step.notifiers:
            try:
                notifier(context)
            except INTERRUPTIONS:  # noqa: PERF203 - each notifier is called
                raise
            except BaseException:
                task.log.exception("A notifier failed. The question is still asked.")
        self._note("notified")


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _body(delivery: UnknownDelivery) -> str:
    request = delivery.request or {}
    facts = {
        "Session": delivery.session_id,
        "External session key": delivery.external_session_key,
        "Message": delivery.sequence_id,
        "Agent": delivery.agent_id,
        "Sent": _shown(delivery.sent_at),
    }
    said = delivery.text or (f"({request['type']})" if request else "(not kept)")
    body = [
        "What was sent:",
        quoted(said),
        listed(facts),
        "Why it is not known:",
        quoted("\n".join([delivery.error, *delivery.findings])),
    ]
    if delivery.partial_text:
        body += ["The part of the answer that could be read:", quoted(delivery.partial_text)]
    return "\n\n".join([*body, HOW_TO_LOOK])


def _shown(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(sep=" ", timespec="seconds")


def listed(facts: Mapping[str, Any], longest: int = 100) -> str:
    """Return the known facts as a Markdown list."""
    return "\n".join(f"* {name}: {one_line(str(value), longest)}" for name, value in facts.items() if value)


def quoted(text: str) -> str:
    """Return foreign text as a code block, so that Markdown shows it unchanged."""
    shown = text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]}…\n(truncated)"
    return "\n".join(f"    {line}" for line in shown.splitlines())
