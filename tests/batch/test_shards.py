"""A batch that several tasks share: each record in one of them, the limits between them, one result."""

import csv
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from batches import IDENTITY, accounts, in_a_process, job, rows

from airflow_provider_agentforce.batch.continuation import Handover
from airflow_provider_agentforce.batch.merging import merge
from airflow_provider_agentforce.batch.sample import Sample
from airflow_provider_agentforce.batch.shard import Shard
from airflow_provider_agentforce.batch.storage import CHECKPOINT, LocalStorage
from airflow_provider_agentforce.exceptions import AgentforceInputError, BatchFailedError, LedgerError

ACCOUNTS = accounts(40)


def never():
    return False


def shard_of(text):
    shard = Shard.read(text)
    return {"shard": shard, "identity": {"task instance": f"dag/run/task/{shard.number}"}}


def run(client, folder, text, records=ACCOUNTS, **replaced):
    own = folder / Shard.read(text).folder
    return job(client, own, records, **shard_of(text), **replaced).run(killed=never)


def read_csv(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def asked(org):
    return Counter(request.body["message"]["text"] for request in org.requests if request.operation == "send")


def test_each_record_falls_to_one_shard_in_every_process_and_a_share_of_them_to_each():
    code = (
        "from airflow_provider_agentforce.batch.shard import Shard;"
        "print([n for i in range(1000) for n in range(5) if Shard(n, 5).takes(f'A{i}')])"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(told) == 1
    found = json.loads(told.pop())
    assert len(found) == 1000
    assert all(160 <= number <= 240 for number in Counter(found).values())
    # The same forever: the next try may run another version.
    assert found[:12] == [n for i in range(12) for n in range(5) if Shard(n, 5).takes(f"A{i}")]


@pytest.mark.parametrize("key", ["id", None])
def test_shards_ask_each_record_once_and_their_results_become_one(org, make_client, folder, key):
    manifests = [run(make_client(), folder, f"{n}/3", key=key) for n in range(3)]
    assert asked(org) == Counter({f"Tell me of {one['name']}.": 1 for one in ACCOUNTS})
    assert all(0 < one["records"] < 40 for one in manifests)
    merged = merge(reversed(manifests), Path)
    assert merged["records"] == 40
    assert merged["counts"] == {"answered": 40}
    assert merged["sessions"] == merged["messages"] == 40
    assert merged["result_path"] == str(folder)
    assert merged["dead_letter"] is None
    keys = {one["id"] for one in ACCOUNTS} if key else set(range(40))
    assert set(rows(folder)) == keys
    table = read_csv(folder / "results.csv")
    assert {(row["name"], row["status"]) for row in table} == {
        (f"account-{n}", "answered") for n in range(40)
    }


def test_the_fields_that_only_one_shard_has_are_columns_of_the_merged_table(org, make_client, folder):
    records = [{**one, **({"only": "here"} if n == 7 else {})} for n, one in enumerate(ACCOUNTS)]
    merge([run(make_client(), folder, f"{n}/3", records) for n in range(3)], Path)
    table = read_csv(folder / "results.csv")
    assert [row["key"] for row in table if row["only"] == "here"] == ["A7"]


def test_failed_records_of_all_shards_make_one_dead_letter_in_the_form_of_the_input(
    org, make_client, folder, tmp_path
):
    source = tmp_path / "in.csv"
    source.write_text("id,name\n" + "".join(f"A{n},{'' if n % 4 else 'x'}\n" for n in range(40)))
    message = "{{ record.name if record.name else none.none }}"
    manifests = [
        run(make_client(), folder, f"{n}/3", None, source_path=source, message=message) for n in range(3)
    ]
    merged = merge(manifests, Path)
    assert merged["counts"] == {"answered": 10, "failed": 30}
    assert Path(merged["dead_letter"]).name == "dead_letter.csv"
    failed = read_csv(Path(merged["dead_letter"]))
    assert sorted(row["id"] for row in failed) == sorted(f"A{n}" for n in range(40) if n % 4)


def test_samples_and_agreements_of_all_shards_are_joined(org, make_client, folder):
    how = {"sample": Sample(2), "begins": Handover(IDENTITY, {}), "agreement_share": 0.5}
    merged = merge([run(make_client(), folder, f"{n}/3", ACCOUNTS[:9], **how) for n in range(3)], Path)
    sizes = merged["sample"]["size"], merged["sample"]["remaining"], len(merged["sample"]["preview"])
    assert sizes == (merged["records"], 9 - merged["records"], merged["records"])
    agreement = merged["agreement"]
    assert (agreement["records"], agreement["share"], agreement["fields"]) == (3, 1.0, {"text": 1.0})
    assert len(Path(agreement["results"]).read_text().splitlines()) == 3
    assert org.applied() == merged["messages"] == merged["records"] + 3


def test_a_merged_table_has_the_fields_of_all_records_before_those_of_the_rows(make_client, folder):
    given = [{**one, f"only_{one['id']}": 1} for one in ACCOUNTS[:6]]
    merge([run(make_client(), folder, f"{n}/3", given) for n in range(3)], Path)
    header = (folder / "results.csv").read_text(encoding="utf-8").splitlines()[0].split(",")
    begin = header.index("key")
    assert {f"only_{one['id']}" for one in given} <= set(header[:begin])
    assert header[begin + 1 :][-1] == "agent_version"


def test_a_shard_without_records_has_no_sample_and_nothing_to_compare(org, make_client, folder):
    how = {"sample": Sample(2), "begins": Handover(IDENTITY, {}), "agreement_share": 0.5}
    manifests = [run(make_client(), folder, f"{n}/4", ACCOUNTS[:1], **how) for n in range(4)]
    assert sorted(one["sample"]["size"] for one in manifests) == [0, 0, 0, 1]
    assert merge(manifests, Path)["agreement"]["records"] == 1


def test_a_shard_without_records_is_done(org, make_client, folder):
    manifests = [run(make_client(), folder, f"{n}/4", ACCOUNTS[:1]) for n in range(4)]
    assert sorted(one["records"] for one in manifests) == [0, 0, 0, 1]
    assert org.applied() == 1
    assert merge(manifests, Path)["counts"] == {"answered": 1}
    assert len(rows(folder)) == 1


def test_an_input_without_records_or_keys_is_refused_by_every_shard(org, make_client, folder):
    with pytest.raises(AgentforceInputError, match="records is empty"):
        run(make_client(), folder, "1/4", [])
    for number in range(4):
        with pytest.raises(AgentforceInputError, match="no record has a value in the field 'nr'"):
            run(make_client(), folder, f"{number}/4", ACCOUNTS, key="nr")
    assert org.count("start") == 0


def test_the_next_try_of_a_killed_shard_asks_only_its_own_records(org, fields, make_client, gate, folder):
    gate.after = 6
    process = in_a_process(
        fields, folder / "shard-0-of-2", ACCOUNTS, shard="0/2", identity=shard_of("0/2")["identity"]
    )
    assert gate.reached.wait(60)
    process.kill()
    process.wait()
    gate.open.set()
    gate.after = None
    before = asked(org)
    first = run(make_client(), folder, "0/2")
    assert set(first["counts"]) == {"answered", "unknown"}
    assert run(make_client(), folder, "1/2")["counts"] == {"answered": 40 - first["records"]}
    assert max(asked(org).values()) == 1
    assert before.keys() <= asked(org).keys()


def test_a_number_of_failures_holds_for_each_shard(org, make_client, folder):
    message = "{{ none.none }}"
    for number in range(2):
        with pytest.raises(BatchFailedError, match="more than max_failures allows"):
            run(make_client(), folder, f"{number}/2", accounts(600), message=message, max_failures=3)


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ("0/2", "0/3", r"has the results of 2 shards.*Use shards\(2\) again"),
        (None, "0/3", "has the results of a batch without shards.*Use no shard again"),
        ("0/2", None, r"has the results of 2 shards"),
    ],
)
def test_another_number_of_shards_in_the_same_folder_is_refused(org, make_client, folder, before, now, told):
    def start(text):
        if text is None:
            return job(make_client(), folder, ACCOUNTS).run(killed=never)
        return run(make_client(), folder, text)

    start(before)
    count = org.count("start")
    with pytest.raises(AgentforceInputError, match=told):
        start(now)
    assert org.count("start") == count


