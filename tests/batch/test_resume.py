"""What a try finds of the one before it: nothing is asked twice, and nothing answered is lost."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from batches import accounts, in_a_process, job, rest, rows, trial
from quick import quick_process
from real_airflow import until

from airflow_provider_agentforce.exceptions import (
    AgentforceInputError,
    AgentforceTransientError,
    BatchFailedError,
    TaskStoppedError,
)

CONCURRENCY = 4


def never():
    return False


def asked_twice(org, records):
    return [one["id"] for one in records if org.applied(f"Tell me of {one['name']}.") > 1]


def killed_after(org, gate, fields, folder, records, answers):
    """Kill a batch on the spot once it has so many answers, and let the org finish what it was given."""
    gate.after = answers
    process = in_a_process(fields, folder, records)
    assert gate.reached.wait(60)
    process.kill()
    process.wait()
    gate.open.set()
    gate.after = None


@pytest.mark.parametrize("answers", [0, 1, 30])
def test_a_killed_batch_is_finished_by_the_next_try(org, gate, fields, client, folder, answers):
    records = accounts(50)
    killed_after(org, gate, fields, folder, records, answers)
    manifest = job(client, folder, records).run(killed=never)

    assert asked_twice(org, records) == []
    counts = manifest["counts"]
    assert counts["answered"] + counts["unknown"] == len(records)
    assert 1 <= counts["unknown"] <= CONCURRENCY
    unknown = next(row for row in rows(folder).values() if row["status"] == "unknown")
    assert unknown["applied"] is None
    assert "killed" in unknown["error"]


def noted(folder, org):
    """Tell whether all open sessions are written down, which takes a moment."""
    text = "".join(path.read_text() for path in (folder / "_ledger").glob("part-*"))
    return all(one in text for one in org.open_sessions)


def test_the_sessions_of_a_killed_batch_are_ended(org, gate, fields, client, folder):
    records = accounts(12)
    hold = org.hold("end")
    process = in_a_process(fields, folder, records)
    hold.wait_until_held(30, count=CONCURRENCY)
    end = time.monotonic() + 30
    while not noted(folder, org):
        assert time.monotonic() < end
    process.kill()
    process.wait()
    hold.release()
    job(client, folder, records).run(killed=never)
    assert org.open_sessions == []


def test_what_a_killed_batch_may_have_asked_is_asked_again_if_told_so(org, gate, fields, client, folder):
    records = accounts(20)
    killed_after(org, gate, fields, folder, records, 5)
    manifest = job(client, folder, records, resend_unknown=True).run(killed=never)
    assert manifest["counts"] == {"answered": 20}
    assert asked_twice(org, records) != []


def test_a_finished_batch_asks_nothing_when_it_is_run_again(org, client, folder):
    records = accounts(10)
    first = job(client, folder, records).run(killed=never)
    results = (folder / "results.jsonl").read_bytes()
    again = job(client, folder, records).run(killed=never)
    assert (org.count("start"), org.count("send")) == (10, 10)
    assert (folder / "results.jsonl").read_bytes() == results
    assert again["counts"] == first["counts"]
    assert (again["sessions"], again["messages"]) == (10, 10)


def stopped_after(client, gate, folder, records, answers, **replaced):
    """Stop a batch as Airflow's SIGTERM does, in the middle of its calls."""
    gate.after = answers
    stop = threading.Event()

    def kill():
        assert gate.reached.wait(30)
        stop.set()

    with ThreadPoolExecutor(1) as pool:
        killing = pool.submit(kill)
        with pytest.raises(TaskStoppedError):
            job(client, folder, records, **replaced).run(killed=stop.is_set)
        killing.result()
    gate.after = None
    gate.open.set()


def test_a_stopped_batch_withdraws_what_it_had_not_asked(org, gate, make_client, folder):
    records = accounts(40)
    stopped_after(make_client(), gate, folder, records, 10)
    manifest = job(make_client(), folder, records).run(killed=never)

    assert asked_twice(org, records) == []
    # Only messages that were on their way are in doubt, not what was announced behind them.
    assert manifest["counts"]["unknown"] <= CONCURRENCY
    assert manifest["counts"]["answered"] == len(records) - manifest["counts"]["unknown"]


def test_a_stopped_batch_ends_its_sessions(org, gate, make_client, folder):
    gate.open.set()
    records = accounts(40)
    stopped_after(make_client(), gate, folder, records, 10)
    assert org.open_sessions == []


def test_a_stopped_batch_asks_again_if_told_so(org, gate, make_client, folder):
    records = accounts(20)
    stopped_after(make_client(), gate, folder, records, 3, resend_unknown=True)
    manifest = job(make_client(), folder, records, resend_unknown=True).run(killed=never)
    assert manifest["counts"] == {"answered": 20}


def test_a_time_out_in_the_middle_loses_nothing(org, gate, make_client, folder):
    records, client = accounts(30), make_client()

    class TimedOut(BaseException):
        pass

    raised = []

    def killed():
        # Airflow raises its time-out from a signal handler, once, wherever the task is.
        if not raised and org.applied() >= 10:
            raised.append(True)
            raise TimedOut
        return False

    with pytest.raises(TimedOut):
        job(client, folder, records).run(killed=killed)
    manifest = job(make_client(), folder, records).run(killed=never)
    assert asked_twice(org, records) == []
    assert manifest["counts"].get("unknown", 0) <= CONCURRENCY
    assert sum(manifest["counts"].values()) == 30
    assert org.open_sessions == []


