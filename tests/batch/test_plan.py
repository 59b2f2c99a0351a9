"""A dry run: everything is looked at and counted, and nothing leaves."""

import json
from datetime import date
from decimal import Decimal

import pytest
from batches import accounts, job

from airflow_provider_agentforce.batch.continuation import Handover
from airflow_provider_agentforce.batch.hash_index import HashIndex
from airflow_provider_agentforce.batch.sample import Sample
from airflow_provider_agentforce.exceptions import AgentforceInputError, BatchFailedError


def numbers(plan, *names):
    return [plan[name] for name in names]


def test_a_dry_run_counts_what_the_batch_then_sends_and_sends_nothing(org, client, folder):
    given = [
        {"id": 1, "name": "Öl"},
        {"id": 2, "name": "Acme"},
        {"id": 3, "name": "Acme"},
        {"name": "x"},
        {"id": 5},
    ]
    arguments = {"message": ["Of {{ record.name }}.", "More?"], "credits_per_message": 0.5}
    plan = job(client, folder, given, **arguments).plan()
    assert org.requests == []
    assert numbers(plan, "records", "failed", "messages", "sessions", "duplicates") == [5, 2, 6, 3, 1]
    assert numbers(plan, "characters", "longest", "reused", "credits") == [6 + 8 + 8 + 3 * 5, 8, 0, 3.0]
    assert [(one["count"], one["key"]) for one in plan["reasons"]] == [(1, None), (1, 5)]
    saved = json.loads((folder / "plan.json").read_text())
    assert saved == {name: plan[name] for name in saved}
    assert (folder / "plan.txt").read_text() == f"{plan['summary']}\n"
    assert plan["plan"] == str(folder / "plan.json")
    manifest = job(client, folder, given, **arguments).run(killed=lambda: False)
    assert numbers(manifest, "messages", "sessions") == numbers(plan, "messages", "sessions")
    assert manifest["counts"] == {"answered": 3, "failed": 2}


def test_variables_make_two_records_differ_and_are_no_characters(client, folder):
    given = [{"id": number, "of": number // 2} for number in range(4)]
    plan = job(client, folder, given, message="Hi", variables={"Of": "{{ record.of }}"}).plan()
    assert numbers(plan, "duplicates", "characters", "credits") == [2, 8, None]


def test_each_worker_fills_its_own_sessions(org, client, folder):
    arguments = {"messages_per_session": 20, "max_concurrency": 4}
    plan = job(client, folder, accounts(20), **arguments).plan()
    assert plan["sessions"] == 4


@pytest.mark.parametrize("rate", [0.0004, 20])
def test_a_small_cost_is_not_rounded_to_nothing(client, folder, rate):
    assert job(client, folder, accounts(8), credits_per_message=rate).plan()["credits"] == rate * 8


@pytest.mark.parametrize("kind", ["list", "function"])
def test_a_dry_run_and_a_batch_see_the_values_of_json(org, client, folder, kind):
    record = {"id": 1, "day": date(2026, 1, 2), "of": Decimal("0E-8"), "no": float("nan"), "pair": (1, None)}
    given = [record] if kind == "list" else lambda: [record]
    message = "{{ record.day }} {{ record.of }} {{ record.no }} {{ record.pair }}"
    for sample in (None, Sample(1)):
        arguments = {"sample": sample, "begins": Handover({}, {})} if sample else {}
        job(client, folder.with_name(f"{bool(sample)}"), given, message=message, **arguments).run(
            killed=lambda: False
        )
    assert org.applied("2026-01-02 0.00000000 None [1, None]") == 2
    with pytest.raises(BatchFailedError, match=r"1 of 1 records cannot be asked: .* 'str object' has no"):
        job(client, folder, given, message="{{ record.day.year }}").plan()


def test_records_that_share_sessions_take_fewer(org, client, folder):
    arguments = {"message": ["One.", "Two."], "messages_per_session": 5, "max_concurrency": 1}
    plan = job(client, folder, accounts(5), **arguments).plan()
    assert plan["sessions"] == 3
    assert job(client, folder, accounts(5), **arguments).run(killed=lambda: False)["sessions"] == 3


@pytest.mark.parametrize(
    ("limits", "concurrency", "hours"),
    [
        ({"max_sessions_per_hour": 10}, 4, 9),
        ({"max_sessions_per_hour": 1000, "max_concurrent_sessions": 2}, 4, 100 * 5 / 2 / 3600),
        ({"max_sessions_per_hour": 1000}, 4, 100 * 5 / 4 / 3600),
    ],
)
def test_the_hours_follow_from_the_limits_of_the_connection(make_client, folder, limits, concurrency, hours):
    plan = job(make_client(**limits), folder, accounts(100), max_concurrency=concurrency).plan()
    assert plan["hours"] == round(hours, 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"message": "{{ record.nmae }}"}, "3 of 3 records cannot be asked: 3 \u00d7 "),
        ({"message": "{{ record.more }}", "fail_on_partial_error": True}, "2 of 3 records cannot be asked"),
        ({"message": "{{ record.more }}", "max_failures": 1}, "2 of 3 records cannot be asked"),
    ],
)
def test_a_dry_run_fails_as_the_batch_would_and_the_plan_is_written(org, client, folder, arguments, words):
    given = [*accounts(2), {"id": "B", "name": "b", "more": "m"}]
    with pytest.raises(BatchFailedError) as caught:
        job(client, folder, given, **arguments).plan()
    assert words in str(caught.value)
    assert not caught.value.retryable
    assert json.loads((folder / "plan.json").read_text())["records"] == 3
    assert caught.value.manifest["plan"] == str(folder / "plan.json")
    assert org.requests == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "records is empty"),
        (lambda: [{"id": 1}, {"id": 2}, {"id": "1"}], "records[2] has the same id as records[0]: '1'"),
        (iter([{"id": 1}, {"id": 1}]), "records[1] has the same id as one before it: 1"),
        ([{"name": "x"}], "key: no record has a value in the field 'id'"),
        ([{"id": 1, "bad": [{1, 2}]}], "because of the field 'bad', cannot be written as JSON"),
    ],
)
def test_a_dry_run_refuses_what_the_batch_refuses(org, client, folder, given, words):
    with pytest.raises(AgentforceInputError) as caught:
        job(client, folder, given).plan()
    assert words in str(caught.value)
    assert not (folder / "plan.json").exists()


def test_a_function_is_asked_by_the_dry_run_and_again_by_the_batch(org, client, folder):
    calls = []

    def give():
        calls.append(1)
        return accounts(2)

    assert job(client, folder, give).plan()["records"] == 2
    assert job(client, folder, give).run(killed=lambda: False)["counts"] == {"answered": 2}
    assert calls == [1, 1]


def test_many_reasons_are_counted_and_the_commonest_shown(client, folder):
    given = [{"id": number, "name": "x", "why": f"{number % 20}"} for number in range(50)]

    def message(record):
        raise ValueError(f"no {record['why']}" if record["id"] < 49 else "no 0")

    with pytest.raises(BatchFailedError) as caught:
        job(client, folder, given, message=message).plan()
    reasons = caught.value.manifest["reasons"]
    assert len(reasons) == 10
    assert (reasons[0]["reason"], reasons[0]["count"], reasons[0]["key"]) == ("no 0", 4, 0)


def test_an_index_of_hashes_knows_the_position_of_what_was_added():
    found, texts = HashIndex(), [f"\ud800{number}" for number in range(10_000)]
    assert not any(map(found.add, texts))
    assert all(map(found.add, texts))
    assert ([found[text] for text in texts], len(found)) == ([*range(10_000)], 10_000)
    assert found.get("0") is None
