"""What a person is asked about messages whose delivery is unknown, through Airflow's Required Actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce import _compat
from airflow_provider_agentforce._compat import Context
from airflow_provider_agentforce.exceptions import AgentforceInputError, one_line

if TYPE_CHECKING:
    from airflow_provider_agentforce.delivery import Ask, UnknownDelivery

DONE = "It was done"
NOT_DONE = "It was not: send it"
GIVE_UP = "Fail"
_ACTED = {DONE: True, NOT_DONE: False}
ANSWER = "answer"
_MOST_KEYS = 100
_HOW_TO_LOOK = (
    "Look at the record that the message was to change, and at the session in Salesforce: the agent's event "
    "log (Agentforce Builder) finds it by the session's id or its external session key."
)


@dataclass(frozen=True)
class Question:
    """What is asked.

    :param fields: names of the text fields that the person may fill in.
    """

    subject: str
    body: str
    options: Sequence[str]
    fields: Sequence[str] = ()

    @classmethod
    def about(cls, unknown: Sequence[UnknownDelivery], *, may_send: bool) -> Question:
        """Return the question about one message, or about the messages of several records.

        :param may_send: sending again is one of the options.
        """
        options = (DONE, *([NOT_DONE] if may_send else []), GIVE_UP)
        if len(unknown) == 1 and unknown[0].record_key is None:
            return cls("Did the agent act on this message?", _body(unknown[0]), options, (ANSWER,))
        keys = [one_line(str(one.record_key), 80) for one in unknown[:_MOST_KEYS]]
        more = [f"and {len(unknown) - _MOST_KEYS} more"] if len(unknown) > _MOST_KEYS else []
        seen = dict.fromkeys(finding for one in unknown for finding in one.findings)
        body = [
            f"{len(unknown)} records were asked about, and whether the agent acted is not known.",
            "The decision is for all of them. Their keys:",
            _quoted("\n".join([*keys, *more])),
            *(["What was found out:", _quoted("\n".join(list(seen)[:20]))] if seen else []),
            _HOW_TO_LOOK,
        ]
        return cls(f"Did the agent act on these {len(unknown)} records?", "\n\n".join(body), options)


@dataclass(frozen=True)
class Decision:
    """What a person has decided.

    :param answer: of the agent, as the person knows it; ``""`` if not.
    :param user: the person's name.
    """

    option: str
    answer: str = ""
    user: str | None = None

    @property
    def acted(self) -> bool | None:
        """Whether the agent acted; ``None``: the task is to fail."""
        return _ACTED.get(self.option)


def decision_of(task_instance: Any, event: Mapping[str, Any] | None) -> Decision | None:
    """Return the decision that is there, ``None`` if there is none.

    :param event: what Airflow has resumed the task with. An earlier try may have got the decision instead.
    """
    given: Mapping[str, Any]
    if event is not None and event.get("chosen_options"):
        given = event
    else:
        found = _compat.question_asked(task_instance)
        given = {} if found is None else {name: getattr(found, name, None) for name in _ANSWERED}
    options = list(given.get("chosen_options") or [])
    if not options:
        return None
    user: Any = given.get("responded_by_user")
    name = user.get("name") if isinstance(user, Mapping) else getattr(user, "name", None)
    answer = (given.get("params_input") or {}).get(ANSWER)
    return Decision(options[0], str(answer or "").strip(), name)


_ANSWERED = ("chosen_options", "params_input", "responded_by_user")


def put(question: Question, step: Ask, context: Context, log: Any, *, again: bool) -> None:
    """Put the question where people see it.

    :param again: an earlier try may have done so, and has told the notifiers.
    :raises AgentforceInputError: this task instance has asked something else before, and this Airflow would
        show that.
    """
    ti = context["ti"]
    if not again and not _compat.questions_change() and _compat.question_asked(ti) is not None:
        raise AgentforceInputError(
            "This task instance has asked a question before, and below Airflow 3.4 people would see that "
            "one. Nothing was asked and nothing was sent.",
            hint="Look at the session yourself. Clearing the task sends the message again.",
        )
    _compat.ask_person(
        ti,
        subject=question.subject,
        body=question.body,
        options=list(question.options),
        fields=dict.fromkeys(question.fields, "The agent's answer, if you know it"),
        assigned_users=list(step.assigned_users),
    )
    if again:
        return
    for notifier in step.notifiers:
        try:
            notifier(context)
        except Exception:  # noqa: PERF203 - each gets its chance
            log.exception("A notifier failed; the question is asked all the same.")


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
        _quoted(said),
        "\n".join(f"* {name}: {one_line(str(value), 100)}" for name, value in facts.items() if value),
        "Why it is not known:",
        _quoted("\n".join([delivery.error, *delivery.findings])),
    ]
    if delivery.partial_text:
        body += ["What could be read of the answer:", _quoted(delivery.partial_text)]
    return "\n\n".join([*body, _HOW_TO_LOOK])


def _shown(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(sep=" ", timespec="seconds")


def _quoted(text: str) -> str:
    """Return foreign text so that Markdown shows it and does nothing else with it."""
    return "\n".join(f"    {line}" for line in text[:4000].splitlines())
