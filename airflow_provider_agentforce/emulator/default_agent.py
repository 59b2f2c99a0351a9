"""The agent without a script: obvious words cause each outcome, and equal questions get equal answers.

The words are documented in ``docs/emulator.md``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from airflow_provider_agentforce.emulator.messages import ACTION, ScriptTurn
from airflow_provider_agentforce.emulator.models import salesforce_id

_ORDER = re.compile(r"\border\s+(?:number\s+|no\.?\s*)?#?(?P<number>\d+)", re.IGNORECASE)
_NAMED_ACCOUNT = re.compile(
    r"\b[Aa]ccount\s+(?:(?:named|called|of|for)\s+)?"
    r"(?:[\"'“](?P<quoted>[^\"'”]+)[\"'”]|(?P<plain>[A-Z0-9][\w&.-]*(?:\s+(?:[A-Z0-9&][\w&.-]*|of|and))*))"
)
_QUOTED = re.compile(r"[\"“](?P<quoted>[^\"”]+)[\"”]")
_INDUSTRIES = (
    *("Manufacturing", "Retail", "Healthcare", "Finance"),
    *("Energy", "Technology", "Logistics", "Education"),
)
_RISKS = ("low", "medium", "high")
_STATUSES = ("has shipped", "is being packed", "was delivered", "waits for payment")


def answer(turn: ScriptTurn) -> Any:
    """Return the answer to one message; the first rule that fits wins."""
    decision = _decision(turn)
    if decision:
        return decision
    if turn.type != "Text":
        return _NOT_TEXT[turn.type]
    return next(reply(turn.text) for pattern, reply in _RULES if pattern.search(turn.text))


def _decision(turn: ScriptTurn) -> Any:
    """Answer a Reply or Cancel for the last answer's Confirm, or a text that says yes or no to it."""
    last = turn.history[-1].messages if turn.history else []
    asked = [message["id"] for message in last if message.get("type") == "Confirm"]
    if turn.type in ("Reply", "Cancel") and turn.message.get("inReplyToMessageId") in asked:
        yes = turn.type == "Reply"
    elif asked and (said := re.match(r"\W*(yes|no)\b", turn.text, re.IGNORECASE)):
        yes = said[1].lower() == "yes"
    else:
        return None
    return _done(asked[-1]) if yes else "All right, I changed nothing."


def _number(key: str, low: int, high: int) -> int:
    """Return a number from ``low`` to ``high`` that depends only on ``key``."""
    digest = hashlib.sha256(key.strip().lower().encode()).digest()
    return low + int.from_bytes(digest[:8], "big") % (high - low + 1)


def _one_of(choices: tuple[str, ...], key: str) -> str:
    return choices[_number(key, 0, len(choices) - 1)]


def _account_name(text: str) -> str | None:
    found = _NAMED_ACCOUNT.search(text) or _QUOTED.search(text)
    if found is None:
        return None
    groups = found.groupdict()
    return (groups.get("quoted") or groups.get("plain") or "").rstrip(".-& ")


def _order_facts(text: str) -> dict[str, Any]:
    match = _ORDER.search(text)
    number = match["number"] if match else "0"
    status = _one_of(_STATUSES, f"order {number}")
    return {"order": number, "status": status, "items": _number(f"items {number}", 1, 9)}


def _order_text(facts: dict[str, Any]) -> str:
    return f"Order {facts['order']} {facts['status']} ({_counted(facts['items'], 'item')})."


def _account_facts(text: str) -> dict[str, Any]:
    name = _account_name(text) or "this account"
    return {
        "account": name,
        "industry": _one_of(_INDUSTRIES, f"industry {name}"),
        "risk": _one_of(_RISKS, f"risk {name}"),
        "employees": _number(f"employees {name}", 2, 500) * 10,
        "open_cases": _number(f"cases {name}", 0, 6),
    }


def _account_text(facts: dict[str, Any]) -> str:
    return f"{_claim(facts)} Risk: {facts['risk']}. {_counted(facts['open_cases'], 'open case')}."


