"""Earlier answers in the place of messages: what is taken, what never is, and what disturbs the store."""

import errno
import itertools
import json
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Annotated

import pytest
from batches import accounts, in_a_process, job, rows
from pydantic import AfterValidator, BaseModel, field_validator

from airflow_provider_agentforce.batch.answer_folder import AnswerFolder
from airflow_provider_agentforce.batch.storage import LocalStorage
from airflow_provider_agentforce.delivery import Verdict
from airflow_provider_agentforce.exceptions import BatchFailedError, LedgerError

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def never():
    return False


@pytest.fixture
def store(tmp_path):
    return tmp_path / "answers"


@pytest.fixture
def client(make_client):
    return make_client(max_sessions_per_hour=100_000)


@pytest.fixture
def run(client, tmp_path, store):
    """Run a batch that reuses what the store has, in the folder of its day."""

    def build(records, *, day=1, reuse=None, client=client, **given):
        reuse = reuse or AnswerFolder(store)
        return job(client, tmp_path / f"day-{day}", records, reuse=reuse, **given)

    return lambda *given, **more: build(*given, **more).run(killed=never)


def files(store):
    return sorted(store.glob("*/answers-*.jsonl"))


def asked_again(org, before):
    return org.applied() - before


def test_only_what_is_new_or_has_changed_is_asked_the_next_day(org, run, tmp_path):
    records = accounts(1000)
    first = run(records, max_concurrency=20)
    assert (first["messages"], first["reused"], org.applied()) == (1000, 0, 1000)

    changed = [{**one, "name": f"{one['name']} & Co"} for one in records[:30]]
    new = [{"id": f"N{number}", "name": f"new-{number}"} for number in range(20)]
    second = run([*records[500:], *new, *changed, *records[30:500]], day=2, max_concurrency=20)
    assert (second["messages"], second["reused"], second["sessions"], org.applied()) == (50, 970, 50, 1050)
    assert second["counts"] == {"answered": 1020}
    was, now = rows(tmp_path / "day-1")["A600"], rows(tmp_path / "day-2")["A600"]
    assert now["reused_from"] == {"session_id": was["session_id"], "at": was["started_at"]}
    same = ("key", "status", "text", "outcome", "request", "agent_version", "record")
    assert {name: now[name] for name in same} == {name: was[name] for name in same}
    assert (now["session_id"], now["attempts"], now["applied"]) == (None, 0, True)
    assert rows(tmp_path / "day-2")["A7"]["reused_from"] is None

    third = run([*records[30:], *changed, *new], day=3)
    assert (third["messages"], third["reused"], third["sessions"]) == (0, 1020, 0)
    assert rows(tmp_path / "day-3")["A600"]["reused_from"] == now["reused_from"]


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({}, {"message": "Tell me all of {{ record.name }}."}),
        ({}, {"message": ["Tell me of {{ record.name }}.", "More?"]}),
        ({}, {"variables": {"Of": "{{ record.id }}"}}),
        ({"variables": {"Of": "{{ record.id }}"}}, {"variables": {"Of": "x{{ record.id }}"}}),
        ({}, {"output_type": CITY}),
        ({}, {"start": {"tz": "Europe/Berlin"}}),
        ({}, {"start": {"bypass_user": False}}),
        # An agent may answer otherwise when it remembers other records.
        ({"messages_per_session": 20}, {}),
    ],
)
def test_what_is_asked_in_another_way_is_asked_again(make_org, make_client, run, first, then):
    org = make_org(script=lambda turn: '{"city": "Bonn"}')
    client = make_client(org)

    def options(given):
        return {**given, "start": {"agent_id": org.agent_id, **given.get("start", {})}, "client": client}

    run(accounts(3), **options(first))
    before = org.applied()
    assert run(accounts(3), day=2, **options(then))["reused"] == 0
    assert org.applied() > before
    assert run(accounts(3), day=3, **options(then))["reused"] == 3
    assert run(accounts(3), day=4, **options(first))["reused"] == 3


class Base(BaseModel):
    pass


