"""What one record or one place in trouble does to the others: nothing."""

import json
import re
import time

import pytest
from batches import accounts, in_a_process, job, rows

from airflow_provider_agentforce.batch.storage import LocalStorage
from airflow_provider_agentforce.exceptions import BatchFailedError, LedgerError
from airflow_provider_agentforce.structured import checker_process

CONCURRENCY = 4


def never():
    return False


@pytest.mark.parametrize("status", [503, 429])
def test_a_record_that_is_asked_to_wait_for_ages_does_not_hold_up_the_others(
    org, make_client, folder, status
):
    client = make_client()
    client.limiter.longest_pause = 0.1
    org.fail("start", status=status, times=2, headers={"Retry-After": "9999999999"})
    manifest = job(client, folder, accounts(12)).run(killed=never)
    # A limit is the org's: the record is asked again. Anything else is the record's own trouble.
    expected = {"answered": 12} if status == 429 else {"answered": 10, "failed": 2}
    assert manifest["counts"] == expected
    failed = [row for row in rows(folder).values() if row["status"] == "failed"]
    assert all("asks to wait" in row["error"] and row["applied"] is False for row in failed)
    again = job(make_client(), folder, accounts(12)).run(killed=never)
    assert again["counts"] == {"answered": 12}
    assert org.applied() == 12


def test_a_killed_batch_leaves_at_most_as_many_in_doubt_as_it_had_workers(org, gate, fields, client, folder):
    gate.after = 20
    process = in_a_process(fields, folder, accounts(60))
    assert gate.reached.wait(60)
    process.kill()
    process.wait()
    gate.open.set()
    gate.after = None
    manifest = job(client, folder, accounts(60)).run(killed=never)
    assert manifest["counts"]["unknown"] <= CONCURRENCY
    assert all(org.applied(f"Tell me of {one['name']}.") <= 1 for one in accounts(60))


def test_short_sessions_of_a_killed_batch_are_ended_by_the_next_try(org, fields, client, folder, caplog):
    caplog.set_level("INFO")
    process = in_a_process(fields, folder, accounts(400), max_concurrency=12)
    while org.applied() < 100:
        time.sleep(0.001)
    process.kill()
    process.wait()
    job(client, folder, accounts(400), max_concurrency=12).run(killed=never)
    assert re.search(r"Ended \d+ of \d+ sessions that an earlier try left open", caplog.text)
    # Only a session whose start was answered to a process that was gone cannot be ended: its key is told.
    left = [org.sessions[one].external_session_key for one in org.open_sessions]
    assert len(left) <= 12
    assert all(f"{key}" in caplog.text for key in left)
    assert org.applied() <= 400


def test_no_temporary_file_is_needed(org, client, folder, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(folder / "absent"))
    assert job(client, folder, accounts(12)).run(killed=never)["counts"] == {"answered": 12}


def test_results_that_cannot_be_written_are_written_by_the_next_try_without_asking(org, make_client, folder):
    folder.mkdir()
    (folder / "results.jsonl").mkdir()
    with pytest.raises(LedgerError, match=r"results .* cannot be written .* the next try writes them"):
        job(make_client(), folder, accounts(3)).run(killed=never)
    (folder / "results.jsonl").rmdir()
    assert job(make_client(), folder, accounts(3)).run(killed=never)["counts"] == {"answered": 3}
    assert org.applied() == 3


def test_a_store_that_refuses_the_results_in_words_of_its_own_is_one_error(org, make_client, folder):
    class Refusing(LocalStorage):
        def write(self, name, content):
            if name == "results.jsonl":
                raise RuntimeError("AccessDenied")
            super().write(name, content)

    with pytest.raises(
        LedgerError, match=r"cannot be written \(RuntimeError: AccessDenied\)\. The answers are"
    ):
        job(make_client(), folder, accounts(3), storage_of=Refusing).run(killed=never)
    assert job(make_client(), folder, accounts(3)).run(killed=never)["counts"] == {"answered": 3}
    assert org.applied() == 3


class TriedAgain(LocalStorage):
    """Writes each file a second time, as when the first write fails at its end."""

    def write(self, name, content):
        for _ in content():
            pass
        super().write(name, content)


@pytest.mark.parametrize("storage", [LocalStorage, TriedAgain])
def test_the_input_is_read_twice_at_most_also_with_a_dead_letter_and_skipped_records(
    make_org, make_client, folder, tmp_path, monkeypatch, storage
):
    org = make_org(script=lambda turn: {"type": "Failure", "errors": ["no"]})
    path = tmp_path / "in.csv"
    path.write_text("id,name\n" + "".join(f"{n},account-{n}\n" for n in range(30)))
    opened = []
    real = type(path).open

    def counted(self, *args, **kwargs):
        opened.extend([self] if self == path else [])
        return real(self, *args, **kwargs)

    monkeypatch.setattr(type(path), "open", counted)
    with pytest.raises(BatchFailedError, match=r"the rest was skipped: .* no") as caught:
        job(make_client(org), folder, None, source_path=path, max_failures=2, storage_of=storage).run(
            killed=never
        )
    assert len(opened) == 2
    counts = caught.value.manifest["counts"]
    assert counts["failed"] + counts["skipped"] == 30
    letter = (folder / "dead_letter.csv").read_text().splitlines()
    assert letter == ["id,name", *(f"{n},account-{n}" for n in range(30))]


def test_an_answer_whose_check_has_no_end_is_invalid_output_and_the_others_are_read(
    make_org, make_client, folder, monkeypatch
):
    monkeypatch.setattr(checker_process, "SECONDS", 0.2)
    hostile, plain = json.dumps(["a" * 80_000 + "!"]), '["aaa"]'
    org = make_org(script=lambda turn: hostile if "account-3" in turn.text else plain)
    output = {"type": "array", "items": {"type": "string", "pattern": "^(a|a)+$"}}
    batch = job(make_client(org), folder, accounts(12), output_type=output, output_retries=0)
    assert batch.run(killed=never)["counts"] == {"answered": 11, "invalid_output": 1}
    found = rows(folder)
    assert "takes more than 0.2 s to check" in found["A3"]["error"]
    assert (found["A3"]["text"], found["A3"]["applied"], found["A4"]["result"]) == (hostile, True, ["aaa"])
    assert org.count("send") == 12