def test_a_process_that_was_given_up_asks_no_more_once_another_has_taken_over(org, gate, make_client, folder):
    records = accounts(60)
    gate.after = 8
    with ThreadPoolExecutor(1) as pool:
        orphan = pool.submit(lambda: job(make_client(), folder, records).run(killed=never))
        until("its sessions are all in use", lambda: len(org.open_sessions) == CONCURRENCY == gate.asked - 8)
        gate.after = None
        manifest = job(make_client(), folder, records).run(killed=never)
        started = org.count("start")
        gate.open.set()
        with pytest.raises(TaskStoppedError, match="taken over"):
            orphan.result(30)
    # It would take sessions that the other one has room for.
    assert org.count("start") == started
    assert asked_twice(org, records) == []
    assert manifest["counts"]["unknown"] <= CONCURRENCY
    assert org.applied() <= len(records)


def test_rows_of_a_batch_that_could_not_reach_the_org_are_asked_again(org, make_client, folder):
    records = accounts(3)
    org.fail("start", status=503, times=2 * 3 * 3)
    client = make_client()
    with pytest.raises(Exception, match="3 of 3 records failed") as caught:
        job(client, folder, records).run(killed=never)
    assert caught.value.retryable
    assert {row["attempts"] for row in rows(folder).values()} == {3}

    assert job(make_client(), folder, records).run(killed=never)["counts"] == {"answered": 3}
    assert {row["attempts"] for row in rows(folder).values()} == {4}


def test_a_lost_start_is_named_though_its_repetition_never_left(org, make_client, folder, caplog):
    org.fail("start", status=502, after=True)

    def org_goes_away(_):
        org.stop()
        return 0.0

    with (
        quick_process(back_off=org_goes_away),
        pytest.raises(BatchFailedError),
    ):
        job(make_client(), folder, accounts(1)).run(killed=never)
    (lost,) = [one.external_session_key for one in org.sessions.values()]
    org.start()
    caplog.clear()
    job(make_client(), folder, accounts(1)).run(killed=never)
    (warning,) = [one.getMessage() for one in caplog.records if "may be open" in one.getMessage()]
    assert lost in warning


def test_an_org_that_is_down_stops_the_batch_and_leaves_the_rest_to_the_next_try(org, make_client, folder):
    records = accounts(200)
    org.stop()
    with pytest.raises(AgentforceTransientError, match="in a row could not be asked") as caught:
        job(make_client(), folder, records).run(killed=never)
    assert caught.value.retryable
    org.start()
    assert job(make_client(), folder, records).run(killed=never)["counts"] == {"answered": 200}


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"message": "And {{ record.name }}?"}, "message or variables"),
        ({"variables": {"a": "{{ record.id }}"}}, "message or variables"),
        ({"start": {"agent_id": "0XxOther00000001AAA"}}, "agent"),
        ({"identity": {"task instance": "dag/other run/task/-1"}}, "task instance"),
        ({"records": accounts(4)}, "records"),
    ],
)
def test_a_batch_that_has_changed_is_refused_and_nothing_is_sent(org, client, folder, changed, named):
    job(client, folder, accounts(3)).run(killed=never)
    before = len(org.requests)
    given = {"records": accounts(3), **changed}
    with pytest.raises(AgentforceInputError, match=f"result_path: .*What differs: {named}"):
        job(client, folder, given.pop("records"), **given).run(killed=never)
    assert len(org.requests) == before


def _without(mark, folder):
    """Make the headers in a folder those of a build that did not write a mark."""
    for header in folder.rglob("header.json"):
        marks = json.loads(header.read_text())
        del marks[mark]
        header.write_text(json.dumps(marks))


def test_a_folder_of_a_build_that_did_not_note_the_org_goes_on(org, client, make_org, make_client, folder):
    given = {"agreement_share": 0.5}
    trial(client, folder, accounts(4), 2, **given).run(killed=never)
    _without("org", folder)
    trial(client, folder, accounts(4), 2, **given).run(killed=never)
    _without("org", folder)
    assert rest(client, folder, accounts(4), **given).run(killed=never)["counts"] == {"answered": 4}
    assert org.applied() == 6

    elsewhere = make_client(make_org(), agent_id=client.settings.agent_id)
    with pytest.raises(AgentforceInputError, match="What differs: org") as caught:
        rest(elsewhere, folder, accounts(4), **given).run(killed=never)
    assert "or let that task ask its sample again in another folder" in str(caught.value)
    _without("agent", folder)
    with pytest.raises(AgentforceInputError, match="What differs: agent"):
        rest(client, folder, accounts(4), **given).run(killed=never)


def test_a_changed_batch_keeps_its_rows_and_asks_for_the_rest_if_told_so(org, client, folder):
    job(client, folder, accounts(3)).run(killed=never)
    more = accounts(5)[1:]
    manifest = job(client, folder, more, changes_allowed=True, message="And {{ record.name }}?").run(
        killed=never
    )
    assert manifest["counts"] == {"answered": 4}
    assert org.count("send") == 5
    assert list(rows(folder)) == ["A1", "A2", "A3", "A4"]
    assert rows(folder)["A4"]["text"] == "This is about: And account-4?"