class Strict(BaseModel):
    @field_validator("city", check_fields=False)
    @classmethod
    def starts_with_a_capital(cls, city):
        assert city[0].isupper()
        return city


def inherits(base):
    class Answer(base):
        city: str

    return Answer


def holds(base):
    class Place(base):
        city: str

    class Answer(BaseModel):
        place: Place

    return Answer


@pytest.mark.parametrize("make", [inherits, holds])
def test_a_check_of_the_answer_that_no_schema_shows_is_a_part_of_the_question(
    make_org, make_client, run, make
):
    org = make_org(script=lambda turn: '{"city": "Bonn", "place": {"city": "Bonn"}}')
    given = {"client": make_client(org), "start": {"agent_id": org.agent_id}}
    run(accounts(3), **given, output_type=make(Base))
    assert run(accounts(3), day=2, **given, output_type=make(Strict))["reused"] == 0
    assert run(accounts(3), day=3, **given, output_type=make(Base))["reused"] == 3
    assert run(accounts(3), day=4, **given, output_type=make(Strict))["reused"] == 3


def at_most(limit):
    def check(value):
        if value > limit:
            raise ValueError("too many")
        return value

    class Seats(BaseModel):
        seats: Annotated[int, AfterValidator(check)]

    return Seats


def test_an_answer_that_the_type_of_today_refuses_is_not_reused(make_org, make_client, run):
    org = make_org(script=lambda turn: 'Here it is: {"seats": 5}')
    client = make_client(org, max_sessions_per_hour=100_000)
    given = {"client": client, "output_retries": 0}
    run(accounts(2), **given, output_type=at_most(9))
    assert run(accounts(2), day=2, **given, output_type=at_most(8))["reused"] == 2
    with pytest.raises(BatchFailedError, match="2 of 2 records failed"):
        run(accounts(2), day=3, **given, output_type=at_most(1))
    assert org.applied() == 4


def test_only_the_key_and_other_fields_may_differ(run, org):
    run([{"id": 1, "name": "Acme", "size": 5}])
    manifest = run([{"id": 2, "name": "Acme"}, {"id": 3, "name": "acme"}], day=2)
    assert (manifest["reused"], org.applied()) == (1, 2)


def test_another_version_or_agent_is_asked(org, run, make_client):
    run(accounts(3))
    other = next(agent for agent in org.agents if agent.active and agent.id != org.agent_id)
    given = {"agent_id": other.id, "bypass_user": not other.employee}
    assert run(accounts(3), day=2, start=given)["reused"] == 0
    org.publish()
    assert run(accounts(3), day=3, client=make_client())["reused"] == 0
    assert run(accounts(3), day=4)["reused"] == 3
    assert run(accounts(3), day=5, start=given)["reused"] == 3
    assert org.applied() == 9


def test_none_is_reused_or_kept_while_the_version_cannot_be_read(org, run, store, caplog):
    run(accounts(3))
    kept = files(store)
    org.fail("query", status=403)
    assert run(accounts(4), day=2)["reused"] == 0
    assert sum("No earlier answer is reused" in one for one in caplog.messages) == 1
    assert files(store) == kept
    assert org.applied() == 7


def script(turn):
    if "bad" in turn.text:
        return {"type": "Failure", "errors": ["no"]}
    return '{"city": "Bonn"}' if "good" in turn.text else "no JSON"


def test_only_plain_answers_that_fit_are_reused(make_org, make_client, run):
    org = make_org(script=script)
    given = {"client": make_client(org), "start": {"agent_id": org.agent_id}, "output_type": CITY}
    records = [{"id": name, "name": name} for name in ("bad", "good", "odd")]
    assert run(records, **given)["counts"] == {"answered": 1, "failed": 1, "invalid_output": 1}
    manifest = run(records, day=2, **given)
    assert manifest["reused"] == 1
    assert manifest["counts"] == {"answered": 1, "failed": 1, "invalid_output": 1}


