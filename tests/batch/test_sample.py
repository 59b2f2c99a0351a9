"""A sample is asked first, and another task asks the rest: each record once, whatever is killed."""

import json
import os
from collections import Counter
from functools import partial

import pytest
from batches import accounts, client_of, job, rest, rows, trial
from quick import fields_of
from steps import each_step

from airflow_provider_agentforce.batch.sample import Sample, sample_of
from airflow_provider_agentforce.batch.storage import LocalStorage
from airflow_provider_agentforce.exceptions import (
    AgentforceInputError,
    BatchFailedError,
    LedgerError,
    TaskStoppedError,
)

# What a process of another Python chooses, too.
GOLDEN = {"A13", "A15", "A20", "A25"}
COUNTRIES = ["US"] * 60 + ["DE"] * 30 + ["FR"] * 9 + ["IS"]


def never():
    return False


def records_of(countries):
    return [
        {"id": f"A{number}", "name": f"account-{number}", "country": c} for number, c in enumerate(countries)
    ]


def sent(org, records):
    return Counter(org.applied(f"Tell me of {one['name']}.") for one in records)


def test_a_sample_is_asked_then_the_rest_and_each_record_once(org, client, folder):
    records = accounts(50)
    first = trial(client, folder, records, 8).run(killed=never)
    assert (first["records"], first["counts"], org.applied()) == (8, {"answered": 8}, 8)
    sample = first["sample"]
    assert (sample["size"], sample["remaining"], len(sample["preview"])) == (8, 42, 8)
    chosen = rows(folder)
    for shown, (key, row) in zip(sample["preview"], chosen.items(), strict=True):
        assert shown == {"key": key, "text": row["text"], "outcome": "answered", "error": None}

    second = rest(client, folder, records).run(killed=never)
    assert (second["records"], second["counts"], second["sample"]) == (50, {"answered": 50}, None)
    assert (second["sessions"], second["messages"], org.applied()) == (50, 50, 50)
    assert sent(org, records) == {1: 50}
    assert list(rows(folder)) == [one["id"] for one in records]
    assert {key: rows(folder)[key] for key in chosen} == chosen

    # A later try of the first task finds that another one goes on.
    assert trial(client, folder, records, 8).run(killed=never) == first
    assert rest(client, folder, records).run(killed=never)["counts"] == {"answered": 50}
    assert org.applied() == 50


@pytest.mark.parametrize("changed", [{"message": "And {{ record.name }}?"}, {"variables": {"a": "b"}}])
def test_a_first_task_that_asks_something_else_now_is_not_given_its_old_manifest(
    org, client, folder, changed
):
    trial(client, folder, accounts(6), 2).run(killed=never)
    rest(client, folder, accounts(6)).run(killed=never)
    with pytest.raises(
        AgentforceInputError, match=r"dag/run/rest/-1 continues .* What differs: message or variables"
    ):
        trial(client, folder, accounts(6), 2, **changed).run(killed=never)
    assert org.applied() == 6


def test_the_same_records_are_chosen_everywhere_and_a_seed_chooses_others(client, make_client, tmp_path):
    def chosen(name, sample, records):
        trial(client, tmp_path / name, records, sample).run(killed=never)
        return set(rows(tmp_path / name))

    assert chosen("first", 4, accounts(40)) == GOLDEN
    # Each that is added has its own hash.
    assert chosen("more", 4, accounts(41)) & GOLDEN
    assert chosen("seed", Sample(4, seed=1), accounts(40)) != GOLDEN


@pytest.mark.parametrize(
    ("size", "numbers"),
    [
        (20, {"US": 12, "DE": 6, "FR": 1, "IS": 1}),
        (4, {"US": 1, "DE": 1, "FR": 1, "IS": 1}),
        (3, {"US": 1, "DE": 1, "FR": 1}),
        (200, {"US": 60, "DE": 30, "FR": 9, "IS": 1}),
    ],
)
def test_each_value_of_a_field_has_its_share_of_the_sample(client, folder, size, numbers):
    manifest = trial(client, folder, records_of(COUNTRIES), Sample(size, by="country")).run(killed=never)
    found = Counter(row["record"]["country"] for row in rows(folder).values())
    assert found.total() == manifest["sample"]["size"] == min(size, 100)
    assert found.keys() == numbers.keys()
    assert all(abs(found[one] - numbers[one]) <= 1 for one in numbers)


def test_a_sample_that_is_larger_than_the_input_is_all_of_it(org, client, folder):
    first = trial(client, folder, accounts(3), 20).run(killed=never)
    assert (first["sample"]["size"], first["sample"]["remaining"]) == (3, 0)
    assert rest(client, folder, accounts(3)).run(killed=never)["counts"] == {"answered": 3}
    assert org.applied() == 3


