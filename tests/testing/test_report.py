"""What came of a test, in figures, in words and in JUnit XML."""

from __future__ import annotations

import json
from xml.etree import ElementTree as ET

import pytest

from airflow_provider_agentforce.client.agent_test_results import Case, CaseCheck, case_of
from airflow_provider_agentforce.testing.report import Report

ODD = 'a <b> & "c" \x00\x1b\ud800 \U0001f600'


def case(number, status="passed", name="", **more):
    reason = "" if status == "passed" else f"why {number}"
    return Case(number, name or f"case {number}", status, reason, seconds=0.5, **more)


@pytest.mark.parametrize(
    ("statuses", "trouble", "rate", "passes"),
    [
        (["passed"], "", 1.0, True),
        (["passed", "failed"], "", 0.5, True),
        (["passed", "failed"], "", 0.51, False),
        (["failed"], "", 0.0, True),
        (["passed", "error"], "", 0.0, False),
        (["passed"], "It was stopped.", 0.0, False),
        ([], "", 0.0, False),
    ],
)
def test_when_a_test_passes(statuses, trouble, rate, passes):
    report = Report("T", [case(n, status) for n, status in enumerate(statuses, 1)], trouble)
    assert report.passes(rate) is passes
    assert report.to_dict(rate)["status"] == ("passed" if passes else "failed")


def test_a_reason_that_is_a_sentence_has_one_full_stop():
    told = Report("T", [Case(1, "a", "failed", "It is late.")]).failure(1.0)
    assert told.endswith("a: It is late.")


def test_the_words_name_what_did_not_pass_and_count_repetitions():
    cases = [case(1, name="a", repetition=1), case(2, "failed", name="a", repetition=2), case(3, "error")]
    told = Report("T", cases, "It was stopped.").summary().splitlines()
    assert told == [
        "T: 1 of 3 passed, 1 ended with an error",
        "  It was stopped.",
        "  a: 1 of 2 passed",
        "  failed 2. a: why 2",
        "  error 3. case 3: why 3",
    ]
    many = Report("T", [case(n, "failed") for n in range(1, 100)]).summary()
    assert many.endswith("and 79 more")
    assert len(many.splitlines()) == 22


def test_xcom_gets_what_fits_and_first_what_did_not_pass():
    cases = [case(n, "failed" if n > 990 else "passed", name="x" * 150) for n in range(1, 1001)]
    result = Report("T", cases).to_dict(1.0)
    assert (result["passed"], result["failed"]) == (990, 10)
    assert [kept["number"] for kept in result["cases"][:11]] == [*range(991, 1001), 1]
    assert len(json.dumps(result)) < 49_000
    assert len(Report("T", cases).details()) == 1000


def test_junit_holds_whatever_was_said():
    checks = (
        CaseCheck("turn 1: contains", "contains", "failed", ODD, ODD),
        CaseCheck("output_latency_milliseconds", "latency", "measured", score=2788),
    )
    odd = case_of(1, ODD, checks, 1.25, "session-1", "", 2)
    suite = ET.fromstring(Report(ODD, [odd, case(2)], "It was stopped.").junit())[0]  # noqa: S314 - our own
    shown = ODD.replace("\x00", "\ufffd").replace("\x1b", "\ufffd").replace("\ud800", "\ufffd")
    assert suite.get("name") == shown
    assert [suite.get(name) for name in ("tests", "failures", "errors", "time")] == ["3", "1", "1", "1.750"]
    first, second, trouble = suite
    assert first.get("name") == f"{shown} [2]"
    assert "contains" in first.find("failure").text
    assert first.find("system-out").text == "session: session-1\nlatency: 2788"
    assert list(second) == []
    assert trouble.find("error").text == "It was stopped."