def test_what_is_unknown_is_not_reused(org, run):
    org.fail("send", status=500, after=True)
    assert run(accounts(3), max_concurrency=1)["counts"] == {"answered": 2, "unknown": 1}
    assert run(accounts(3), day=2)["reused"] == 2


@pytest.mark.parametrize(
    ("found", "counts"),
    [
        ({"answer": "lost"}, {"answered": 2, "answer_lost": 1}),
        ({"answer": "given", "text": "Yes."}, {"answered": 3}),
        ({"answer": "recovered", "text": "Yes."}, {"answered": 3}),
    ],
)
def test_what_a_step_has_resolved_is_not_reused(org, run, store, found, counts):
    def resolve(unknown):
        verdict = Verdict("ask", acted=True, **found)
        unknown.settle(dict.fromkeys(unknown.open(), verdict))

    org.fail("send", status=500, after=True)
    first = run(accounts(3), max_concurrency=1, resolve=resolve)
    assert (first["counts"], first["resolved"]) == (counts, 1)
    second = run(accounts(3), day=2)
    assert (second["counts"], second["reused"], org.applied()) == ({"answered": 3}, 2, 4)


def test_an_answer_that_ends_the_session_is_reused(make_org, make_client, run, caplog):
    org = make_org(script=lambda turn: ["Bye.", {"type": "SessionEnded"}])
    client = make_client(org, max_sessions_per_hour=100_000)
    assert run(accounts(3), client=client)["counts"] == {"answered": 3}
    assert run(accounts(3), client=client, day=2)["reused"] == 3
    assert (org.applied(), "incomplete or changed" in caplog.text) == (3, False)


def test_several_answers_of_a_conversation_come_back(run, tmp_path):
    given = {"message": ["Of {{ record.name }}.", "More?"], "variables": {"Of": "{{ record.id }}"}}
    run(accounts(2), **given)
    run(accounts(2), day=2, **given)
    was, now = rows(tmp_path / "day-1")["A1"], rows(tmp_path / "day-2")["A1"]
    same = ("text", "earlier_answers", "request", "earlier_requests")
    assert {name: now[name] for name in same} == {name: was[name] for name in same}


def test_old_answers_are_not_taken_and_can_be_removed(run, store, org):
    run(accounts(5))
    old = files(store)[0]
    old.write_text(old.read_text().replace('"at": "20', '"at": "10'))
    run(accounts(7), day=2)
    recent = AnswerFolder(store, max_age=timedelta(days=1))
    assert run(accounts(7), day=3, reuse=recent)["reused"] == 2
    assert AnswerFolder(store, max_age=timedelta(days=500_000)).prune() == 0
    # The five have been asked once more.
    assert recent.prune() == 0
    assert run(accounts(7), day=4, reuse=recent)["reused"] == 7
    newest = AnswerFolder(store, max_age=timedelta(microseconds=1))
    assert newest.prune() == 7
    assert files(store) == []
    assert newest.prune() == 0


@pytest.mark.parametrize("left", [0, 1, 0.55, -1])
def test_a_file_that_is_cut_gives_what_is_whole(run, store, org, caplog, left):
    run(accounts(10))
    (path,) = files(store)
    body = path.read_bytes()
    size = int(len(body) * left) if isinstance(left, float) else left % len(body)
    path.write_bytes(body[:size])
    whole = body[:size].count(b"\n")
    assert run(accounts(10), day=2)["reused"] == whole
    assert any("are incomplete or changed" in one for one in caplog.messages) == (size > 0)
    assert org.applied() == 20 - whole


def test_what_is_not_ours_in_the_store_stays_and_disturbs_nothing(run, store):
    run(accounts(3))
    (path,) = files(store)
    foreign = [store / "README.md", store / "notes" / "x.jsonl", path.parent / "answers-2-x.jsonl"]
    for one in foreign:
        one.parent.mkdir(exist_ok=True)
        one.write_text("{}\n[1]\nx\n")
    path.write_bytes(b'[]\n{"question": 1}\n\xff\n' + path.read_bytes())
    assert run(accounts(3), day=2)["reused"] == 3
    AnswerFolder(store, max_age=timedelta(days=1)).prune()
    assert all(one.exists() for one in foreign)


