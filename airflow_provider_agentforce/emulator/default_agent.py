"""The agent without a script: obvious words lead to every outcome, equal questions to equal answers.

The words are documented in ``docs/emulator.md``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

from airflow_provider_agentforce.emulator.messages import ACTION, ScriptTurn

_ORDER = re.compile(r"\border\s+(?:number\s+|no\.?\s*)?#?(?P<number>\d+)", re.IGNORECASE)
_NAMED_ACCOUNT = re.compile(
    r"\b[Aa]ccount\s+(?:(?:named|called|of|for)\s+)?"
    r"(?:[\"'“](?P<quoted>[^\"'”]+)[\"'”]|(?P<plain>[A-Z0-9][\w&.-]*(?:\s+(?:[A-Z0-9&][\w&.-]*|of|and))*))"
)
_QUOTED = re.compile(r"[\"“](?P<quoted>[^\"”]+)[\"”]")
_INDUSTRIES = (
    "Manufacturing",
    "Retail",
    "Healthcare",
    "Finance",
    "Energy",
    "Technology",
    "Logistics",
    "Education",
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


def _decision(turn: ScriptTurn) -> str | None:
    """Answer a Reply or Cancel that names the last answer's Confirm, or a text that says yes or no to it."""
    last = turn.history[-1].messages if turn.history else []
    asked = [message["id"] for message in last if message.get("type") == "Confirm"]
    if turn.type in ("Reply", "Cancel") and turn.message.get("inReplyToMessageId") in asked:
        yes = turn.type == "Reply"
    elif asked and (said := re.match(r"\W*(yes|no)\b", turn.text, re.IGNORECASE)):
        yes = said[1].lower() == "yes"
    else:
        return None
    return "Done." if yes else "All right, I changed nothing."


def _number(key: str, low: int, high: int) -> int:
    """Return a number from ``low`` to ``high`` that depends on nothing but ``key``."""
    digest = hashlib.sha256(key.strip().lower().encode()).digest()
    return low + int.from_bytes(digest[:8], "big") % (high - low + 1)


def _account_name(text: str) -> str | None:
    found = _NAMED_ACCOUNT.search(text) or _QUOTED.search(text)
    if found is None:
        return None
    groups = found.groupdict()
    return (groups.get("quoted") or groups.get("plain") or "").rstrip(".-& ")


def _order_facts(text: str) -> dict[str, Any]:
    match = _ORDER.search(text)
    number = match["number"] if match else "0"
    status = _STATUSES[_number(f"order {number}", 0, len(_STATUSES) - 1)]
    return {"order": number, "status": status, "items": _number(f"items {number}", 1, 9)}


def _account_facts(name: str) -> dict[str, Any]:
    return {
        "account": name,
        "industry": _INDUSTRIES[_number(f"industry {name}", 0, len(_INDUSTRIES) - 1)],
        "risk": _RISKS[_number(f"risk {name}", 0, len(_RISKS) - 1)],
        "employees": _number(f"employees {name}", 2, 500) * 10,
        "open_cases": _number(f"cases {name}", 0, 6),
    }


def _report_facts() -> dict[str, Any]:
    return {"open_cases": 42, "escalated_cases": 3, "pipeline_eur": 1_250_000, "deals_at_risk": 4}


def _result(action: str, value: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"type": f"copilotActionOutput/{action}_179EM0000000001", "property": "", "value": value}]


def _order(text: str) -> dict[str, Any]:
    facts = _order_facts(text)
    plural = "" if facts["items"] == 1 else "s"
    return {
        "text": f"Order {facts['order']} {facts['status']} ({facts['items']} item{plural}).",
        "result": _result("Get_Order_Status", facts),
    }


def _account(text: str) -> dict[str, Any]:
    name = _account_name(text) or "this account"
    facts = _account_facts(name)
    plural = "" if facts["open_cases"] == 1 else "s"
    claim = f"{name} is in {facts['industry']} with {facts['employees']} employees."
    return {
        "text": f"{claim} Risk: {facts['risk']}. {facts['open_cases']} open case{plural}.",
        "result": _result("Get_Account", facts),
        "citedReferences": [
            {
                "type": "record",
                "value": "001EM0000000001AAA",
                "recordId": "001EM0000000001AAA",
                "label": name,
                "inlineMetadata": [{"claim": claim, "location": len(claim)}],
            }
        ],
    }


def _report(_text: str) -> dict[str, Any]:
    facts = _report_facts()
    return {
        "text": (
            f"There are {facts['open_cases']} open cases, {facts['escalated_cases']} of them escalated. "
            f"The pipeline is EUR {facts['pipeline_eur']:,}; {facts['deals_at_risk']} deals are at risk."
        ),
        "result": _result("Get_Report", facts),
    }


def _json_facts(text: str) -> dict[str, Any]:
    if _ORDER.search(text):
        return _order_facts(text)
    if _REPORT_WORDS.search(text) and not _NAMED_ACCOUNT.search(text):
        return _report_facts()
    if _ACCOUNT_WORDS.search(text):
        return _account_facts(_account_name(text) or "this account")
    return {"question": text, "answer": "Here is your JSON."}


def _json(text: str) -> str:
    return f"```json\n{json.dumps(_json_facts(text), indent=2, ensure_ascii=False)}\n```"


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
    "TransferFailed": "I am sorry that nobody was available. How else can I help?",
    "TransferSucceeded": "You are now with a person.",
    "PlanTemplate": "The plan has run.",
}


def _words(*words: str) -> re.Pattern[str]:
    return re.compile(r"\b(?:" + "|".join(words) + r")\b", re.IGNORECASE)


_ACCOUNT_WORDS = _words("accounts?")
_REPORT_WORDS = _words("how many", "open cases", "pipeline", "summary", "summari[sz]e", "report")
_RULES: tuple[tuple[re.Pattern[str], Callable[[str], Any]], ...] = (
    (_words("goodbye", "bye"), lambda _: {"type": "SessionEnded", "text": "Goodbye!"}),
    (
        _words("human", "escalate", "person"),
        lambda _: {"type": "Escalate", "text": "Let me connect you with a person."},
    ),
    (_words("refund", "delete"), _confirm),
    (_words("fail"), lambda _: {"type": "Failure"}),
    (_words("json"), _json),
    (_ORDER, _order),
    (_NAMED_ACCOUNT, _account),
    (_REPORT_WORDS, _report),
    (_ACCOUNT_WORDS, _account),
    (_words("which", "missing"), lambda _: {"type": "Inquire", "text": "Please give me the case number."}),
    (re.compile(""), _echo),
)