def _claim(facts: dict[str, Any]) -> str:
    return f"{facts['account']} is in {facts['industry']} with {facts['employees']} employees."


def _report_facts(_text: str) -> dict[str, Any]:
    return {"open_cases": 42, "escalated_cases": 3, "pipeline_eur": 1_250_000, "deals_at_risk": 4}


def _report_text(facts: dict[str, Any]) -> str:
    return (
        f"There are {facts['open_cases']} open cases, {facts['escalated_cases']} of them escalated. "
        f"The pipeline is EUR {facts['pipeline_eur']:,}; {facts['deals_at_risk']} deals are at risk."
    )


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


class _Subject(NamedTuple):
    """A topic of the agent: the action that finds its facts, and the text about them."""

    action: str
    facts: Callable[[str], dict[str, Any]]
    text: Callable[[dict[str, Any]], str]


_ORDERS = _Subject("Get_Order_Status", _order_facts, _order_text)
_ACCOUNTS = _Subject("Get_Account", _account_facts, _account_text)
_REPORTS = _Subject("Get_Report", _report_facts, _report_text)


def _inform(subject: _Subject, text: str) -> dict[str, Any]:
    facts = subject.facts(text)
    action = f"copilotActionOutput/{subject.action}_179EM0000000001"
    answer = {"text": subject.text(facts), "result": [{"type": action, "property": "", "value": facts}]}
    if subject is _ACCOUNTS:
        claim, record_id = _claim(facts), salesforce_id("001EM0000000001")
        source = {"type": "record", "value": record_id, "recordId": record_id, "label": facts["account"]}
        answer["citedReferences"] = [{**source, "inlineMetadata": [{"claim": claim, "location": len(claim)}]}]
    return answer


def _json(text: str) -> str:
    found = next((subject.facts(text) for pattern, subject in _SUBJECTS if pattern.search(text)), None)
    facts = found or {"question": text, "answer": "Here is your JSON."}
    return f"```json\n{json.dumps(facts, indent=2, ensure_ascii=False)}\n```"


def _done(confirmed: str) -> dict[str, Any]:
    result = {
        "type": ACTION.replace("Input", "Output"),
        "property": "done",
        "value": {"confirmed": confirmed},
    }
    return {"type": "Inform", "text": "Done.", "result": [result]}


def _confirm(text: str) -> dict[str, Any]:
    return {
        "type": "Confirm",
        "text": f"Shall I go ahead? You asked: {text}",
        "confirm": [{"type": ACTION, "property": "", "value": {"request": text}}],
    }


def _echo(text: str) -> str:
    return f"I am the emulator's agent and heard: {text}"


_NOT_TEXT = {
    "Reply": "Thank you, I noted your choice.",
    "Cancel": "All right, I stopped.",
    "TransferFailed": "I am sorry that no one was available. How else can I help?",
    "TransferSucceeded": "You are now with a person.",
    "PlanTemplate": "The plan has run.",
}


def _words(*words: str) -> re.Pattern[str]:
    return re.compile(r"\b(?:" + "|".join(words) + r")\b", re.IGNORECASE)


_SUBJECTS = (
    (_ORDER, _ORDERS),
    (_NAMED_ACCOUNT, _ACCOUNTS),
    (_words("how many", "open cases", "pipeline", "summary", "summari[sz]e", "report"), _REPORTS),
    (_words("accounts?"), _ACCOUNTS),
)
_RULES: tuple[tuple[re.Pattern[str], Callable[[str], Any]], ...] = (
    (_words("goodbye", "bye"), lambda _: {"type": "SessionEnded", "text": "Goodbye!"}),
    (
        _words("human", "escalate", "person"),
        lambda _: {"type": "Escalate", "text": "Let me connect you with a person."},
    ),
    (_words("refund", "delete"), _confirm),
    (_words("fail"), lambda _: {"type": "Failure"}),
    (_words("json"), _json),
    *((pattern, partial(_inform, subject)) for pattern, subject in _SUBJECTS),
    (_words("which", "missing"), lambda _: {"type": "Inquire", "text": "Please give me the case number."}),
    (re.compile(""), _echo),
)