IMPOSSIBLE = {
    "question": ["", "x" * 32, "../x", "\ud800", 5],
    "at": ["", "soon", "2026-13-01T00:00:00.000+00:00", "2026-01-01\ud80000:00:00.000+00:00", "9", 5],
    "session_id": [None, {}],
    "text": [None, ["a"]],
    "outcome": ["failed", "", None],
    "earlier_answers": [None, "text", [5], {}],
    "result": [float("nan"), float("inf")],
}


def test_lines_with_impossible_values_are_passed_over(run, store, org, caplog):
    run(accounts(2))
    (path,) = files(store)
    good = [json.loads(line) for line in path.read_text().splitlines()]
    bad = [{**good[0], name: value} for name, values in IMPOSSIBLE.items() for value in values]
    path.write_text("".join(json.dumps(one) + "\n" for one in [*bad, good[1]]))
    assert run(accounts(2), day=2)["reused"] == 1
    assert org.applied() == 3
    assert any(f"{len(bad)} lines in" in one for one in caplog.messages)


def test_any_age_may_be_given(run, store):
    run(accounts(2))
    ever = AnswerFolder(store, max_age=timedelta.max)
    assert run(accounts(2), day=2, reuse=ever)["reused"] == 2
    assert ever.prune() == 0


def test_a_full_folder_for_temporary_files_is_named(org, fields, run, tmp_path, store):
    # SQLite keeps two megabytes in memory.
    long = [{**one, "name": one["name"] * 10_000} for one in accounts(40)]
    run(long)
    log, temporary = tmp_path / "log", tmp_path / "temporary"
    temporary.mkdir()
    how = {"answers": str(store), "temporary": str(temporary), "most_bytes": 500_000, "log": log}
    process = in_a_process(fields, tmp_path / "day-2", long, **how)
    assert process.wait(60)
    assert f"folder for temporary files {temporary} cannot take the earlier answers" in log.read_text()
    assert org.applied() == 40


def test_many_files_become_few(run, store, org, monkeypatch):
    monkeypatch.setattr("airflow_provider_agentforce.batch.answer_folder._MOST_FILES", 3)
    for day in range(1, 8):
        run(accounts(day), day=day)
    assert len(files(store)) <= 4
    assert org.applied() == 7
    assert run(accounts(7), day=9)["reused"] == 7


