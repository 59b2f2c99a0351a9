"""Some records are asked a second time, and the manifest says how often the two answers agree."""

import json
import random
import threading
from collections import Counter

import pytest
from batches import accounts, job, rows

from airflow_provider_agentforce.batch.agreement import Agreement, compare, same, wilson
from airflow_provider_agentforce.batch.results import Row
from airflow_provider_agentforce.exceptions import BatchFailedError

SCHEMA = {"type": "object", "properties": {"industry": {"type": "string"}}, "required": ["industry"]}


def never():
    return False


class Moody:
    """An agent that gives its answer, and in a share of all cases the other one, whoever asks first."""

    def __init__(self, share, seed):
        self._share, self._seed = share, seed
        self._asked = Counter()
        self._lock = threading.Lock()

    def answer(self, turn):
        with self._lock:
            self._asked[turn.text] += 1
            times = self._asked[turn.text]
        flips = random.Random(f"{self._seed} {turn.text} {times}").random() < self._share  # noqa: S311
        return json.dumps({"industry": "Retail" if flips else "Energy", "size": 7})


def pairs(folder):
    lines = (folder / "agreement.jsonl").read_text(encoding="utf-8").splitlines()
    return {line["key"]: line for line in map(json.loads, lines)}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_an_agent_that_flips_answers_has_an_agreement_within_its_interval(
    make_org, make_client, folder, seed
):
    org = make_org(script=Moody(0.3, seed).answer)
    manifest = job(
        make_client(org), folder, accounts(300), agreement_share=0.5, output_type=SCHEMA, max_concurrency=16
    ).run(killed=never)
    agreement = manifest["agreement"]
    assert (agreement["records"], org.count("send")) == (150, 450)
    assert agreement["low"] < 0.7**2 + 0.3**2 < agreement["high"]
    assert agreement["low"] < agreement["share"] < agreement["high"]
    assert agreement["fields"] == {"industry": agreement["share"], "size": 1.0}
    assert (manifest["messages"], manifest["sessions"]) == (450, 450)
    found = pairs(folder)
    assert len(found) == 150
    assert sum(one["agrees"] for one in found.values()) == round(150 * agreement["share"])
    for one in found.values():
        results = [one[which]["result"]["industry"] for which in ("first", "second")]
        assert one["fields"] == {"industry": results[0] == results[1], "size": True}


def test_a_second_asking_has_a_session_of_its_own_and_leaves_the_results_alone(org, client, folder):
    manifest = job(
        client, folder, accounts(20), agreement_share=0.15, messages_per_session=20, max_concurrency=1
    ).run(killed=never)
    assert (manifest["records"], manifest["counts"]) == (20, {"answered": 20})
    assert sorted(len(session.turns) for session in org.sessions.values()) == [1, 1, 1, 20]
    assert {row["session_id"] for row in rows(folder).values()} == {
        one.session_id for one in org.sessions.values() if len(one.turns) == 20
    }
    for key, pair in pairs(folder).items():
        assert pair["first"]["session_id"] == rows(folder)[key]["session_id"] != pair["second"]["session_id"]
    again = job(
        client, folder, accounts(20), agreement_share=0.15, messages_per_session=20, max_concurrency=1
    ).run(killed=never)
    assert (again["agreement"], org.count("send")) == (manifest["agreement"], 23)


def test_too_little_agreement_fails_the_task_with_all_results_written(make_org, make_client, folder):
    org = make_org(script=Moody(0.5, 1).answer)
    arguments = {"agreement_share": 1.0, "output_type": SCHEMA}
    with pytest.raises(BatchFailedError) as caught:
        job(make_client(org), folder, accounts(30), min_agreement=0.9, **arguments).run(killed=never)
    error = caught.value
    assert "of 30 records that were asked twice agree: " in str(error)
    assert "and min_agreement is 90.0%. They differ in: industry (" in str(error)
    assert not error.retryable
    assert len(rows(folder)) == len(pairs(folder)) == 30
    assert error.manifest["counts"] == {"answered": 30}
    less = error.manifest["agreement"]["share"]
    assert job(make_client(org), folder, accounts(30), min_agreement=less, **arguments).run(killed=never)
    assert org.count("send") == 60


def test_a_second_answer_that_is_lost_is_left_out_and_not_asked_a_third_time(org, client, folder):
    job(client, folder, accounts(4)).run(killed=never)
    org.fail("send", drop=True, after=True)
    arguments = {"agreement_share": 1.0, "max_concurrency": 1}
    manifest = job(client, folder, accounts(4), **arguments).run(killed=never)
    assert manifest["agreement"]["records"] == 3
    (lost,) = (one for one in pairs(folder).values() if one["agrees"] is None)
    assert (lost["second"]["status"], lost["first"]["status"]) == ("unknown", "answered")
    job(client, folder, accounts(4), **arguments).run(killed=never)
    assert org.applied() == 8


def test_nothing_is_asked_twice_when_nothing_has_an_answer_or_too_much_has_failed(org, client, folder):
    org.fail("send", body={"messages": [{"type": "Failure"}]}, times=3)
    with pytest.raises(BatchFailedError) as caught:
        job(
            client,
            folder,
            accounts(20),
            agreement_share=1.0,
            min_agreement=0.5,
            max_failures=1,
            max_concurrency=1,
        ).run(killed=never)
    assert "records failed" in str(caught.value)
    agreement = caught.value.manifest["agreement"]
    assert (agreement["records"], agreement["share"]) == (0, None)
    assert org.count("send") == len([row for row in rows(folder).values() if row["status"] != "skipped"])
    org.reset()


