"""Where records may come from: folders, patterns, Parquet, functions and iterators."""

import io
import json
from datetime import date, datetime, timezone
from decimal import Decimal
from functools import partial
from types import SimpleNamespace

import pytest
from batches import accounts, job, rows
from upath import UPath

from airflow_provider_agentforce.batch.kept_records import kept
from airflow_provider_agentforce.batch.reader import read_records, survey
from airflow_provider_agentforce.batch.sources import source_of
from airflow_provider_agentforce.batch.storage import LocalStorage, lines_in, storage_of
from airflow_provider_agentforce.exceptions import AgentforceInputError, BatchFailedError, LedgerError

try:
    import pyarrow as pa
    from pyarrow import parquet as pq
except ImportError:
    pa = pq = None

arrow = pytest.mark.skipif(pa is None, reason="pyarrow is not installed")


def never():
    return False


@pytest.fixture
def put(tmp_path):
    """Write files below a folder, and return the folder."""

    def write(**files):
        for name, content in files.items():
            path = tmp_path / "in" / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return tmp_path / "in"

    return write


def records(source):
    return [(record.fields["id"], record.where) for record in read_records(source, "id")]


@pytest.mark.parametrize("body", [b"", b"\n", b"a", b"a\nbb\r\n\n\xe4\xb8\xad", b"\n\na\n"])
@pytest.mark.parametrize("size", [1, 2, 100])
def test_lines_are_the_same_in_whatever_pieces_a_store_gives_a_file(body, size):
    file = io.BytesIO(body)
    pieces = SimpleNamespace(read=lambda _: file.read(size))
    assert list(lines_in(pieces)) == body.splitlines(keepends=True)


def refusal(path, key=None):
    with pytest.raises(AgentforceInputError) as caught:
        survey(source_of(None, path), key)
    return str(caught.value)


# Folders and patterns


def test_the_files_of_a_folder_are_read_by_their_names_and_what_is_marked_as_no_data_is_passed_over(put):
    folder = put(
        b_dot_csv="id\n2\n",
        a_dot_jsonl='{"id": 1}\n',
        _SUCCESS="",
        c_dot_ndjson='{"id": 3}',
        deeper__d_dot_csv="id\n4\n",
    )
    (folder / ".a.crc").write_text("x")
    source = source_of(None, folder)
    assert records(source) == [
        (1, f"line 1 of {folder}/a.jsonl"),
        ("2", f"line 2 of {folder}/b.csv"),
        (3, f"line 1 of {folder}/c.ndjson"),
    ]
    assert (
        b"".join(source.encode(record.line() for record in read_records(source, "id"))).splitlines()[1]
        == b'{"id": "2"}'
    )


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.csv", ["a", "b"]),
        ("a*", ["a"]),
        ("[ab].csv", ["a", "b"]),
        ("?.csv", ["a", "b"]),
        ("**/*.csv", ["a", "b", "x__c", "x__y__d"]),
        ("*/c.csv", ["x__c"]),
    ],
)
def test_a_pattern_stands_for_the_files_that_match_it(put, pattern, found):
    folder = put(**{f"{name}_dot_csv": f"id\n{name}\n" for name in ("a", "b", "x__c", "x__y__d")})
    assert [key for key, _ in records(source_of(None, folder / pattern))] == found


def test_a_pattern_passes_over_what_is_marked_as_no_data_unless_it_names_it(put):
    names = (".h__d", "_tmp__e", "_f", "x__.g", "x__b")
    folder = put(**{f"{name}_dot_csv": f"id\n{name}\n" for name in names})
    for pattern, found in (("**/*.csv", ["x__b"]), ("*/*.csv", ["x__b"]), ("_*.csv", ["_f"])):
        assert [key for key, _ in records(source_of(None, folder / pattern))] == found


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(put):
    folder = put(**{"a[1]_dot_csv": "id\nright\n", "a1_dot_csv": "id\nwrong\n"})
    assert [key for key, _ in records(source_of(None, folder / "a[1].csv"))] == ["right"]


def test_a_folder_or_pattern_without_a_file_or_with_one_of_another_form_is_refused(put):
    folder = put(a_dot_csv="id\n1\n", README="read me")
    assert refusal(folder) == f"records: {folder}/README must end in .jsonl, .ndjson, .csv or .parquet."
    assert refusal(folder / "*.jsonl").startswith(f"records: {folder}/*.jsonl has no file.")
    (folder / "empty").mkdir()
    assert refusal(folder / "empty").startswith(f"records: {folder}/empty has no file.")


