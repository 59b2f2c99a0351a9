"""Machines that are lost amid a batch: nothing is sent twice, and nothing is forgotten."""

import os
import random

import pytest
from batches import accounts, in_a_process, job, rows
from lossy import Disk

LOSSES = int(os.environ.get("AGENTFORCE_LOSSES", "20"))
RECORDS = 60
CONCURRENCY = 4


@pytest.mark.parametrize("seed", range(LOSSES // 4))
def test_after_the_loss_of_a_machine_nothing_is_sent_twice_and_nothing_is_forgotten(
    make_org, make_client, tmp_path, gate, seed
):
    chance = random.Random(seed)  # noqa: S311 - not for secrets
    org, folder, records = make_org(), tmp_path / "results", accounts(RECORDS)
    client = make_client(org)
    fields = {**vars(client.settings)}
    for loss in range(4):
        gate.open.clear()
        gate.reached.clear()
        gate.after = gate.asked + chance.randint(0, 12)
        process = in_a_process(fields, folder, records, disk=str(tmp_path / "disk"))
        assert gate.reached.wait(60), loss
        process.kill()
        process.wait()
        Disk(tmp_path / "disk").lose()
        gate.open.set()
    gate.after = None
    manifest = job(client, folder, records).run(killed=lambda: False)

    sent = {one["id"]: org.applied(f"Tell me of {one['name']}.") for one in records}
    assert [key for key, number in sent.items() if number > 1] == []
    found = rows(folder)
    assert set(found) == set(sent)
    assert manifest["counts"].get("unknown", 0) <= 4 * CONCURRENCY
    for key, row in found.items():
        assert (row["status"], sent[key]) in {("answered", 1), ("unknown", 0), ("unknown", 1)}, key
    assert org.open_sessions == [] or len(org.open_sessions) <= 4 * CONCURRENCY


def test_without_syncs_the_same_loss_does_send_twice(org, gate, make_client, folder, tmp_path):
    """The disk of this test really forgets."""
    client = make_client()
    records = accounts(20)
    gate.after = 10
    process = in_a_process(
        {**vars(client.settings)}, folder, records, disk=str(tmp_path / "disk"), forgets=True
    )
    assert gate.reached.wait(60)
    process.kill()
    process.wait()
    Disk(tmp_path / "disk").lose()
    gate.open.set()
    gate.after = None
    job(client, folder, records).run(killed=lambda: False)
    assert any(org.applied(f"Tell me of {one['name']}.") > 1 for one in records)
