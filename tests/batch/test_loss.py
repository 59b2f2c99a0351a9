"""Machines that are lost amid a batch: nothing is sent twice, and nothing is forgotten."""

import os
import random
import time

import pytest
from batches import accounts, in_a_process, job, rows
from lossy import Disk

from airflow_provider_agentforce.batch.checkpoint import Checkpoint
from airflow_provider_agentforce.batch.results import Row

LOSSES = int(os.environ.get("AGENTFORCE_LOSSES", "20"))
RECORDS = 60
CONCURRENCY = 4


def killed_after(applied, org, fields, folder, records, disk, **how):
    """Start a batch in a process, and kill it once the org has acted on so many messages in all."""
    process = in_a_process(fields, folder, records, disk=str(disk.folder), **how)
    while org.applied() < applied and process.poll() is None:
        time.sleep(0.001)
    process.kill()
    process.wait()


@pytest.mark.parametrize("seed", range(LOSSES // 4))
def test_after_the_loss_of_a_machine_nothing_is_sent_twice_and_nothing_is_forgotten(
    make_org, make_client, tmp_path, seed
):
    chance = random.Random(seed)  # noqa: S311 - not for secrets
    org, folder, records = make_org(), tmp_path / "results", accounts(RECORDS)
    client = make_client(org)
    fields, disk = vars(client.settings), Disk(tmp_path / "disk")
    for _ in range(4):
        killed_after(org.applied() + chance.randint(0, 12), org, fields, folder, records, disk)
        disk.lose()
    manifest = job(client, folder, records).run(killed=lambda: False)

    sent = {one["id"]: org.applied(f"Tell me of {one['name']}.") for one in records}
    assert [key for key, number in sent.items() if number > 1] == []
    found = rows(folder)
    assert set(found) == set(sent)
    assert manifest["counts"].get("unknown", 0) <= 4 * CONCURRENCY
    for key, row in found.items():
        assert (row["status"], sent[key]) in {("answered", 1), ("unknown", 0), ("unknown", 1)}, key
    # Of a session whose start was answered to a process that was gone, nobody knows the id.
    assert len(org.open_sessions) <= 4 * CONCURRENCY


def test_without_syncs_the_same_loss_does_send_twice(org, make_client, folder, tmp_path):
    """The disk of this test really forgets."""
    client, records, disk = make_client(), accounts(20), Disk(tmp_path / "disk")
    killed_after(10, org, vars(client.settings), folder, records, disk, forgets=True)
    disk.lose()
    job(client, folder, records).run(killed=lambda: False)
    assert any(org.applied(f"Tell me of {one['name']}.") > 1 for one in records)


def test_a_row_that_was_written_with_a_start_is_durable_after_the_next_flush(folder, tmp_path):
    disk, positions = Disk(tmp_path / "disk"), {"a": 0, "b": 1}
    checkpoint = Checkpoint(disk.storage_of(folder), {}, positions, folder)
    checkpoint.open(changes_allowed=False)
    checkpoint.claim("a")
    checkpoint.settle("a", Row("a", "answered", text="hi", attempts=1))
    checkpoint.starting("key of a start")
    checkpoint.flush()
    disk.lose()
    later = Checkpoint(disk.storage_of(folder), {}, positions, folder)
    past = later.open(changes_allowed=False)
    assert (later.rows.status(0), set(past.pending), list(past.lost_starts)) == (
        "answered",
        set(),
        ["key of a start"],
    )