def test_a_key_that_two_files_have_is_refused_with_both_places(put):
    folder = put(a_dot_csv="id\n1\n", b_dot_jsonl='{"id": 1}\n')
    assert f"line 1 of {folder}/b.jsonl has the same id as line 2 of {folder}/a.csv: 1" in refusal(
        folder, "id"
    )


def test_a_batch_of_a_folder_has_a_dead_letter_that_is_the_next_input(put, org, client, folder, tmp_path):
    given = put(a_dot_csv="id,name\n1,Acme\n2\n", b_dot_jsonl='{"id": 3, "name": ["x"]}\n{"id": 4}\n')
    manifest = job(client, folder, None, source_path=given).run(killed=never)
    assert manifest["counts"] == {"answered": 2, "failed": 2}
    letter = source_of(None, folder / "dead_letter.jsonl")
    assert [record.fields for record in read_records(letter, "id")] == [{"id": "2"}, {"id": 4}]
    again = job(
        client, tmp_path / "2", None, source_path=folder / "dead_letter.jsonl", message="{{ record.id }}"
    )
    assert again.run(killed=never)["counts"] == {"answered": 2}


def test_a_batch_does_not_read_a_folder_into_which_it_writes(org, client, folder):
    folder.mkdir()
    (folder / "results.csv").write_text("id\n1\n")
    with pytest.raises(AgentforceInputError, match="is a file that this batch writes"):
        job(client, folder, None, source_path=folder).run(killed=never)
    assert org.requests == []


@pytest.mark.parametrize("pattern", ["", "*.csv", "r*s.jsonl", "**/*.csv"])
def test_a_batch_does_not_write_where_its_next_try_would_read(put, org, client, pattern):
    folder = put(a_dot_csv="id\n1\n", ran_dots_dot_jsonl='{"id": 2}\n')
    given = folder / pattern if pattern else folder
    with pytest.raises(AgentforceInputError, match="is a file that this batch writes"):
        job(client, folder, None, source_path=given).run(killed=never)
    assert org.requests == []
    below = job(client, folder / "results", None, source_path=folder / "[a].csv", message="{{ record.id }}")
    assert below.run(killed=never)["counts"] == {"answered": 1}


class InBucket:
    """A path in a bucket, whose root is its own parent, as with s3fs."""

    def __init__(self, name):
        self.name = name

    def __str__(self):
        return f"s3://buck*t/{self.name}"

    @property
    def parent(self):
        return InBucket("")

    def is_dir(self):
        return False

    exists = is_dir


def test_a_pattern_in_the_name_of_a_bucket_is_refused():
    with pytest.raises(AgentforceInputError, match=r"buck\*t/a.csv has a pattern in the name of its bucket"):
        source_of(None, InBucket("a.csv"))


def test_a_dead_letter_of_wide_records_has_their_fields(put, client, folder):
    names = [f"f{number}" for number in range(300)]
    given = put(a_dot_csv=f"id,{','.join(names)}\n1,{','.join(names)}\n2,x\n") / "a.csv"
    with pytest.raises(BatchFailedError):
        job(client, folder, None, source_path=given, message="{{ record.nothing }}").run(killed=never)
    assert (folder / "dead_letter.csv").read_bytes() == given.read_bytes().replace(b"\n", b"\r\n")


def test_a_file_that_comes_into_the_folder_between_two_tries_makes_another_batch(put, org, client, folder):
    given = put(a_dot_csv="id,name\n1,Acme\n")
    job(client, folder, None, source_path=given).run(killed=never)
    put(b_dot_csv="id,name\n2,Globex\n")
    with pytest.raises(AgentforceInputError, match="What differs: records"):
        job(client, folder, None, source_path=given).run(killed=never)
    assert org.applied() == 1


# Parquet


@pytest.fixture
def parquet(tmp_path):
    """Write a table and return its path."""

    def write(columns, **options):
        path = tmp_path / "a.parquet"
        made = columns if isinstance(columns, pa.Table) else pa.table(columns)
        pq.write_table(made, path, **options)
        return path

    return write


