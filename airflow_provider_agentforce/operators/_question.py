"""What a person is asked through Airflow's Required Actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce import _compat
from airflow_provider_agentforce._compat import Context
from airflow_provider_agentforce.exceptions import AgentforceInputError, one_line
from airflow_provider_agentforce.operators._ledger import QUESTION, Ledger, fingerprint

if TYPE_CHECKING:
    from airflow_provider_agentforce.delivery import Ask, UnknownDelivery
    from airflow_provider_agentforce.operators._base import AgentforceBaseOperator

DONE = "It was done"
NOT_DONE = "It was not: send it"
GIVE_UP = "Fail"
_ACTED = {DONE: True, NOT_DONE: False}
ANSWER = "answer"
_MOST_KEYS = 100
_MOST_TEXT = 4000
_HOW_TO_LOOK = (
    "Look at the record that the message was to change, and at the session in Salesforce: the agent's event "
    "log (Agentforce Builder) finds it by the session's id or its external session key."
)


@dataclass(frozen=True)
class Question:
    """What is asked.

    :param about_what: what tells it from another question, JSON values.
    :param fields: text fields that the person may fill in: their titles by their names.
    :param proposed: what stands in these fields, by their names.
    :param hint: the way out where it cannot be asked.
    """

    subject: str
    body: str
    options: Sequence[str]
    about_what: Sequence[Any]
    fields: Mapping[str, str] = field(default_factory=dict)
    proposed: Mapping[str, str] = field(default_factory=dict)
    hint: str = "Look at the session yourself. Clearing the task sends the message again."

    @classmethod
    def about(cls, unknown: Sequence[UnknownDelivery], *, may_send: bool) -> Question:
        """Return the question about one message, or about the messages of several records.

        :param may_send: sending again is one of the options.
        """
        options = (DONE, *([NOT_DONE] if may_send else []), GIVE_UP)
        what = [
            [one.session_id, one.sequence_id, one.to_dict()["sent_at"], str(one.record_key)]
            for one in unknown
        ]
        if len(unknown) == 1 and unknown[0].record_key is None:
            fields = {ANSWER: "The agent's answer, if you know it"}
            return cls("Did the agent act on this message?", _body(unknown[0]), options, what, fields)
        keys = [one_line(str(one.record_key), 80) for one in unknown[:_MOST_KEYS]]
        more = [f"and {len(unknown) - _MOST_KEYS} more"] if len(unknown) > _MOST_KEYS else []
        seen = dict.fromkeys(finding for one in unknown for finding in one.findings)
        body = [
            f"{len(unknown)} records were asked about, and whether the agent acted is not known.",
            "The decision is for all of them. Their keys:",
            quoted("\n".join([*keys, *more])),
            *(["What was found out:", quoted("\n".join(list(seen)[:20]))] if seen else []),
            _HOW_TO_LOOK,
        ]
        return cls(f"Did the agent act on these {len(unknown)} records?", "\n\n".join(body), options, what)

    def form(self) -> dict[str, Any]:
        """Return what a person can choose and fill in, as Airflow has it."""
        params = {
            name: {
                "value": self.proposed.get(name, ""),
                "description": title,
                "schema": {"type": "string", "title": title},
            }
            for name, title in self.fields.items()
        }
        return {"options": list(self.options), "params": params}


@dataclass(frozen=True)
class Decision:
    """What a person has decided.

    :param values: what is in the fields, by their names.
    :param user: the person's name.
    """

    option: str
    values: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None

    @property
    def answer(self) -> str:
        """The agent's answer, as the person knows it; ``""`` if not."""
        return self.values.get(ANSWER, "")

    @property
    def acted(self) -> bool | None:
        """Whether the agent acted; ``None``: the task is to fail."""
        return _ACTED.get(self.option)

    @classmethod
    def of(cls, event: Mapping[str, Any]) -> Decision:
        """Read what Airflow resumes a task with."""
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
    """Return the decision, ``None`` if it does not come in time; wait for it without a worker slot.

    That the question is asked is on record first, so that up to Airflow 3.3 no later try asks it once more.

    :param event: what the task is resumed with.
    :raises AgentforceInputError: this task instance has asked something else before, and this Airflow would
        show that.
    """
    if event.get("chosen_options"):
        return Decision.of(event)
    if event.get("error_type") == "timeout":
        return None
    ledger, mark = Ledger.of(context), fingerprint(*question.about_what)
    record = ledger.read_any_cycle(QUESTION)
    same = record is not None and record == replace(record, fingerprint=mark, cycle=ledger.cycle)
    if record is not None and not same and not _compat.questions_change():
        raise AgentforceInputError(
            "This task instance has asked a question before, and below Airflow 3.4 people would see that "
            "one. Nothing was asked and nothing was sent.",
            hint=question.hint,
        )
    form = question.form()
    if same and "error" not in event and not _compat.questions_change():
        # The answer may be there: to ask again would delete it. From Airflow 3.4 on each try has its own.
        task.log.info("An earlier try has asked a person; waiting for the decision.")
        trigger = _compat.answer_trigger(context["ti"], until, **form)
        task.defer(trigger=trigger, method_name="execute_complete")
    ledger.decide(QUESTION, mark, {}, done=False)
    users = list(step.assigned_users)
    _compat.ask_person(
        context["ti"], subject=question.subject, body=question.body, assigned_users=users, **form
    )
    if not same:
        _notify(step, context, task)
    task.log.info("Waiting for a person's decision.")
    now = datetime.now(timezone.utc)
    raise _compat.awaiting_input("execute_complete", None if until is None else until - now)


def _notify(step: Ask, context: Context, task: AgentforceBaseOperator) -> None:
    for notifier in step.notifiers:
        try:
            notifier(context)
        except Exception:  # noqa: PERF203 - each gets its chance
            task.log.exception("A notifier failed; the question is asked all the same.")


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
        body += ["What could be read of the answer:", quoted(delivery.partial_text)]
    return "\n\n".join([*body, _HOW_TO_LOOK])


def _shown(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(sep=" ", timespec="seconds")


def listed(facts: Mapping[str, Any]) -> str:
    """Return those facts that are known, a line each, as Markdown."""
    return "\n".join(f"* {name}: {one_line(str(value), 100)}" for name, value in facts.items() if value)


def quoted(text: str) -> str:
    """Return foreign text so that Markdown shows it and does nothing else with it."""
    shown = text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]}…\n(It is longer.)"
    return "\n".join(f"    {line}" for line in shown.splitlines())