def test_a_dry_run_plans_each_shard_and_binds_to_no_number_of_shards(org, make_client, folder):
    client = make_client()
    plans = [job(client, folder / f"shard-{n}-of-2", ACCOUNTS, **shard_of(f"{n}/2")).plan() for n in range(2)]
    assert sum(plan["messages"] for plan in plans) == 40
    assert run(client, folder, "0/3")["counts"]


@pytest.mark.parametrize("limit", [5, 7, 50, 1000])
def test_the_shares_of_all_shards_make_up_the_limit(limit):
    shares = [Shard(n, 5).share(limit, "max") for n in range(5)]
    assert sum(shares) == limit
    assert max(shares) - min(shares) <= 1


def test_more_shards_than_sessions_are_refused():
    with pytest.raises(AgentforceInputError, match=r"max_concurrent_sessions is 4.*Use shards\(4\) or fewer"):
        Shard(0, 5).share(4, "max_concurrent_sessions")


MANIFEST = {
    "shard": "0/2",
    "result_path": "/a/shard-0-of-2",
    "counts": {"answered": 1},
    "duration": 1.5,
    "agent_versions": [],
    **dict.fromkeys(["records", "sessions", "messages", "resolved", "reused"], 1),
    **dict.fromkeys(["dead_letter", "sample", "agreement", "agent_id"]),
}