@arrow
def test_parquet_with_nested_values_becomes_what_json_has(parquet):
    moment = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=timezone.utc)
    path = parquet(
        {
            "id": [1, 2],
            "name": ["Öl", None],
            "day": [date(2026, 1, 2), None],
            "moment": pa.array([moment, None], pa.timestamp("ns", "UTC")),
            "price": [Decimal("1.50"), None],
            "share": [0.5, float("nan")],
            "nested": [{"a": [1, None], "b": {"c": "x"}}, None],
            "map": pa.array([[("k", moment)], []], pa.map_(pa.string(), pa.timestamp("ns", "UTC"))),
            "list": pa.array([[moment], []], pa.list_(pa.timestamp("ns", "UTC"))),
            "kind": pa.array(["x", "y"]).dictionary_encode(),
        }
    )
    text = "2026-01-02T03:04:05.000678+00:00"
    first, second = [record.fields for record in read_records(source_of(None, path), None)]
    assert first == {
        "id": 1,
        "name": "Öl",
        "day": "2026-01-02",
        "moment": text,
        "price": "1.50",
        "share": 0.5,
        "nested": {"a": [1, None], "b": {"c": "x"}},
        "map": {"k": text},
        "list": [text],
        "kind": "x",
    }
    assert second == {**dict.fromkeys(first), "id": 2, "map": {}, "list": [], "kind": "y"}


@arrow
def test_a_batch_of_parquet_has_a_dead_letter_with_the_same_messages(parquet, org, client, folder, tmp_path):
    path = parquet({"id": [1, 2], "day": [date(2026, 1, 2)] * 2, "name": ["Acme", None]}, row_group_size=1)
    message = "{{ record.id }} on {{ record.day }}: {{ record.name or fail }}"
    assert job(client, folder, None, source_path=path, message=message).run(killed=never)["counts"] == {
        "answered": 1,
        "failed": 1,
    }
    again = job(
        client, tmp_path / "2", None, source_path=folder / "dead_letter.jsonl", message="{{ record.day }}"
    )
    again.run(killed=never)
    assert [rows(one)[key]["text"] for one, key in ((folder, 1), (tmp_path / "2", 2))] == [
        "This is about: 1 on 2026-01-02: Acme",
        "This is about: 2026-01-02",
    ]


@arrow
def test_parquet_that_cannot_be_read_as_records_is_refused_with_its_place(parquet, tmp_path):
    bad = tmp_path / "bad.parquet"
    bad.write_bytes(b"PAR1 nothing PAR1")
    assert refusal(bad).startswith(f"records: {bad} cannot be read as Parquet (")
    assert "row 2, because of the field 'raw', cannot be written" in refusal(
        parquet({"id": [1, 2], "raw": [None, b"x"]})
    )
    same = pa.table([[1], [2]], names=["id", "id"])
    assert "column 2, 'id', is the same as column 1" in refusal(parquet(same))
    finer = pa.table({"at": pa.array([1], pa.timestamp("ns"))})
    assert "would lose data" in refusal(parquet(finer))
    twice = pa.table({"m": pa.array([[("a", 1), ("a", 2)]], pa.map_(pa.string(), pa.int64()))})
    assert "cannot be read as Parquet" in refusal(parquet(twice))
    assert "is empty" in refusal(parquet({"id": []}))


# Functions and iterators


def test_what_a_function_gives_is_kept_for_the_next_try(org, make_client, folder):
    calls = []

    def give():
        calls.append(1)
        return ({"id": number, "name": f"of call {len(calls)}"} for number in range(3))

    job(make_client(), folder, give).run(killed=never)
    assert job(make_client(), folder, give).run(killed=never)["counts"] == {"answered": 3}
    assert calls == [1]
    assert rows(folder)[2]["record"] == {"id": 2, "name": "of call 1"}
    assert org.applied() == 3


@pytest.mark.parametrize("kind", ["local", "object store"])
def test_of_two_tries_at_once_the_first_decides_for_both(tmp_path, kind):
    folder = tmp_path if kind == "local" else UPath(f"memory://{tmp_path.name}/ledger")
    storage = storage_of(folder)
    read = partial(kept, folder=folder, storage=storage, identity={"task instance": "1"})

    def slow():
        yield {"id": "slow"}
        assert fields(read(lambda: [{"id": "fast"}])) == [{"id": "fast"}]

    assert fields(read(slow)) == [{"id": "fast"}]
    assert fields(read(lambda: [{"id": "late"}])) == [{"id": "fast"}]
    assert len(storage.names()) == 2
    (index,) = (name for name in storage.names() if name.endswith(".json"))
    storage.write(index, lambda: [b'{"fi'])
    assert fields(read(lambda: [{"id": "again"}])) == [{"id": "again"}]
    assert len(storage.names()) == 2


def fields(source):
    return [record for _, record in source.rows()]


def test_an_iterator_is_read_once_and_every_try_sees_the_same(org, make_client, folder):
    given = iter(accounts(3))
    assert job(make_client(), folder, given).run(killed=never)["counts"] == {"answered": 3}
    assert job(make_client(), folder, given).run(killed=never)["counts"] == {"answered": 3}
    assert org.applied() == 3
    assert list(rows(folder)) == ["A0", "A1", "A2"]


