"""The external keys of sessions that a process was starting when it was killed."""

from contextlib import closing
from functools import partial

import pytest
from batches import accounts, in_a_process, job
from lossy import Disk

from airflow_provider_agentforce.batch.checkpoint import Checkpoint
from airflow_provider_agentforce.batch.storage import LocalStorage
from airflow_provider_agentforce.exceptions import TaskStoppedError

SLOT_BYTES = 64


def never():
    return False


def opened(folder, storage=LocalStorage):
    """Open the checkpoint of the folder, as another process would; return it and the keys of lost starts."""
    checkpoint = Checkpoint(storage(folder), {}, {"a": 0, "b": 1}, folder)
    return checkpoint, list(checkpoint.open(changes_allowed=False).lost_starts)


def lost_in(folder):
    checkpoint, lost = opened(folder)
    checkpoint.close()
    return lost


def file_of(folder):
    (path,) = folder.glob("starts-*")
    return path


def keys_sent(org):
    return [one.body["externalSessionKey"] for one in org.requests if one.operation == "start"]


def named(caplog):
    """Return the warnings about lost starts since the last time."""
    said = [one.getMessage() for one in caplog.records if "External session keys" in one.getMessage()]
    caplog.clear()
    return said


@pytest.mark.parametrize("failures", [0, 1], ids=["the first start", "after a start whose answer was lost"])
def test_a_start_that_a_kill_cut_off_is_named_once_over_three_tries(
    org, fields, make_client, folder, caplog, failures
):
    if failures:
        org.fail("start", status=502, after=True)
    hold = org.hold("start")
    process = in_a_process(fields, folder, accounts(1))
    for _ in range(failures):
        hold.wait_until_held(30)
        hold.release()
        hold = org.hold("start")
    with hold:
        hold.wait_until_held(30)
        process.kill()
        process.wait()
        lost = keys_sent(org)
    assert len(lost) == failures + 1

    job(make_client(), folder, accounts(1)).run(killed=never)
    (warning,) = named(caplog)
    assert f"the starts of {len(lost)} sessions" in warning
    assert all(key in warning for key in lost)
    for _ in range(2):
        job(make_client(), folder, accounts(1)).run(killed=never)
        assert named(caplog) == []


@pytest.mark.parametrize("flushes", [False, True])
def test_a_start_whose_fate_is_written_is_not_lost(folder, flushes):
    checkpoint, _ = opened(folder)
    with closing(checkpoint):
        for number in range(3):
            checkpoint.starting(f"refused {number}")
            checkpoint.ended(f"refused {number}")
            if flushes:
                checkpoint.flush()
        checkpoint.starting("lost")
        checkpoint.starting("started")
        checkpoint.started("session", "started")
        checkpoint.claim("a")
        checkpoint.starting("under way")
    assert sorted(lost_in(folder)) == ["lost", "under way"]
    if flushes:
        assert file_of(folder).stat().st_size == 2 * SLOT_BYTES


def test_a_key_that_is_too_long_for_the_file_is_not_lost_either(folder):
    checkpoint, _ = opened(folder)
    with closing(checkpoint):
        checkpoint.starting("long" * 20)
    assert lost_in(folder) == ["long" * 20]
    assert not list(folder.glob("starts-*"))


def test_a_start_is_durable_after_the_next_flush(folder, tmp_path):
    disk = Disk(tmp_path / "disk")
    checkpoint, _ = opened(folder, disk.storage_of)
    with closing(checkpoint):
        for key in ("first", "second"):
            checkpoint.starting(key)
            checkpoint.flush()
        checkpoint.starting("not flushed")
    disk.lose()
    assert lost_in(folder) == ["first", "second"]


@pytest.mark.parametrize(
    ("content", "lost"),
    [
        (b"", []),
        (b"\0" * SLOT_BYTES, []),
        (b"\xff" * 1000, []),
        (b'{"a": 1}'.ljust(SLOT_BYTES) + b'"whole"'.ljust(SLOT_BYTES) + b'"cut', ["whole"]),
        (b'"whole"', ["whole"]),
    ],
    ids=["empty", "zeros", "not text", "cut", "cut after the key"],
)
def test_a_file_that_a_crash_has_damaged_is_read_as_far_as_it_can_be(folder, content, lost):
    checkpoint, _ = opened(folder)
    with closing(checkpoint):
        checkpoint.starting("key")
    file_of(folder).write_bytes(content)
    assert lost_in(folder) == lost


def test_a_process_that_knows_of_another_owner_starts_nothing_more(folder):
    checkpoint, _ = opened(folder)
    with closing(checkpoint):
        checkpoint.starting("in vain")
        assert lost_in(folder) == ["in vain"]
        for stopped in (partial(checkpoint.claim, "a"), partial(checkpoint.starting, "another")):
            with pytest.raises(TaskStoppedError, match="taken over"):
                stopped()


def test_the_file_does_not_grow_with_the_records(org, client, folder):
    job(client, folder, accounts(100), max_concurrency=4).run(killed=never)
    assert org.count("start") == 100
    assert 0 < file_of(folder / "_ledger").stat().st_size <= 4 * SLOT_BYTES
