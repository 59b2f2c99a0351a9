"""Reads the results of an agent test, of either generation of the Testing API. Pure.

Sources: https://developer.salesforce.com/docs/ai/agentforce/guide/testing-api-connect.html, captured results
of the first generation (``ai-evaluations``), and https://github.com/forcedotcom/agents for both.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from airflow_provider_agentforce.client import json_values
from airflow_provider_agentforce.exceptions import one_line

PASSED, FAILED, ERROR = "passed", "failed", "error"
# Only of a check: it had nothing to compare, or it only measures.
SKIPPED, MEASURED = "skipped", "measured"

_VERDICTS = {
    "PASS": PASSED,
    "PASSED": PASSED,
    "FAIL": FAILED,
    "FAILURE": FAILED,
    "FAILED": FAILED,
    "ERROR": ERROR,
}
# The documentation says metricScore, the org says result.
_VERDICT_NAMES = ("result", "status", "metricScore")
# The status of something that has ended, regardless of its verdict.
_ENDED = {"", "COMPLETE", "COMPLETED", "SUCCESS"}
_NOTHING_EXPECTED = re.compile(r"skip metric result due to missing expected \w+\.?", re.IGNORECASE)
# Topics and actions come with the id of the record, or without; the author writes the list of actions.
_RECORD_ID = re.compile(r"_(?:16j|179)[A-Za-z0-9]{9,15}\b")
_QUOTES_AND_BLANKS = re.compile(r"[\s'\"]")
# One API returns the values of these without a verdict.
_COMPARED = {
    *("topic_sequence_match", "topic_assertion", "action_sequence_match", "actions_assertion"),
    "agent_handoff_match",
}
# These have a score and no verdict.
_MEASURED = {"output_latency_milliseconds", "output_latency"}
_NUMBER = re.compile(r"\d{1,15}(\.\d{1,15})?")
_NO_ERROR = (None, "", 0, "0")
# How the summary of the results counts its cases.
_TOTAL = re.compile(r"total(?:numberof)?(?:test)?(?:cases)?|(?:numberof)?(?:test)?cases")
_NOT_A_COUNT = re.compile(r"rate|percent|share|score")
_LONGEST_REASON = 500


@dataclass(frozen=True)
class CaseCheck:
    """One check of a case.

    :param name: the name that the test's author sees.
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
    def summary(self) -> str:
        """Its result, in words."""
        if self.status == PASSED:
            return self.name
        compared = f"expected {self.expected!r}, got {self.actual!r}" if self.expected else ""
        return f"{self.name}: {'; '.join(filter(None, [compared, self.reason])) or self.status}"


@dataclass(frozen=True)
class Case:
    """One case of a test.

    :param name: the message to the agent, or the name of a conversation.
    :param status: ``passed``, ``failed`` or ``error``.
    :param reason: why it did not pass, in one line.
    :param seconds: how long it took, ``None`` if that is not known.
    :param session_id: id of the agent's session, ``""`` if it is not known.
    :param repetition: number of the repetition, if the case runs several times.
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

    :param results: the JSON object that the org returned.
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
    reasons = "; ".join(filter(None, [error, *(check.summary for check in bad)]))
    reason = one_line(reasons, _LONGEST_REASON)
    return Case(number, name, status, reason, seconds, session_id, checks, repetition)


def contradiction(results: Mapping[str, Any], cases: Sequence[Case]) -> str:
    """Return how the summary of a run's results contradicts their cases, or ``""``."""
    given = results.get("summary")
    summary = _embedded(given)
    if given is not None and not summary and given != {}:
        return "the summary of the results cannot be read"
    passed = sum(case.status == PASSED for case in cases)
    for name, count in summary.items():
        word = name.replace("_", "").lower()
        if isinstance(count, bool) or not isinstance(count, int | float) or _NOT_A_COUNT.search(word):
            continue
        if _contradicts(word, count, passed, len(cases)):
            return f"its summary says {name}: {count:g}, but {passed} of the {len(cases)} cases given passed"
    return ""


def _contradicts(word: str, count: float, passed: int, total: int) -> bool:
    fewer = "pass" in word and count < passed
    more = re.search("fail|error", word) is not None and count > total - passed
    return fewer or more or (_TOTAL.fullmatch(word) is not None and count != total)


def _case(case: dict[str, Any], position: int) -> Case:
    subject = _embedded(case.get("subjectResponse"))
    inputs, generated = _object(case, "inputs"), _object(case, "generatedData")
    number = case.get("testNumber")
    said = _plain(inputs.get("utterance")) or str(subject.get("userInput") or "")
    parts = [case, *_objects(case.get("turns"))]
    checks = tuple(check for part in parts for check in _checks(part))
    return case_of(
        number if isinstance(number, int) else position,
        one_line(said, 200) or f"case {position}",
        checks,
        _seconds(case.get("startTime"), case.get("endTime")),
        str(generated.get("sessionId") or subject.get("sessionId") or ""),
        next(filter(None, (_unjudged(part, checks) for part in parts)), ""),
    )


