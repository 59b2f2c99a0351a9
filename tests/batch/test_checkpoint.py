"""What the files of the checkpoint say when they are whole, and when they are lost, cut or not ours."""

import sys
import threading
from contextlib import ExitStack, closing
from itertools import count

import pytest
from batches import accounts, job
from upath import UPath

from airflow_provider_agentforce.batch import checkpoint as module
from airflow_provider_agentforce.batch.checkpoint import Checkpoint
from airflow_provider_agentforce.batch.results import Row
from airflow_provider_agentforce.batch.storage import LocalStorage, Storage
from airflow_provider_agentforce.exceptions import LedgerError, TaskStoppedError

NAMES = {name: position for position, name in enumerate("abcdefgh")}


def store(folder):
    return Storage(UPath(f"file://{folder}"))


@pytest.fixture(params=[LocalStorage, store])
def opened(request, folder):
    """Open the checkpoint of the folder, as another process would."""
    with ExitStack() as open_now:

        def open_checkpoint(names=NAMES, storage=request.param):
            checkpoint = Checkpoint(storage(folder), {"records": "same"}, names, folder)
            open_now.enter_context(closing(checkpoint))
            return checkpoint, checkpoint.open(changes_allowed=False)

        yield open_checkpoint


def parts(folder):
    return sorted(folder.glob("part-*"))


def answered(checkpoint, name, **fields):
    checkpoint.settle(name, Row(name, "answered", outcome="answered", **fields))


def names_of(past):
    return {"abcdefgh"[position] for position in past.pending}


def test_what_is_claimed_and_has_no_row_is_pending(opened):
    checkpoint, past = opened()
    assert set(past.pending) == set()
    for name in "abc":
        checkpoint.claim(name)
    answered(checkpoint, "a", text="yes")
    checkpoint.withdraw("b")
    checkpoint.flush()
    later, past = opened()
    assert names_of(past) == {"c"}
    assert later.rows.status(0) == "answered"
    assert later.row_at(0) == Row("a", "answered", outcome="answered", text="yes").line()
    assert (later.rows.messages, later.rows.status(1)) == (1, None)


def test_the_last_row_of_a_record_counts(opened):
    checkpoint, _ = opened()
    checkpoint.claim("a")
    checkpoint.settle("a", Row("a", "failed"), b'{"id": "a"}\n')
    checkpoint.flush()
    assert checkpoint.record_at(0) == b'{"id": "a"}\n'
    again, past = opened()
    assert (set(past.pending), again.rows.asked_again(0)) == (set(), True)
    again.claim("a")
    answered(again, "a", text="yes")
    again.flush()
    last, past = opened()
    assert (set(past.pending), last.rows.counts) == (set(), {"answered": 1, "failed": 0})
    assert b'"yes"' in last.row_at(0)


def test_what_a_try_has_skipped_is_for_the_next_try_as_it_was_before(opened):
    checkpoint, _ = opened()
    checkpoint.claim("a")
    checkpoint.settle("a", Row("a", "unknown", applied=None, text="so far"))
    checkpoint.claim("b")
    checkpoint.flush()
    later, past = opened()
    assert names_of(past) == {"b"}
    for name in "abc":
        later.rows.drop(NAMES[name])
        later.settle(name, Row(name, "skipped"), b"{}\n")
    later.flush()
    assert later.line_at(2) == (Row("c", "skipped").line(), b"{}\n")
    last, past = opened()
    assert names_of(past) == {"b"}
    assert [last.rows.status(position) for position in range(3)] == ["unknown", None, None]
    assert b"so far" in last.row_at(0)


def test_rows_of_this_try_and_of_the_last_are_read_from_their_own_files(opened):
    checkpoint, _ = opened()
    checkpoint.claim("a")
    answered(checkpoint, "a", text="then")
    checkpoint.flush()
    later, _ = opened()
    later.settle("b", Row("b", "unknown", text="now"))
    later.flush()
    assert b'"then"' in later.row_at(0)
    assert b'"now"' in later.row_at(1)