def test_what_a_function_raises_comes_through_and_the_next_try_calls_it_again(org, make_client, folder):
    calls = []

    def give():
        yield {"id": "A", "name": "x"}
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("the warehouse is away")
        yield {"id": "B", "name": "y"}

    with pytest.raises(RuntimeError, match="the warehouse is away"):
        job(make_client(), folder, give).run(killed=never)
    assert org.requests == []
    assert job(make_client(), folder, give).run(killed=never)["counts"] == {"answered": 2}


class Halved(LocalStorage):
    """A store that fails in the middle of a file and keeps its beginning, ``left`` times."""

    left = 1

    def write(self, name, content):
        if name.startswith("records-") and name.endswith(".jsonl") and Halved.left:
            Halved.left -= 1
            super().write(name, lambda: [next(iter(content()))])
            raise OSError("the store is away")
        super().write(name, content)


def test_records_of_which_a_store_has_kept_the_beginning_are_not_taken_for_all(
    org, make_client, folder, monkeypatch
):
    monkeypatch.setattr(Halved, "left", 1)

    def give():
        return accounts(3)

    with pytest.raises(LedgerError, match="the store is away"):
        job(make_client(), folder, give, storage_of=Halved).run(killed=never)
    assert org.requests == []
    assert job(make_client(), folder, give).run(killed=never)["counts"] == {"answered": 3}


def test_a_function_in_the_folder_of_another_batch_is_refused_and_harms_nothing(org, make_client, folder):
    job(make_client(), folder, lambda: accounts(2)).run(killed=never)
    with pytest.raises(AgentforceInputError, match="has the results of another batch"):
        job(make_client(), folder, lambda: accounts(3), identity={"task instance": "another"}).run(
            killed=never
        )
    assert job(make_client(), folder, lambda: accounts(5)).run(killed=never)["counts"] == {"answered": 2}
    assert json.loads((folder / "results.jsonl").read_text().splitlines()[0])["record"] == accounts(1)[0]
    assert org.applied() == 2


# An input that changes while the batch runs


def _other_keys(lines):
    return [line.replace('"A', '"B') for line in lines]


def _other_contents(lines):
    return [line.replace("account", "person") for line in lines]


def _fewer(lines):
    return lines[:-7]


def _more(lines):
    return [*lines, '{"id": "N1", "name": "new"}\n']


def _inserted(lines):
    return ['{"id": "N1", "name": "new"}\n', *lines]


@pytest.mark.parametrize("change", [_other_keys, _other_contents, _fewer, _more, _inserted])
@pytest.mark.parametrize("key", ["id", None])
def test_an_input_that_changed_after_it_was_checked_is_noticed_and_nothing_of_it_is_lost(
    client, org, folder, put, change, key
):
    lines = [json.dumps(one) + "\n" for one in accounts(20)]
    path = put(a_dot_jsonl="".join(lines)) / "a.jsonl"

    def batch(**given):
        return job(client, folder, str(path), source_path=path, key=key, **given).run(killed=never)

    def changed(_began):
        path.write_text("".join(change(lines)))

    with pytest.raises(AgentforceInputError, match="the input has changed since this try began") as caught:
        batch(check_folder=changed)
    assert 'choose another result_path, or set on_change="continue"' in str(caught.value)
    with pytest.raises(AgentforceInputError, match="What differs: records"):
        batch()
    path.write_text("".join(lines))
    assert batch()["counts"] == {"answered": 20}
    assert all(org.applied(f"Tell me of {one['name']}.") == 1 for one in accounts(20))
    assert org.applied() == 20


@pytest.mark.parametrize("at", [0, 49])
def test_what_is_on_its_way_when_the_input_changes_is_answered(make_org, make_client, folder, put, at):
    """Change it at the first message, and at the last one before the second requests of the agreement."""
    # A file of many buffers.
    lines = [json.dumps({**one, "more": "x" * 1000}) + "\n" for one in accounts(50)]
    path = put(a_dot_jsonl="".join(lines)) / "a.jsonl"

    def script(turn):
        if org.applied() == at:
            path.write_text("".join(_other_contents(lines)))
        return "Yes."

    org = make_org(script=script)
    client = make_client(org)

    def batch():
        given = {"source_path": path, "agreement_share": 0.1, "max_concurrency": 1}
        return job(client, folder, str(path), **given).run(killed=never)

    with pytest.raises(AgentforceInputError, match="the input has changed"):
        batch()
    assert at < org.applied() <= 50
    path.write_text("".join(lines))
    assert batch()["counts"] == {"answered": 50}
    assert org.applied() == 55