def test_batches_at_the_same_time_do_not_disturb_each_other(org, run, store, make_client):
    clients = [make_client() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        pruner = AnswerFolder(store, max_age=timedelta(days=1))
        runs = [
            pool.submit(run, accounts(20 + day), day=day, client=client) for day, client in enumerate(clients)
        ]
        while not all(one.done() for one in runs):
            assert pruner.prune() == 0
        for one in runs:
            assert one.result()["counts"]["answered"] >= 20
    assert run(accounts(23), day=9)["reused"] == 23


def test_a_store_that_is_pruned_while_it_is_read_gives_all_that_is_left(run, store, org):
    run(accounts(5))
    (path,) = files(store)
    path.write_text(path.read_text().replace('"at": "20', '"at": "10', 1))

    class Pruned(LocalStorage):
        """A folder that another process prunes right before a file is opened."""

        def open(self, name):
            AnswerFolder(store, max_age=timedelta(days=1)).prune()
            return super().open(name)

    assert run(accounts(5), day=2, reuse=AnswerFolder(store, storage_of=Pruned))["reused"] == 4
    assert org.applied() == 6


def test_answers_that_are_pruned_while_a_batch_merges_them_stay_removed(run, store, monkeypatch):
    monkeypatch.setattr("airflow_provider_agentforce.batch.answer_folder._MOST_FILES", 2)
    for day in range(3):
        run(accounts(day + 1), day=day)
    for path in files(store):
        path.write_text(path.read_text().replace('"at": "20', '"at": "10'))
    pruner, removed = AnswerFolder(store, max_age=timedelta(days=1)), []

    class Pruned(LocalStorage):
        """A folder that another process prunes right after a file is written."""

        def write(self, name, content):
            super().write(name, content)
            removed.append(pruner.prune())

    run(accounts(4), day=9, reuse=AnswerFolder(store, storage_of=Pruned))
    assert sum(removed) >= 3
    assert pruner.prune() == 0


def test_a_store_that_cannot_be_read_ends_the_batch_before_anything_is_sent(org, run, store):
    run(accounts(1))
    path = files(store)[0]
    path.unlink()
    path.mkdir()
    with pytest.raises(LedgerError, match=r"earlier answers in .* cannot be read") as caught:
        run(accounts(2), day=2)
    assert "Nothing was sent" in str(caught.value)
    assert org.applied() == 1


class Full(LocalStorage):
    """A folder on a disk that is full."""

    def write(self, name, content):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_answers_that_cannot_be_kept_are_kept_by_the_next_try(org, run, store):
    with pytest.raises(LedgerError, match="cannot be stored") as caught:
        run(accounts(2), reuse=AnswerFolder(store, storage_of=Full))
    assert "the next try stores them without asking again" in str(caught.value)
    assert run(accounts(2))["messages"] == 2
    assert run(accounts(2), day=2)["reused"] == 2
    assert org.applied() == 2


def test_a_dry_run_counts_what_would_be_reused(org, run, client, store, tmp_path):
    run(accounts(5))
    before = org.count("start")
    dry = job(client, tmp_path / "dry", accounts(8), reuse=AnswerFolder(store), credits_per_message=2)
    plan = dry.plan()
    assert (plan["records"], plan["reused"], plan["messages"], plan["sessions"]) == (8, 5, 3, 3)
    assert plan["credits"] == 6
    assert "use an earlier answer            5" in plan["summary"]
    assert org.count("start") == before


def test_a_dry_run_counts_the_second_questions_about_reused_answers(org, run, client, store, tmp_path):
    known, given = accounts(20), {"agreement_share": 0.1, "credits_per_message": 2}
    run(known)
    for day, records in enumerate((known, [*known, {"id": "N", "name": "n" * 1000}]), 2):
        before = org.applied()
        dry = job(client, tmp_path / f"dry-{day}", records, reuse=AnswerFolder(store), **given).plan()
        manifest = run(records, day=day, agreement_share=0.1)
        sent = asked_again(org, before)
        counts = ("messages", "sessions")
        assert [dry[name] for name in counts] == [manifest[name] for name in counts] == [sent, sent]
        assert dry["credits"] == 2 * sent
        assert dry["characters"]


def test_a_batch_that_is_killed_at_any_step_of_the_store_asks_nothing_again(
    org, fields, run, tmp_path, store
):
    """Kill it before each access to the store, and amid each file."""
    run(accounts(2))
    for step in itertools.count():
        own, day, before = tmp_path / f"answers-{step}", f"killed-{step}", org.applied()
        shutil.copytree(store, own)
        given = {"answers": str(own), "answers_until": step}
        process = in_a_process(fields, tmp_path / f"day-{day}", accounts(4), **given)
        if process.wait() == 0:
            break
        assert process.returncode == -signal.SIGKILL
        assert run(accounts(4), day=day, reuse=AnswerFolder(own))["counts"] == {"answered": 4}
        assert org.applied() == before + 2
        lines = [line for path in files(own) for line in path.read_text().splitlines()]
        assert len({json.loads(line)["question"] for line in lines}) == 4
        assert len(lines) in {4, 6}
    assert step > 5


def test_a_batch_that_was_killed_while_it_asked_keeps_all_answers(org, gate, fields, run, tmp_path, store):
    gate.after = 5
    process = in_a_process(fields, tmp_path / "day-1", accounts(20), answers=str(store), max_concurrency=1)
    assert gate.reached.wait(60)
    process.kill()
    process.wait()
    gate.open.set()
    gate.after = None
    assert run(accounts(20))["counts"] == {"answered": 19, "unknown": 1}
    assert run(accounts(20), day=2)["reused"] == 19
