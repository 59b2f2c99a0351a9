"""Disks that are full, slow or read-only, and clocks that jump: answers are kept, nothing is sent twice."""

import errno
import os
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from batches import accounts, in_a_process, job, rows, trial

from airflow_provider_agentforce.batch.answer_folder import AnswerFolder
from airflow_provider_agentforce.batch.shard import Shard
from airflow_provider_agentforce.batch.storage import LocalStorage
from airflow_provider_agentforce.exceptions import AgentforceError, AgentforceInputError, LedgerError

ANSWER = "All that there is to know. " * 40


def never():
    return False


def applied(org, records):
    """Return how often the org acted on a record, and on how many records so often."""
    return Counter(org.applied(f"Tell me of {one['name']}.") for one in records)


def mount(*arguments):
    try:
        done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)  # noqa: S607
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr}")


@pytest.fixture
def disk(tmp_path):
    """A disk of 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder))
    yield folder
    subprocess.run(["umount", str(folder)], check=True)  # noqa: S607


@pytest.fixture
def talkative(make_org):
    return make_org(script=lambda turn: f"{turn.text} {ANSWER}")


def told(org):
    """Return the answers that the org gave."""
    return [f"{turn.text} {ANSWER}" for session in org.sessions.values() for turn in session.turns]


def test_a_disk_that_fills_up_stops_the_batch_with_every_answer_kept_and_every_session_ended(
    talkative, make_client, disk, tmp_path, monkeypatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder, records = disk / "results", accounts(120)
    with pytest.raises(LedgerError, match=r"No space left") as caught:
        job(make_client(talkative), folder, records).run(killed=never)
    assert "\n" not in str(caught.value)
    # The last rows may have found room where the claims of more did not.
    rescued = "".join(path.read_text() for path in tmp_path.glob("agentforce-rows-*"))
    assert bool(rescued) == ("rows that could not be written are in" in str(caught.value))
    kept = rescued + "".join(path.read_text() for path in (folder / "_ledger").glob("part-*"))
    assert 0 < len(told(talkative)) < 120
    assert all(answer in kept for answer in told(talkative))
    assert talkative.open_sessions == []

    mount("-o", "remount,size=10m", str(disk))
    manifest = job(make_client(talkative), folder, records).run(killed=never)
    assert set(applied(talkative, records)) <= {0, 1}
    assert sum(manifest["counts"].values()) == 120
    assert manifest["counts"].get("unknown", 0) <= len(rescued.splitlines())
    lost = [row for row in rows(folder).values() if row["status"] == "unknown"]
    assert all(row["applied"] is None and row["error"] for row in lost)


def test_a_disk_too_full_for_the_results_gets_them_from_the_next_try_which_asks_nothing(
    talkative, make_client, disk
):
    folder, records = disk / "results", accounts(20)
    with pytest.raises(LedgerError, match=r"The results .* cannot be written .*No space left"):
        job(make_client(talkative), folder, records).run(killed=never)
    assert not (folder / "results.jsonl").exists()
    assert applied(talkative, records) == {1: 20}
    mount("-o", "remount,size=10m", str(disk))
    assert job(make_client(talkative), folder, records).run(killed=never)["counts"] == {"answered": 20}
    assert applied(talkative, records) == {1: 20}


def test_a_read_only_disk_is_one_error_before_anything_is_sent(org, client, disk):
    mount("-o", "remount,ro", str(disk))
    with pytest.raises(AgentforceInputError, match=r"result_path: .* cannot be used \(OSError: .*Read-only"):
        job(client, disk / "results", accounts(3)).run(killed=never)
    assert org.requests == []


PLACES = ["{tmp}/a file/results", "{tmp}/a file", "/proc/results", "/dev/null/results", "{tmp}/" + "x" * 300]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("work", ["run", "plan", "shard", "sample", "reuse"])
def test_a_place_where_no_folder_can_be_is_one_final_error_before_anything_is_sent(
    org, client, tmp_path, place, work
):
    (tmp_path / "a file").write_text("")
    place = Path(place.format(tmp=tmp_path))
    shard = {"shard": Shard(0, 2)}
    begin = {
        "run": lambda: job(client, place, accounts(3)).run(killed=never),
        "plan": lambda: job(client, place, accounts(3)).plan(),
        "shard": lambda: job(client, place / "shard-0-of-2", accounts(3), **shard).run(killed=never),
        "sample": lambda: trial(client, place, accounts(3), 1).run(killed=never),
        "reuse": lambda: job(client, tmp_path / "results", accounts(3), reuse=AnswerFolder(place)).run(
            killed=never
        ),
    }
    with pytest.raises(AgentforceError, match="cannot be") as caught:
        begin[work]()
    assert "\n" not in str(caught.value)
    assert not caught.value.retryable
    assert org.count("start") == 0


def test_a_store_that_is_away_when_a_batch_begins_is_left_to_a_retry(org, client, folder):
    class Away(LocalStorage):
        def write(self, name, content):
            raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(AgentforceInputError, match=r"result_path: .* cannot be used \(OSError") as caught:
        job(client, folder, accounts(3), storage_of=Away).run(killed=never)
    assert caught.value.retryable
    assert org.requests == []


def test_files_that_may_not_grow_any_more_stop_the_batch_with_every_answer_in_the_log_at_least(
    talkative, make_client, folder, tmp_path
):
    client, records, log = make_client(talkative), accounts(120), tmp_path / "log"
    # The rows that are left cannot go into a file either.
    process = in_a_process(
        vars(client.settings), folder, records, most_bytes=40_000, temporary=str(tmp_path / "absent"), log=log
    )
    assert process.wait(60)
    said = log.read_text()
    kept = said + "".join(path.read_text() for path in (folder / "_ledger").glob("part-*"))
    assert "cannot be written (OSError: [Errno 27] File too large)" in said
    assert 0 < len(told(talkative)) < 120
    assert all(answer in kept for answer in told(talkative))
    assert talkative.open_sessions == []
    job(client, folder, records).run(killed=never)
    assert set(applied(talkative, records)) <= {0, 1}


def test_claims_that_come_while_a_slow_disk_syncs_share_the_next_sync(org, make_client, folder):
    syncs = []

    def slow(descriptor):
        syncs.append(descriptor)
        time.sleep(0.05)
        os.fsync(descriptor)

    client = make_client(max_concurrent_sessions=20)
    batch = job(
        client, folder, accounts(200), max_concurrency=20, storage_of=lambda path: LocalStorage(path, slow)
    )
    assert batch.run(killed=never)["counts"] == {"answered": 200}
    assert applied(org, accounts(200)) == {1: 200}
    assert len(syncs) < 100


def test_a_clock_that_jumps_by_days_changes_no_answer_and_sends_nothing_twice(org, make_client, folder):
    client, records = make_client(), accounts(60)
    first = in_a_process(vars(client.settings), folder, records[:30], clock_jumps=86_400)
    assert first.wait(60) == 0
    second = in_a_process(vars(client.settings), folder, records, clock_jumps=86_400, changes_allowed=True)
    assert second.wait(60) == 0
    assert applied(org, records) == {1: 60}
    assert {row["status"] for row in rows(folder).values()} == {"answered"}
    assert all(0 <= row["duration"] < 60 for row in rows(folder).values())
    manifest = job(make_client(), folder, records, changes_allowed=True).run(killed=never)
    assert manifest["duration"] >= 0
    assert org.count("send") == 60


@pytest.mark.parametrize("together", [2, 3])
def test_of_tries_that_run_at_once_on_one_folder_one_goes_on_and_nothing_is_sent_twice(
    org, make_client, folder, together
):
    client, records = make_client(), accounts(150)
    tries = [in_a_process(vars(client.settings), folder, records) for _ in range(together)]
    ended = [one.wait(120) for one in tries]
    assert ended.count(0) <= 1
    manifest = job(client, folder, records).run(killed=never)
    assert set(applied(org, records)) <= {0, 1}
    found = rows(folder)
    assert len(found) == 150
    asked = {key for key, row in found.items() if row["status"] == "answered"}
    assert asked <= {one["id"] for one in records if org.applied(f"Tell me of {one['name']}.") == 1}
    assert manifest["counts"].get("unknown", 0) <= 4 * together
    assert org.open_sessions == []