def test_sessions_that_were_not_seen_to_end_are_found_and_starts_that_were_lost(opened):
    checkpoint, _ = opened()
    for number in range(3):
        checkpoint.starting(f"key-{number}")
    checkpoint.started("one", "key-0")
    checkpoint.started("two", "another key, since the start was repeated")
    checkpoint.claim("a")
    checkpoint.ended("one", "key-2")
    checkpoint.flush()
    _, past = opened()
    assert (list(past.open_sessions), list(past.lost_starts)) == (["two"], ["key-1"])
    assert len(past.starts) == 2


def test_start_that_is_refused_after_a_takeover_is_not_lost(opened):
    checkpoint, _ = opened()
    opened()
    with pytest.raises(TaskStoppedError):
        checkpoint.starting("key")
    checkpoint.flush()
    _, past = opened()
    assert list(past.lost_starts) == []


def test_a_part_that_is_cut_leaves_in_doubt_what_it_could_have_claimed_and_keeps_the_rows_that_are_whole(
    folder, opened
):
    checkpoint, _ = opened()
    checkpoint.claim("a")
    answered(checkpoint, "a")
    checkpoint.claim("b")
    path = parts(folder)[-1]
    whole = path.read_bytes()
    ends = [index + 1 for index in range(len(whole)) if whole[: index + 1].endswith(b"}\n")]
    for length in {0, 1, len(whole) // 2, len(whole) - 1, *(end - 1 for end in ends)}:
        path.write_bytes(whole[:length])
        later, past = opened()
        assert "b" in names_of(past), length
        assert later.rows.status(0) == "answered" or "a" in names_of(past), length
    path.write_bytes(
        whole[: len(whole) // 2] + b"\0" * 500
    )  # what a file system leaves after a power failure
    assert "b" in names_of(opened()[1])
    path.write_bytes(whole)
    assert names_of(opened()[1]) == {"b"}


def test_a_part_that_is_missing_leaves_in_doubt_what_it_could_have_claimed(folder, opened):
    checkpoint, _ = opened()
    checkpoint.claim("a")
    answered(checkpoint, "a")
    checkpoint.claim("b")
    checkpoint.flush()
    for path in parts(folder):
        path.unlink()
    assert names_of(opened()[1]) == set("abcdefgh")


def test_of_many_parts_one_that_is_lost_leaves_no_more_in_doubt_than_came_before_it(folder, opened):
    checkpoint, _ = opened(storage=store)
    for name in "abcd":
        checkpoint.claim(name)
        answered(checkpoint, name)
    checkpoint.flush()
    lost = parts(folder)[2]  # settles a, claims b
    lost.unlink()
    assert names_of(opened()[1]) == {"a"}
    lost.write_bytes(b"")
    assert names_of(opened()[1]) == {"a"}


def test_with_other_records_a_loss_leaves_all_in_doubt_since_positions_have_shifted(folder, opened):
    checkpoint, _ = opened()
    checkpoint.claim("a")
    parts(folder)[-1].write_bytes(b"")
    other = Checkpoint(LocalStorage(folder), {"records": "others"}, NAMES, folder)
    with closing(other):
        assert names_of(other.open(changes_allowed=True)) == set("abcdefgh")


@pytest.mark.parametrize("name", ["header.json", "owner.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"null"])
def test_a_ledger_that_cannot_be_read_is_an_error_and_not_an_empty_one(folder, name, content, opened):
    opened()
    (folder / name).write_bytes(content)
    with pytest.raises(LedgerError, match=f"{name} cannot be read") as caught:
        opened()
    assert not caught.value.retryable


@pytest.mark.parametrize("name", ["part-0001.jsonl", "part-0001-0123456789ab-00000000-00000000.jsonl"])
@pytest.mark.parametrize("content", [b'{"id": 1}\n', b'{"n": 0, "rows": [[1]]}\n', b"id,name\n1,a\n", b"\n"])
def test_a_part_of_another_program_is_one_error_that_names_the_file(folder, name, content, opened):
    opened()
    (folder / name).write_bytes(content)
    with pytest.raises(LedgerError, match=f"{name} cannot be read") as caught:
        opened()
    assert not caught.value.retryable


def test_a_part_with_another_text_in_its_middle_is_an_error(folder, opened):
    checkpoint, _ = opened()
    checkpoint.claim("a")
    path = parts(folder)[-1]
    path.write_bytes(path.read_bytes().replace(b'{"end"', b"x" * 6))
    with pytest.raises(LedgerError, match=r"part-.* cannot be read"):
        opened()


def test_many_parts_become_few_and_nothing_of_them_is_lost(folder, opened):
    names = {f"r{number}": number for number in range(30_000)}
    checkpoint, _ = opened(names)
    claimed = list(names)[::100]  # each in another part of a local folder, too
    for name in claimed:
        checkpoint.claim(name)
        answered(checkpoint, name, text=f"about {name}")
    checkpoint.claim("r29999")
    assert len(parts(folder)) <= 103
    for one in (checkpoint, opened(names)[0]):
        for name in claimed:
            assert f'"about {name}"'.encode() in one.row_at(names[name])
    assert set(opened(names)[1].pending) == {29_999}


def test_rows_are_found_after_a_merge_into_a_file_that_is_being_read(tmp_path):
    folder = UPath(f"memory://{tmp_path.name}/ledger")
    names = {f"r{number}": number for number in range(250)}
    with closing(Checkpoint(Storage(folder), {}, names, folder)) as checkpoint:
        checkpoint.open(changes_allowed=False)
        for name, position in names.items():
            answered(checkpoint, name)
            checkpoint.flush()
            assert [Row.from_line(checkpoint.row_at(one)).key for one in (position, 0)] == [name, "r0"]
        # They were merged twice, into a file of the same name, because nothing was claimed in between.
        assert len(list(folder.glob("part-*"))) < 60
        assert [row.key for row in checkpoint.rows_having("answered")] == list(names)


def test_a_merge_that_was_killed_before_it_removed_the_old_files_changes_nothing(folder, opened, monkeypatch):
    names = {f"r{number}": number for number in range(30_000)}
    checkpoint, _ = opened(names)
    monkeypatch.setattr(Storage, "remove", lambda *_: None)
    for name in list(names)[::200]:
        checkpoint.claim(name)
        answered(checkpoint, name)
    checkpoint.flush()
    later, past = opened(names)
    assert (set(past.pending), later.rows.counts) == (set(), {"answered": 150})


class Watched(Storage):
    """A store in which something happens right after a listing, or before a write."""

    after_listing = before_write = staticmethod(lambda: None)

    def names(self):
        names = super().names()
        self.after_listing()
        return names

    def write(self, name, content):
        self.before_write()
        super().write(name, content)


@pytest.fixture
def watched(tmp_path):
    """Return a store for an empty folder; each call returns another one for the same folder."""
    return lambda: Watched(UPath(f"memory://{tmp_path.name}/ledger"))


def opened_in(storage):
    checkpoint = Checkpoint(storage, {"records": "same"}, {f"r{number}": number for number in range(200)}, "")
    return checkpoint, checkpoint.open(changes_allowed=False)


def answer(checkpoint, names, *, claim=True):
    for name in names:
        if claim:
            checkpoint.claim(name)
        answered(checkpoint, name)
        checkpoint.flush()


# r0 is not asked yet.
FIRST, LATER = [f"r{number}" for number in range(1, 46)], [f"r{number}" for number in range(46, 151)]


def test_a_try_that_was_taken_over_merges_no_more(watched):
    old, _ = opened_in(watched())
    answer(old, FIRST)
    storage = watched()
    storage.after_listing = lambda: answer(old, LATER, claim=False)
    new, past = opened_in(storage)
    assert (set(past.pending), new.rows.counts) == (set(), {"answered": 45})
    assert [row.key for row in new.rows_having("answered")] == FIRST
    assert old.unwritten() == []
    with pytest.raises(TaskStoppedError, match="taken over"):
        old.claim("r0")


class Alarm(BaseException):
    """The end of a task's time."""


def test_an_interrupted_write_that_the_store_completes_later_replaces_nothing(watched):
    storage, late = watched(), []
    checkpoint, _ = opened_in(storage)
    answered(checkpoint, "r0")

    def write(name, content):
        late.append((name, b"".join(content())))
        raise Alarm

    storage.write = write
    with pytest.raises(Alarm):
        checkpoint.flush()
    del storage.write
    answered(checkpoint, "r1")
    checkpoint.flush()
    name, body = late[0]
    watched().write(name, lambda: [body])
    new, past = opened_in(watched())
    assert ([row.key for row in new.rows_having("answered")], set(past.pending)) == (["r0", "r1"], set())


def test_the_end_of_a_task_s_time_is_not_taken_for_a_failure_of_the_store():
    calls = []

    class Folder:
        protocol = "memory"

        def iterdir(self):
            calls.append("listed")
            raise Alarm

    with pytest.raises(Alarm):
        Storage(Folder()).names()
    assert calls == ["listed"]


def test_files_that_a_merge_before_the_takeover_removes_after_it_are_not_lost(watched):
    storage, removed = watched(), []
    storage.remove = removed.append
    answer(opened_in(storage)[0], FIRST + LATER)
    later = watched()
    later.after_listing = lambda: [later.remove(name) for name in removed]
    new, past = opened_in(later)
    assert (len(removed) > 90, set(past.pending), new.rows.counts) == (True, set(), {"answered": 150})
    assert [row.key for row in new.rows_having("answered")] == FIRST + LATER


def test_a_row_that_another_thread_is_writing_can_be_read_after_a_flush(watched):
    storage, begun, found = watched(), threading.Event(), []
    checkpoint, _ = opened_in(storage)

    def read():
        begun.set()
        checkpoint.flush()
        found.append(checkpoint.row_at(0))

    reader = threading.Thread(target=read)

    def read_meanwhile():
        storage.before_write = Watched.before_write
        reader.start()
        begun.wait()
        reader.join(0.2)

    answered(checkpoint, "r0")
    storage.before_write = read_meanwhile
    checkpoint.claim("r1")
    reader.join()
    assert found == [Row("r0", "answered", outcome="answered").line()]


def test_two_processes_may_write_the_same_file_at_once(folder):
    first, second = LocalStorage(folder), LocalStorage(folder)
    first.prepare()

    def content():
        second.write("owner.json", lambda: [b"second"])
        yield b"first"

    first.write("owner.json", content)
    assert [path.name for path in folder.iterdir()] == ["owner.json"]
    assert first.read("owner.json") == b"first"


class Full(LocalStorage):
    """A disk that is full for a while, in the middle of a write."""

    fails = 0

    def append(self, name, size, data, *, sync=True):
        if self.fails:
            self.fails -= 1
            super().append(name, size, data[: len(data) // 2])
            raise OSError(28, "No space left on device")
        super().append(name, size, data, sync=sync)


def test_what_could_not_be_written_is_kept_and_what_it_claimed_is_not_asked(folder):
    storage = Full(folder)
    checkpoint = Checkpoint(storage, {"records": "same"}, NAMES, folder)
    checkpoint.open(changes_allowed=False)
    checkpoint.claim("a")
    answered(checkpoint, "a")
    storage.fails = 1
    with pytest.raises(LedgerError, match="cannot be written"):
        checkpoint.claim("b")
    assert len(checkpoint.unwritten()) == 1
    checkpoint.claim("c")
    assert checkpoint.unwritten() == []
    with closing(Checkpoint(LocalStorage(folder), {"records": "same"}, NAMES, folder)) as later:
        assert names_of(later.open(changes_allowed=False)) == {"c"}
        assert later.rows.status(0) == "answered"


class Interrupted(BaseException):
    """Raised by a signal handler, as Airflow's timeouts are."""


def interrupted_at(number, begun):
    """Return a trace function that raises at the line with this *number* of those that take a block back.

    :param begun: is called when a thread is about to write its block.
    """
    lines = count(1)

    def trace(frame, event, _):
        code = frame.f_code
        if code.co_filename != module.__file__:
            return None
        if event == "call" and code.co_name == "_lead":
            begun()
        if event == "line" and code.co_name == "_take_back" and next(lines) == number:
            raise Interrupted
        return trace

    return trace


def test_a_claim_whose_block_a_signal_left_unfinished_is_made_or_refused(tmp_path):
    """A second thread waits for the block whose writer a full disk, and then a signal, stop."""
    for number in count(1):
        storage, outcomes, joined = Full(tmp_path / str(number)), [], threading.Event()
        with closing(Checkpoint(storage, {"records": "same"}, NAMES, "here")) as checkpoint:
            checkpoint.open(changes_allowed=False)
            checkpoint.claim("a")
            answered(checkpoint, "a")
            storage.fails = 1

            def tell(frame, event, _, joined=joined):
                if event == "call" and frame.f_code.co_name == "_commit":
                    joined.set()

            def claim(checkpoint=checkpoint, outcomes=outcomes, tell=tell):
                sys.settrace(tell)
                try:
                    outcomes.append(checkpoint.claim("b"))
                except LedgerError as error:
                    outcomes.append(error)

            other = threading.Thread(target=claim)

            def begun(other=other, joined=joined):
                if not joined.is_set():
                    other.start()
                    assert joined.wait(10)

            before = sys.gettrace()
            sys.settrace(interrupted_at(number, begun))
            try:
                with pytest.raises(LedgerError, match="No space left"):
                    checkpoint.flush()
                break
            except Interrupted:
                pass
            finally:
                sys.settrace(before)
                other.join(10)
            checkpoint.flush()
        with closing(
            Checkpoint(LocalStorage(tmp_path / str(number)), {"records": "same"}, NAMES, "here")
        ) as later:
            past = later.open(changes_allowed=False)
            assert names_of(past) == ({"b"} if outcomes == [None] else set()), number
            assert later.rows.status(0) == "answered"


def test_a_claim_in_a_new_file_counts_although_a_signal_came_after_the_block_before_it(folder):
    class Cut(LocalStorage):
        cut = False

        def append(self, name, size, data, *, sync=True):
            super().append(name, size, data, sync=sync)
            if self.cut:
                self.cut = False
                raise Interrupted

    names, storage = {str(position): position for position in range(200)}, Cut(folder)
    with closing(Checkpoint(storage, {"records": "same"}, names, folder)) as checkpoint:
        checkpoint.open(changes_allowed=False)
        checkpoint.claim("0")
        answered(checkpoint, "0")
        storage.cut = True
        with pytest.raises(Interrupted):
            checkpoint.flush()
        checkpoint.claim("150")
    with closing(Checkpoint(LocalStorage(folder), {"records": "same"}, names, folder)) as later:
        assert set(later.open(changes_allowed=False).pending) == {150}
        assert later.rows.status(0) == "answered"


def test_a_ledger_that_cannot_be_written_any_more_stops_the_batch_and_keeps_the_answers(
    org, client, folder, tmp_path, monkeypatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    storages = []

    class Filling(Full):
        def append(self, name, size, data, *, sync=True):
            self.fails = org.applied() >= 8
            super().append(name, size, data, sync=sync)

    def storage_of(path):
        storages.append(Filling(path))
        return storages[-1]

    with pytest.raises(LedgerError, match=r"cannot be written .* rows that could not be written are in"):
        job(client, folder, accounts(40), storage_of=storage_of).run(killed=lambda: False)
    assert org.applied() <= 8 + 4
    assert org.open_sessions == []
    (kept,) = tmp_path.glob("agentforce-rows-*")
    said = kept.read_text() + "".join(path.read_text() for path in parts(folder / "_ledger"))
    assert all(f"This is about: {turn.text}" in said for one in org.sessions.values() for turn in one.turns)