def test_records_that_are_in_no_file_are_kept_for_the_rest(org, client, folder):
    calls = []

    def give():
        calls.append(1)
        return accounts(5)

    def gone():
        raise AssertionError("they are kept")

    trial(client, folder, give, 2).run(killed=never)
    assert rest(client, folder, gone).run(killed=never)["counts"] == {"answered": 5}
    other = folder.with_name("other")
    trial(client, other, accounts(5), 2).run(killed=never)
    assert rest(client, other, gone).run(killed=never)["counts"] == {"answered": 5}
    assert (calls, org.applied()) == ([1], 10)


def test_a_first_task_whose_records_have_changed_is_refused(org, client, folder):
    trial(client, folder, accounts(6), 2).run(killed=never)
    changed = [{**one, "name": f"{one['name']} & Co"} for one in accounts(6)]
    with pytest.raises(AgentforceInputError, match=r"What differs: records\."):
        trial(client, folder, changed, 2).run(killed=never)
    assert org.applied() == 2


def test_the_first_task_asks_nothing_more_also_without_its_sample(org, client, folder):
    first = trial(client, folder, accounts(6), 2).run(killed=never)
    rest(client, folder, accounts(6)).run(killed=never)
    assert job(client, folder, accounts(6)).run(killed=never) == first
    assert org.applied() == 6


def test_a_batch_does_not_go_on_in_another_org(org, make_org, client, make_client, folder):
    other = make_org()
    elsewhere = make_client(other, agent_id=client.settings.agent_id)
    trial(client, folder, accounts(6), 2).run(killed=never)
    for again in (rest(elsewhere, folder, accounts(6)), trial(elsewhere, folder, accounts(6), 2)):
        with pytest.raises(AgentforceInputError, match=r"What differs: org\."):
            again.run(killed=never)
    assert (org.applied(), other.applied()) == (2, 0)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.*") if path.suffix != ".tmp"}


class Paused(LocalStorage):
    """A folder in which a process is paused once, before a file is written or in the middle of it."""

    def __init__(self, folder, name, *, before, meanwhile):
        super().__init__(folder)
        self._name, self._before, self._meanwhile = name, before, meanwhile

    def write(self, name, content):
        def paused():
            for chunk in content():
                yield chunk
                if name == self._name and not self._before:
                    next(self._meanwhile, None)

        if name == self._name and self._before:
            next(self._meanwhile, None)
        super().write(name, paused)


@pytest.mark.parametrize("name", ["results.jsonl", "results.csv", "agreement.jsonl", "_ledger/tables.json"])
def test_a_process_that_resumes_after_the_rest_has_ended_writes_nothing(org, client, folder, name):
    given, files = accounts(8), {}

    def others():
        trial(client, folder, given, 2, agreement_share=1.0).run(killed=never)
        rest(client, folder, given, agreement_share=1.0).run(killed=never)
        files.update(contents(folder))
        yield

    meanwhile = others()
    paused = partial(Paused, name=name, before=name != "results.csv", meanwhile=meanwhile)
    with pytest.raises(TaskStoppedError, match="Another process has taken over"):
        trial(client, folder, given, 2, agreement_share=1.0, storage_of=paused).run(killed=never)
    assert contents(folder) == files
    assert len(rows(folder)) == 8
    assert org.applied() == 16


def test_what_remains_is_what_the_rest_asks(org, client, folder):
    given = [{"id": number, **({"name": "x"} if number % 2 else {})} for number in range(40)]
    with pytest.raises(BatchFailedError) as caught:
        trial(client, folder, given, 20, max_failures=0, max_concurrency=1).run(killed=never)
    manifest = caught.value.manifest
    answered = manifest["counts"].get("answered", 0)
    assert manifest["sample"]["remaining"] == 40 - answered
    second = rest(client, folder, given).run(killed=never)
    assert (second["counts"], second["messages"]) == ({"answered": 20, "failed": 20}, org.applied())


def test_the_rest_counts_the_second_requests_of_the_sample(org, client, folder):
    trial(client, folder, accounts(8), 4, agreement_share=0.5).run(killed=never)
    second = rest(client, folder, accounts(8)).run(killed=never)
    assert second["messages"] == second["sessions"] == org.applied() == 10


def test_failures_are_counted_among_the_sample_and_nothing_else_is_skipped(org, client, folder):
    org.fail("send", body={"messages": [{"type": "Failure"}]}, times=2)
    with pytest.raises(BatchFailedError, match="2 of 2 records failed") as caught:
        trial(client, folder, accounts(9), 2, max_failures=0.5).run(killed=never)
    shown = caught.value.manifest["sample"]
    assert (shown["remaining"], {one["outcome"] for one in shown["preview"]}) == (7, {"failed"})
    assert all(one["error"] for one in shown["preview"])
    assert len(rows(folder)) == 2
    # The agent has acted on these two, so they are not asked again.
    assert rest(client, folder, accounts(9)).run(killed=never)["counts"] == {"failed": 2, "answered": 7}
    assert org.count("send") == 9


