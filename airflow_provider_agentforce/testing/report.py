"""The results of a test: counts, text, and JUnit XML. Without I/O."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree as ET

from airflow_provider_agentforce.client.agent_test_results import ERROR, FAILED, PASSED, Case, CaseCheck

# Characters that XML 1.0 does not allow, not even escaped.
_NOT_IN_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MOST_SHOWN = 20
# Airflow stores an XCom in its database.
_MOST_BYTES = 48_000


@dataclass(frozen=True)
class Report:
    """The result of a test.

    :param name: name of the test.
    :param cases: one for each run of a conversation or of a case of the org.
    :param trouble: why cases are missing, ``""`` if none is.
    :param skipped: why the cases are those of an earlier pass, ``""`` if they are not.
    """

    name: str
    cases: Sequence[Case]
    trouble: str = ""
    skipped: str = ""

    def count(self, status: str) -> int:
        """Return how many cases have this status."""
        return sum(case.status == status for case in self.cases)

    @property
    def counts(self) -> dict[str, int]:
        """How many cases have passed, failed, and ended with an error."""
        return {"passed": self.count(PASSED), "failed": self.count(FAILED), "errors": self.count(ERROR)}

    def passes(self, min_pass_rate: float) -> bool:
        """Return whether enough cases passed, none ended with an error, and none is missing."""
        return not self.trouble and enough(self.counts, min_pass_rate)

    def to_dict(self, min_pass_rate: float) -> dict[str, Any]:
        """Return the result for XCom, as JSON values; files have all of :meth:`details`."""
        status = PASSED if self.passes(min_pass_rate) else FAILED
        cases = [case_to_dict(case) for case in self.cases]
        return {"status": status, **self.counts, "cases": _fitting(cases)}

    def details(self) -> list[dict[str, Any]]:
        """Return the cases with all that is known of them, as JSON values."""
        return [
            {**case_to_dict(case), "checks": [dict(vars(check)) for check in case.checks]}
            for case in self.cases
        ]

    def summary(self) -> str:
        """Return the report as text: the figures, and the cases that did not pass."""
        lines = [f"{self.name}: {self._figures()}"]
        if self.trouble:
            lines.append(f"  {self.trouble}")
        lines += [
            f"  {name}: {passed} of {times} passed" for name, (passed, times) in self._repeated().items()
        ]
        bad = [case for case in self.cases if case.status != PASSED]
        lines += [f"  {case.status} {case.number}. {case.name}: {case.reason}" for case in bad[:_MOST_SHOWN]]
        if len(bad) > _MOST_SHOWN:
            lines.append(f"  and {len(bad) - _MOST_SHOWN} more")
        return "\n".join(lines)

    def failure(self, min_pass_rate: float) -> str:
        """Return why the test failed: the figures, and the first case that did not pass."""
        bad = [case for kind in (ERROR, FAILED) for case in self.cases if case.status == kind]
        first = f" {bad[0].name}: {bad[0].reason.rstrip('.')}." if bad else ""
        trouble = f" {self.trouble}" if self.trouble else ""
        return f"{self.name}: {self._figures()}, and min_pass_rate is {min_pass_rate:g}.{trouble}{first}"

    def junit(self) -> bytes:
        """Return the report as JUnit XML."""
        counts = {"tests": len(self.cases), "failures": 0, "errors": 0}
        if not self.skipped:
            counts = {**counts, "failures": self.count(FAILED), "errors": self.count(ERROR)}
        if self.trouble:
            counts = {**counts, "tests": counts["tests"] + 1, "errors": counts["errors"] + 1}
        figures = {
            **{name: str(count) for name, count in counts.items()},
            "time": f"{sum(case.seconds or 0 for case in self.cases):.3f}",
        }
        skipped = str(len(self.cases) if self.skipped else 0)
        root = ET.Element("testsuites", {"name": _xml(self.name), **figures})
        suite = ET.SubElement(root, "testsuite", {"name": _xml(self.name), "skipped": skipped, **figures})
        for case in self.cases:
            _add_case(suite, self.name, case, self.skipped)
        if self.trouble:
            _add_case(suite, self.name, Case(0, "the run", ERROR, self.trouble))
        ET.indent(root)
        return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True))

    def _repeated(self) -> dict[str, tuple[int, int]]:
        """Return how often each case that is tested several times has passed, and how often it was tested."""
        found: dict[str, tuple[int, int]] = {}
        for case in self.cases:
            if case.repetition is not None:
                passed, times = found.get(case.name, (0, 0))
                found[case.name] = (passed + (case.status == PASSED), times + 1)
        return found

    def _figures(self) -> str:
        errors = self.count(ERROR)
        ended = f", {errors} ended with an error" if errors else ""
        return f"{self.count(PASSED)} of {len(self.cases)} passed{ended}"


def enough(counts: Mapping[str, int], min_pass_rate: float) -> bool:
    """Return whether enough cases passed, and none ended with an error.

    :param counts: ``passed``, ``failed`` and ``errors``, as in a result.
    :raises KeyError: one is missing.
    """
    passed, failed, errors = (counts[name] for name in ("passed", "failed", "errors"))
    total = passed + failed
    return not errors and total > 0 and passed / total >= min_pass_rate


def case_to_dict(case: Case) -> dict[str, Any]:
    """Return a case without its checks, as JSON values."""
    return {name: value for name, value in vars(case).items() if name != "checks"}


def _fitting(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the cases for XCom: if they are too many, those that did not pass come first, and some are left
    out.
    """
    if len(json.dumps(cases)) <= _MOST_BYTES:
        return cases
    kept, size = [], 0
    for case in sorted(cases, key=lambda case: bool(case["status"] == PASSED)):
        size += len(json.dumps(case)) + 2
        if size > _MOST_BYTES:
            break
        kept.append(case)
    return kept


def case_from(details: Mapping[str, Any]) -> Case:
    """Return a case from its fields and those of its checks, as :meth:`Report.details` has them.

    :raises KeyError, TypeError, ValueError: they are not those of a case.
    """
    return Case(**{**details, "checks": tuple(CaseCheck(**check) for check in details["checks"])})


def _add_case(suite: ET.Element, classname: str, case: Case, skipped: str = "") -> None:
    seconds = f"{case.seconds or 0:.3f}"
    name = case.name if case.repetition is None else f"{case.name} [{case.repetition}]"
    element = ET.SubElement(
        suite, "testcase", {"classname": _xml(classname), "name": _xml(name), "time": seconds}
    )
    if skipped:
        ET.SubElement(element, "skipped", {"message": _xml(skipped)})
    elif case.status != PASSED:
        failures = "\n".join(check.summary for check in case.checks if check.status in {FAILED, ERROR})
        kind = "failure" if case.status == FAILED else "error"
        ET.SubElement(element, kind, {"message": _xml(case.reason)}).text = _xml(failures or case.reason)
    if output := _output_of(case):
        ET.SubElement(element, "system-out").text = _xml("\n".join(output))


def _output_of(case: Case) -> list[str]:
    session = [f"session: {case.session_id}"] if case.session_id else []
    return session + [f"{one.kind}: {one.score:g}" for one in case.checks if one.score is not None]


def _xml(text: str) -> str:
    return _NOT_IN_XML.sub("\ufffd", text)