def test_an_agreement_that_nothing_shows_is_not_taken_for_one(org, client, folder):
    job(client, folder, accounts(2)).run(killed=never)
    org.fail("send", drop=True, after=True)
    with pytest.raises(BatchFailedError, match="No record has two answers"):
        job(client, folder, accounts(2), agreement_share=0.1, min_agreement=0.5).run(killed=never)


def test_the_plan_counts_second_askings(org, client, folder):
    arguments = {"agreement_share": 0.15, "credits_per_message": 2}
    plan = job(client, folder, accounts(20), **arguments).plan()
    assert "asked twice       3" in plan["summary"]
    manifest = job(client, folder, accounts(20), **arguments).run(killed=never)
    assert (plan["asked_twice"], plan["messages"], plan["credits"]) == (3, manifest["messages"], 46)
    assert plan["sessions"] == manifest["sessions"] == 23


def test_the_plan_leaves_out_second_questions_about_records_that_cannot_be_asked(org, client, folder):
    given = [*accounts(50), *({"id": f"B{number}"} for number in range(50))]
    plan = job(client, folder, given, agreement_share=0.2).plan()
    manifest = job(client, folder, given, agreement_share=0.2).run(killed=never)
    assert plan["failed"] == 50
    assert 50 + plan["asked_twice"] == plan["messages"] == manifest["messages"] == org.applied()


def test_the_comparison_of_an_earlier_try_is_removed(client, folder):
    job(client, folder, accounts(2), agreement_share=1.0).run(killed=never)
    assert len(pairs(folder)) == 2
    job(client, folder, accounts(2)).run(killed=never)
    assert not (folder / "agreement.jsonl").exists()


def test_no_other_version_of_the_agent_is_asked_for_a_second_answer(org, make_client, folder, caplog):
    job(make_client(), folder, accounts(4)).run(killed=never)
    org.publish()
    again = {"agreement_share": 1.0, "min_agreement": 0.5}
    with pytest.raises(BatchFailedError, match=r"two answers of the same version .* another result_path"):
        job(make_client(), folder, accounts(4), **again).run(killed=never)
    assert org.applied() == 4
    assert "4 records are not asked a second time, because another version" in caplog.text


def answered(text="", result=None, status="answered", version=None):
    return Row(key=1, status=status, text=text, result=result, agent_version=version)


@pytest.mark.parametrize(
    ("first", "second", "fields"),
    [
        (answered("Yes."), answered(" yes"), {"text": True}),
        (answered("Yes."), answered("No."), {"text": False}),
        (answered("x", {"a": "Öl", "b": 1}), answered("y", {"a": "öl ", "b": 2}), {"a": True, "b": False}),
        (answered("x", {"a": None}), answered("y", {"b": 0}), {"a": True, "b": False}),
        (answered("x", [1]), answered("x", [1.0]), {"result": True}),
        (answered("x", {"a": 1}), answered("x", status="invalid_output"), {"(status)": False}),
        (answered("x", status="escalated"), answered("x"), {"(status)": False}),
        (answered("x", status="needs_input"), answered("X", status="needs_input"), {"text": True}),
        (answered("x"), answered(status="unknown"), None),
        (answered(status="answer_lost"), answered("x"), None),
        (answered("x"), answered("x", status="failed"), None),
        (answered("x", version="1"), answered("x", version="2"), None),
        (answered("x", version="1"), answered("x"), {"text": True}),
    ],
)
def test_answers_are_compared_field_by_field(first, second, fields):
    assert compare(first, second) == fields


def test_the_share_of_the_status_is_that_of_all_pairs():
    agreement = Agreement()
    for _ in range(19):
        agreement.add({"status": True})
    agreement.add({"(status)": False})
    found = agreement.to_dict()
    assert (found["share"], found["fields"]) == (0.95, {"(status)": 0.95, "status": 1.0})


@pytest.mark.parametrize(
    ("one", "other", "agree"),
    [
        ("Energy  and\nGas.", "ENERGY AND GAS", True),
        ("straße", "STRASSE", True),
        ("\uff21\uff22", "ab", True),
        ("\uff76\uff9e", "\u30ac", True),
        ("10\u00b2", "102", False),
        ("x", "x!!!", False),
        ("", ".", False),
        ("...", "!", False),
        ("1999", 1999, False),
        (1999, 2000, False),
        (1_000_000_000, 1_000_000_001, False),
        (10, 10.0, True),
        (0.3, 0.1 + 0.2, True),
        (99.95, 100, True),
        (99.5, 100, False),
        (True, 1, False),
        (None, "", False),
        ([1, "a"], [1, "A"], True),
        ([1, 2], [2, 1], False),
        ({"a": {"b": "X"}}, {"a": {"b": "x"}}, True),
    ],
)
def test_values_agree_as_people_would_say(one, other, agree):
    assert same(one, other) is same(other, one) is agree


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    # As R's binom::binom.wilson says.
    [
        (0, 10, 0.0, 0.2775),
        (5, 10, 0.2366, 0.7634),
        (10, 10, 0.7225, 1.0),
        (58, 100, 0.4821, 0.6720),
        (0, 0, 0, 1),
    ],
)
def test_the_interval_is_wilson_s(successes, total, low, high):
    assert wilson(successes, total) == pytest.approx((low, high), abs=5e-5)
