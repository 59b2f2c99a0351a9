"""Reads the results of an agent test, of either generation of the Testing API. Pure.

Sources: https://developer.salesforce.com/docs/ai/agentforce/guide/testing-api-connect.html, captured results
of the first generation (``ai-evaluations``), and https://github.com/forcedotcom/agents for both.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from airflow_provider_agentforce.client import json_values
from airflow_provider_agentforce.exceptions import one_line

PASSED, FAILED, ERROR = "passed", "failed", "error"
# Of a check alone: it had nothing to compare, or it only measures.
SKIPPED, MEASURED = "skipped", "measured"

_VERDICTS = {"PASS": PASSED, "PASSED": PASSED, "FAIL": FAILED, "FAILURE": FAILED, "FAILED": FAILED}
# Of a case: that it has come to its end, or that it has passed as well.
_JUDGED = {"COMPLETED", "SUCCESS", "PASS", "PASSED"}
_NOTHING_EXPECTED = re.compile(r"missing expected", re.IGNORECASE)
# Topics and actions come with the id of the record, or without.
_RECORD_ID = re.compile(r"_(?:16j|179)[A-Za-z0-9]{9,15}\b")
_COMPARED = re.compile(r"topic|action|string_comparison|numeric_comparison")
_LONGEST_REASON = 500


@dataclass(frozen=True)
class CaseCheck:
    """One thing that was looked at in a case.

    :param name: as the test's author knows it.
    :param kind: what identifies the scorer, such as ``bot_response_rating``.
    :param status: ``passed``, ``failed``, ``error``, ``skipped`` (nothing was expected) or ``measured``.
    :param score: a number, ``None`` without one.
    """

    name: str
    kind: str
    status: str
    expected: str = ""
    actual: str = ""
    score: float | None = None
    reason: str = ""

    @property
    def told(self) -> str:
        """What became of it, in words."""
        if self.status == PASSED:
            return self.name
        compared = f"expected {self.expected!r}, got {self.actual!r}" if self.expected else ""
        return f"{self.name}: {'; '.join(filter(None, [compared, self.reason])) or self.status}"


@dataclass(frozen=True)
class Case:
    """One case of a test.

    :param name: what was said to the agent, or the name of a conversation.
    :param status: ``passed``, ``failed`` or ``error``.
    :param reason: why it did not pass, in one line.
    :param seconds: how long it took, ``None`` if that is not known.
    :param session_id: of the agent's session, ``""`` if that is not known.
    :param repetition: which time it is, where the same is tested several times.
    """

    number: int
    name: str
    status: str
    reason: str = ""
    seconds: float | None = None
    session_id: str = ""
    checks: tuple[CaseCheck, ...] = field(default=())
    repetition: int | None = None


def cases_of(results: Mapping[str, Any]) -> list[Case]:
    """Return the cases of a run's results.

    :param results: the JSON object that the org answered.
    """
    found = results.get("testCases")
    cases = found if isinstance(found, list) else []
    return [_case(case if isinstance(case, dict) else {}, number) for number, case in enumerate(cases, 1)]


def case_of(  # noqa: PLR0917 - the fields of a case
    number: int,
    name: str,
    checks: tuple[CaseCheck, ...],
    seconds: float | None = None,
    session_id: str = "",
    error: str = "",
    repetition: int | None = None,
) -> Case:
    """Return a case with the status that follows from its checks.

    :param error: why the case as a whole could not be judged.
    """
    bad = [check for check in checks if check.status in {FAILED, ERROR}]
    if not error and not bad and not any(check.status == PASSED for check in checks):
        error = "nothing was checked"
    status = ERROR if error or any(check.status == ERROR for check in bad) else FAILED if bad else PASSED
    told = "; ".join(filter(None, [error, *(check.told for check in bad)]))
    reason = one_line(told, _LONGEST_REASON)
    return Case(number, name, status, reason, seconds, session_id, checks, repetition)


def _case(case: dict[str, Any], position: int) -> Case:
    subject = _embedded(case.get("subjectResponse"))
    inputs, generated = _object(case, "inputs"), _object(case, "generatedData")
    number = case.get("testNumber")
    said = _plain(inputs.get("utterance")) or str(subject.get("userInput") or "")
    checks = tuple(_checks(case))
    return case_of(
        number if isinstance(number, int) else position,
        one_line(said, 200) or f"case {position}",
        checks,
        _seconds(case.get("startTime"), case.get("endTime")),
        str(generated.get("sessionId") or subject.get("sessionId") or ""),
        _text(_plain(case.get("errorMessage"))) or _unjudged(case, checks),
    )


def _unjudged(case: dict[str, Any], checks: Iterable[CaseCheck]) -> str:
    """Return why a case has no verdict, whatever its checks say; ``""`` if it has one."""
    status = _word(case, "status")
    failed = _VERDICTS.get(status) == FAILED and any(check.status == FAILED for check in checks)
    if not status or status in _JUDGED or failed:
        return ""
    return "the case ended with an error" if status == "ERROR" else f"the case is not judged ({status})"


def _checks(case: dict[str, Any]) -> Iterator[CaseCheck]:
    for result in _objects(case.get("testResults")):
        kind = str(result.get("name") or "")
        texts = {key: _plain(value) for key, value in result.items()}
        yield _check(str(result.get("metricLabel") or kind), kind, texts)
    for result in _objects(case.get("testScorerResults")):
        score = {**result, **_scores(result)}
        # What a scorer is called can be changed; its type cannot.
        kind = str(score.get("evaluationType") or "").removeprefix("evaluator.")
        yield _check(str(result.get("scorerName") or kind), kind, score)


def _scores(result: Mapping[str, Any]) -> dict[str, Any]:
    response = result.get("scorerResponse")
    read = _embedded(response)
    if read or response is None:
        return read
    error = result.get("errorMessage") or "its scorerResponse cannot be read"
    return {"result": None, "status": None, "errorMessage": error}


def _check(name: str, kind: str, found: Mapping[str, Any]) -> CaseCheck:
    score = found.get("score")
    check = CaseCheck(
        name or kind or "check",
        kind,
        "",
        _text(found.get("expectedValue")),
        _text(found.get("actualValue")),
        score if isinstance(score, int | float) and not isinstance(score, bool) else None,
        _text(found.get("errorMessage") or found.get("metricExplainability") or found.get("reasoning")),
    )
    status = _status(check, found)
    reason = check.reason or ("it is not judged" if status == ERROR else "")
    return replace(check, status=status, reason=reason)


def _status(check: CaseCheck, found: Mapping[str, Any]) -> str:
    for verdict in ("result", "status"):
        known = _VERDICTS.get(_word(found, verdict))
        if known is not None:
            return known
    status = _word(found, "status")
    if status == "ERROR" or found.get("errorMessage"):
        return SKIPPED if _NOTHING_EXPECTED.search(check.reason) else ERROR
    if check.expected and _COMPARED.search(check.kind):
        return _compared(check)
    # Such as a latency: it has a score and no verdict.
    measured = check.score is not None or (status in _JUDGED and not check.expected)
    return MEASURED if measured else ERROR


def _compared(check: CaseCheck) -> str:
    same = _RECORD_ID.sub("", check.actual) == _RECORD_ID.sub("", check.expected)
    return PASSED if same else FAILED


def _word(found: Mapping[str, Any], name: str) -> str:
    return str(found.get(name) or "").upper()


def _embedded(text: Any) -> dict[str, Any]:
    """Return the JSON object that a text holds, whose quotes, or whose values, are escaped for HTML."""
    if isinstance(text, dict):
        return text
    if not isinstance(text, str):
        return {}
    for form, finish in ((text, html.unescape), (html.unescape(text), str)):
        try:
            value = json_values.decode(form.encode("utf-8", "replace"))
        except ValueError:
            continue
        return json_values.mapped(value, finish) if isinstance(value, dict) else {}
    return {}


def _plain(value: Any) -> Any:
    return html.unescape(value) if isinstance(value, str) and "&" in value else value


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _object(case: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = case.get(name)
    return value if isinstance(value, dict) else {}


def _objects(value: Any) -> list[dict[str, Any]]:
    return [one if isinstance(one, dict) else {} for one in value] if isinstance(value, list) else []


def _seconds(start: Any, end: Any) -> float | None:
    try:
        began, ended = (datetime.fromisoformat(str(text).replace("Z", "+00:00")) for text in (start, end))
        return max((ended - began).total_seconds(), 0.0)
    except (ValueError, TypeError):
        return None