@pytest.mark.parametrize(
    ("manifests", "told"),
    [
        ([], "manifests is empty"),
        (None, r"must be the output of a batch mapped over shards\(n\), but is None"),
        ({"shard": "0/2"}, r"must be the output of a batch mapped over shards\(n\)"),
        ([{"records": 3}], r"mapped over shards\(n\)"),
        ([{"shard": "0/2", "results": "r", "result_path": "/a/shard-0-of-2"}], r"mapped over shards\(n\)"),
        ([{**MANIFEST, "shard": None}], r"mapped over shards\(n\)"),
        *(
            ([{**MANIFEST, name: wrong}], r"mapped over shards\(n\)")
            for name in MANIFEST
            for wrong in (object(), {1}, None)
            if wrong is not MANIFEST[name]
        ),
        ([MANIFEST], "shard 1/2 is missing"),
        (
            [{**MANIFEST, "shard": f"{n}/2", "result_path": f"/{n}/shard-{n}-of-2"} for n in range(2)],
            "they are of several batches",
        ),
    ],
)
def test_manifests_that_are_not_all_of_one_batch_are_not_merged(manifests, told):
    with pytest.raises(AgentforceInputError, match=told):
        merge(manifests, Path)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda one, _other: shutil.rmtree(one), "it has no _ledger"),
        (lambda one, _other: shutil.rmtree(one / "_ledger"), "it has no _ledger"),
        (lambda one, _other: (one / "results.jsonl").unlink(), "it has 0 of 4 rows"),
        (lambda one, _other: (one / "results.jsonl").write_text(""), "it has 0 of 4 rows"),
        (lambda one, _other: cut(one / "results.jsonl"), "it has 3 of 4 rows"),
        (lambda one, other: shutil.copy(other / "results.jsonl", one), "it has 6 of 4 rows"),
    ],
)
def test_a_shard_whose_rows_are_not_those_of_its_manifest_is_named(make_client, folder, spoil, told):
    manifests = [run(make_client(), folder, f"{n}/2", ACCOUNTS[:10]) for n in range(2)]
    assert [one["records"] for one in manifests] == [6, 4]
    spoil(folder / "shard-1-of-2", folder / "shard-0-of-2")
    with pytest.raises(AgentforceInputError, match=f"results of shard 1/2: {told}"):
        merge(manifests, Path)
    assert not (folder / "results.jsonl").exists()
    # The remedy that the error names.
    if (folder / "shard-1-of-2" / "_ledger").exists():
        run(make_client(), folder, "1/2", ACCOUNTS[:10])
        assert len(rows(folder / "shard-1-of-2")) == 4
        assert merge(manifests, Path)["records"] == len(rows(folder)) == 10


@pytest.mark.parametrize("wrong", ["x", "[]", "{}", '{"columns": 5}', '{"columns": [[1]], "formats": []}'])
def test_a_file_of_another_program_in_a_shards_ledger_is_named(make_client, folder, wrong):
    manifests = [run(make_client(), folder, f"{n}/2", ACCOUNTS[:4]) for n in range(2)]
    (folder / "shard-1-of-2" / "_ledger" / "tables.json").write_text(wrong)
    with pytest.raises(LedgerError, match=r"tables\.json cannot be read") as caught:
        merge(manifests, Path)
    assert not caught.value.retryable


def test_a_batch_that_is_split_differently_at_the_same_moment_is_refused(org, client, folder):
    class Meanwhile(LocalStorage):
        def prepare(self):
            super().prepare()
            (folder / Shard(0, 3).folder / CHECKPOINT).mkdir(parents=True, exist_ok=True)

    with pytest.raises(AgentforceInputError, match="has the results of 3 shards"):
        run(client, folder, "0/2", storage_of=Meanwhile)
    assert org.count("start") == 0