def test_only_a_batch_that_has_come_to_its_end_goes_on_and_only_by_one_task(org, make_client, folder):
    records = accounts(6)
    with pytest.raises(TaskStoppedError):
        trial(make_client(), folder, records, 2).run(killed=lambda: True)
    client = make_client()
    with pytest.raises(AgentforceInputError, match=r"continue_from: .* has not ended"):
        rest(client, folder, records).run(killed=never)
    trial(client, folder, records, 2).run(killed=never)
    rest(client, folder, records).run(killed=never)
    with pytest.raises(
        AgentforceInputError, match=r"continue_from: the task dag/run/rest/-1 already continues"
    ):
        rest(client, folder, records, task="dag/run/another/-1").run(killed=never)
    assert org.applied() == 6


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"message": "And {{ record.name }}?"}, "message or variables"),
        ({"variables": {"a": "{{ record.id }}"}}, "message or variables"),
        ({"start": {"agent_id": "0XxOther00000001AAA"}}, "agent"),
        ({"records": accounts(7)}, "records"),
    ],
)
def test_another_batch_is_not_taken_over_and_the_first_task_may_still_go_on(
    org, client, folder, changed, named
):
    trial(client, folder, accounts(6), 2).run(killed=never)
    with pytest.raises(
        AgentforceInputError, match=rf"continue_from: .* another batch. What differs: {named}"
    ):
        rest(client, folder, **{"records": accounts(6), **changed}).run(killed=never)
    assert trial(client, folder, accounts(6), 3).run(killed=never)["records"] == 3
    assert rest(client, folder, accounts(6)).run(killed=never)["records"] == 6
    assert org.applied() == 6


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("finished.json", "{"),
        ("finished.json", "[]"),
        ("continued.json", "{"),
        ("continued.json", '{"by": 1}'),
    ],
)
def test_a_note_that_cannot_be_read_is_an_error_and_nothing_is_sent(org, client, folder, name, text):
    trial(client, folder, accounts(6), 2).run(killed=never)
    (folder / "_ledger" / name).write_text(text)
    with pytest.raises(LedgerError, match=name):
        rest(client, folder, accounts(6)).run(killed=never)
    assert org.applied() == 2


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (0, "sample: size must be a number of records from 1"),
        (True, "sample must be a number of records, or Sample"),
        ("20", "sample must be a number of records, or Sample"),
        (0.1, "sample must be a number of records, or Sample"),
        (lambda: Sample(5, by=""), "sample: by must be the name of a field"),
        (lambda: Sample(5, seed="x"), "sample: seed must be a whole number"),
    ],
)
def test_a_sample_that_cannot_be_is_refused(given, words):
    with pytest.raises(AgentforceInputError, match=words):
        sample_of(given() if callable(given) else given)


def test_a_sample_by_a_field_that_no_record_has_is_refused(org, client, folder):
    with pytest.raises(
        AgentforceInputError, match=r"sample: no record has the field 'region'.*id, name, country"
    ):
        trial(client, folder, records_of(COUNTRIES), Sample(5, by="region")).run(killed=never)
    assert org.requests == []


def both(storage_of, fields, folder):
    """Ask a sample, then the rest, with second askings in both."""
    client, arguments = client_of(fields), {"storage_of": storage_of, **TWICE}
    trial(client, folder, accounts(4), 2, **arguments).run(killed=never)
    rest(client, folder, accounts(4), **arguments).run(killed=never)


# Each step takes a second or two.
EVERY = 1 if "AGENTFORCE_SOAK" in os.environ else 4
TWICE = {"agreement_share": 0.3, "max_concurrency": 1}


def test_a_kill_after_any_step_asks_nothing_twice_and_loses_nothing(make_org, tmp_path):
    records, kills, org = accounts(4), 0, make_org()
    for number, killed in enumerate(each_step(both, every=EVERY)):
        folder = tmp_path / str(number)
        org.reset()
        fields = fields_of(org)
        killed(fields, folder)
        client = client_of(fields)
        # The task that was killed is tried again; one of the first task, too, does no harm.
        trial(client, folder, records, 2, **TWICE).run(killed=never)
        manifest = rest(client, folder, records, **TWICE).run(killed=never)
        assert manifest["records"] == 4
        assert manifest["counts"].get("unknown", 0) <= 1
        asked = {one["id"]: org.applied(f"Tell me of {one['name']}.") for one in records}
        lines = map(json.loads, (folder / "agreement.jsonl").read_text().splitlines())
        twice = {line["key"] for line in lines}
        assert len(twice) <= 3  # one of the sample, two of all, which need not be the same
        assert all(times <= 1 + (key in twice) for key, times in asked.items())
        # Of a session whose start was answered to a process that was gone, nobody knows the id.
        assert len(org.open_sessions) <= 1
        kills += 1
    assert kills > 30 / EVERY


def test_a_batch_without_a_sample_goes_on_as_before(org, client, folder):
    assert job(client, folder, accounts(3)).run(killed=never)["sample"] is None
    assert not (folder / "_ledger" / "begun.json").exists()