def _unjudged(part: dict[str, Any], checks: Iterable[CaseCheck]) -> str:
    """Return why a case, or a turn of it, has no verdict, whatever its checks say; ``""`` if it has one."""
    if not part:
        return "" if not checks else "a turn of it cannot be read"
    if part.get("errorMessage") or part.get("errorCode") not in _NO_ERROR:
        return _text(_plain(part.get("errorMessage"))) or f"it ended with errorCode {part['errorCode']}"
    # A verdict that the checks explain.
    explained = {PASSED} | ({check.status for check in checks} & {FAILED})
    for name in _VERDICT_NAMES:
        word = _word(part.get(name))
        verdict = _VERDICTS.get(word)
        if word not in _ENDED and verdict not in explained:
            ended = "the case ended with an error"
            return ended if verdict == ERROR else f"the case is not judged ({one_line(word, 60)})"
    return ""


def _checks(part: dict[str, Any]) -> Iterator[CaseCheck]:
    for result in _objects(part.get("testResults")):
        kind = str(result.get("name") or "")
        texts = {key: _plain(value) for key, value in result.items()}
        yield _check(str(result.get("metricLabel") or kind), kind, texts)
    for result in _objects(part.get("testScorerResults")):
        score = _scores(result)
        # The name of a scorer can be changed; its type cannot.
        named = score.get("evaluationType") or result.get("evaluationType") or result.get("scorerName")
        kind = str(named or "")
        kind = kind.removeprefix("evaluator.")
        yield _check(str(result.get("scorerName") or kind), kind, result, score)


def _scores(result: Mapping[str, Any]) -> dict[str, Any]:
    response = result.get("scorerResponse")
    read = _embedded(response)
    if read or response is None:
        return read
    return {"errorMessage": result.get("errorMessage") or "its scorerResponse cannot be read"}


def _check(name: str, kind: str, *found: Mapping[str, Any]) -> CaseCheck:
    """Return a check.

    :param found: the sources of its verdict, the best last.
    """
    known: dict[str, Any] = {}
    for one in found:
        known |= {key: value for key, value in one.items() if value is not None}
    check = CaseCheck(
        name or kind or "check",
        kind,
        "",
        _text(known.get("expectedValue")),
        _text(known.get("actualValue")),
        _score_in(known, kind),
        _text(known.get("errorMessage") or known.get("metricExplainability") or known.get("reasoning")),
    )
    verdicts = {verdict for one in found for verdict in _verdicts(one)}
    status = next((worst for worst in (ERROR, FAILED, PASSED, SKIPPED) if worst in verdicts), None)
    check = replace(check, status=status or _without_verdict(check))
    return check if check.status != ERROR or known.get("errorMessage") else _not_judged(check)


def _score_in(known: Mapping[str, Any], kind: str) -> float | None:
    score = next(filter(_is_number, (known.get("score"), known.get("metricScore"))), None)
    if score is not None or kind not in _MEASURED:
        return score
    actual = _text(known.get("actualValue"))
    return float(actual) if _NUMBER.fullmatch(actual) else None


def _not_judged(check: CaseCheck) -> CaseCheck:
    """Return a check without a verdict, with that as its reason."""
    score = "" if check.score is None else f" (score {check.score:g})"
    reason = "; ".join(filter(None, [f"it is not judged{score}", check.reason]))
    return replace(check, reason=reason)


def _verdicts(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield each verdict of a check; an unknown verdict is an error."""
    message = found.get("errorMessage")
    nothing_expected = isinstance(message, str) and _NOTHING_EXPECTED.fullmatch(message.strip())
    if nothing_expected:
        yield SKIPPED
    elif message or found.get("errorCode") not in _NO_ERROR:
        yield ERROR
    for name in _VERDICT_NAMES:
        value = found.get(name)
        word = _word(value)
        is_score = name == "metricScore" and _is_number(value)
        if not (is_score or word in _ENDED or (nothing_expected and word == "ERROR")):
            yield _VERDICTS.get(word, ERROR)


def _without_verdict(check: CaseCheck) -> str:
    if check.expected and check.kind in _COMPARED:
        return _compared(check)
    return MEASURED if check.kind in _MEASURED and check.score is not None and not check.expected else ERROR


def _compared(check: CaseCheck) -> str:
    texts = [_QUOTES_AND_BLANKS.sub("", text) for text in (check.actual, check.expected)]
    # The last three characters of an id only repeat the case of the others.
    kept = len("_") + 15 if all(map(_RECORD_ID.search, texts)) else 0
    texts = [_RECORD_ID.sub(lambda found: found[0][:kept], text) for text in texts]
    return PASSED if texts[0] == texts[1] else FAILED


def _word(value: Any) -> str:
    return "" if value is None else str(value).strip().upper()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _embedded(text: Any) -> dict[str, Any]:
    """Return the JSON object in a text whose quotes or values are HTML-escaped."""
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
    """Return the objects of a list; other items, and a value that is not a list, become empty objects."""
    if value is None:
        return []
    return [one if isinstance(one, dict) else {} for one in value] if isinstance(value, list) else [{}]


def _seconds(start: Any, end: Any) -> float | None:
    try:
        began, ended = (datetime.fromisoformat(str(text).replace("Z", "+00:00")) for text in (start, end))
        return max((ended - began).total_seconds(), 0.0)
    except (ValueError, TypeError):
        return None
