"""The results as people open them: in a spreadsheet, in pandas, in DuckDB, by Python's own readers."""

import csv
import importlib
import importlib.util
import json

import pytest
from batches import accounts, job, rows

from airflow_provider_agentforce.exceptions import AgentforceInputError, BatchFailedError

needs = {
    name: pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed")
    for name in ("duckdb", "pandas", "pyarrow")
}
ROW = [
    *("key", "status", "text", "outcome", "session_id", "sequence_id"),
    *("error", "applied", "attempts", "started_at", "duration", "external_session_key", "agent_version"),
]
INDUSTRY = {
    "type": "object",
    "properties": {
        "industry": {"type": "string"},
        "size": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "sure": {"type": "boolean"},
        "tags": {"type": "array"},
    },
}
TAGS = ["a", {"b": None}]
# Fields of all kinds, some of which are missing or have names that other columns have.
MIXED = [
    {"id": 1, "name": "Acme", "price": 1, "open": True, "answer": "mine", "status": "old", "tags": TAGS},
    {"id": 2, "Text": 'a "b",\r\nc', "price": 2.5, "open": None, "record_status": "other", "key": "k"},
    {"id": 3, "name": "", "key": 7, "big": 2**63, "long": 2**53 + 1, "NAME": "loud"},
]
COLUMNS = [
    *("id", "name", "price", "open", "answer", "record_status_2", "tags", "record_Text", "record_status"),
    *("record_key", "big", "long", "record_NAME"),
]


def never():
    return False


def asked(client, folder, records, **replaced):
    """Run a batch and return its manifest."""
    batch = job(client, folder, records, **{"message": "Tell me of {{ record.id }}.", **replaced})
    return batch.run(killed=never)


def table(folder, **options):
    with (folder / "results.csv").open(encoding="utf-8", newline="", **options) as file:
        header, *lines = csv.reader(file, strict=True)
    return header, [dict(zip(header, line, strict=True)) for line in lines]


@pytest.fixture
def typed(make_org, make_client):
    """Give a client of an agent that answers as INDUSTRY asks."""
    answer = {"industry": "=Banks", "size": 7, "sure": True, "tags": ["x"], "more": 1}
    return make_client(make_org(script=lambda turn: json.dumps(answer)))


def test_a_table_has_the_records_own_fields_then_the_row_and_no_two_columns_are_called_alike(client, folder):
    manifest = asked(client, folder, MIXED)
    header, lines = table(folder)
    assert header == [*COLUMNS, *ROW]
    assert len({name.casefold() for name in header}) == len(header)
    first, second, third = lines
    assert [first[name] for name in ("id", "price", "open", "tags")] == [
        "1",
        "1",
        "true",
        '["a", {"b": null}]',
    ]
    assert [first[name] for name in ("answer", "record_status_2", "status")] == ["mine", "old", "answered"]
    assert [second[name] for name in ("record_Text", "record_key", "key", "record_status")] == [
        *('a "b",\r\nc', "k", "2", "other")
    ]
    assert second["text"] == "This is about: Tell me of 2."
    assert [third[name] for name in ("big", "long", "record_NAME")] == [str(2**63), str(2**53 + 1), "loud"]
    assert manifest["tables"] == {form: str(folder / f"results.{form}") for form in ("csv", "jsonl")}


def test_json_lines_have_the_record_in_a_field_of_its_own_as_it_is(client, folder):
    asked(client, folder, MIXED)
    assert [row["record"] for row in rows(folder).values()] == MIXED


def test_the_fields_of_a_typed_answer_are_columns(typed, folder):
    asked(typed, folder, accounts(2), output_type=INDUSTRY)
    header, lines = table(folder)
    at = header.index("result")
    assert header[at : at + 5] == ["result", *(f"result_{name}" for name in INDUSTRY["properties"])]
    assert [lines[0][name] for name in header[at + 1 : at + 5]] == ["'=Banks", "7", "true", '["x"]']
    assert json.loads(lines[0]["result"])["more"] == 1


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        (" \r\n =1", "' \r\n =1"),
        ("\uff1d1+1", "'\uff1d1+1"),
        ("\ufeff=1", "'\ufeff=1"),
        ("-5", "-5"),
        ("+4930123", "+4930123"),
        ("-1,234.5e-7", "-1,234.5e-7"),
        (-5, "-5"),
        ("a=1", "a=1"),
        ('a";,\n=1', 'a";,\n=1'),
        ("", ""),
        ("\x00\ud800", "\ufffd\ufffd"),
    ],
)
def test_no_cell_of_csv_is_a_formula_and_numbers_are_left_alone(client, folder, value, cell):
    asked(client, folder, [{"id": 1, "value": value, "=name": "x"}])
    header, (line,) = table(folder)
    assert line["value"] == cell
    assert "'=name" in header


def test_an_answer_is_no_formula_either_and_stays_as_it_is_in_json_lines(make_org, make_client, folder):
    words = '=HYPERLINK("http://x.test")'
    asked(make_client(make_org(script=lambda turn: words)), folder, accounts(1))
    assert table(folder)[1][0]["text"] == f"'{words}"
    assert rows(folder)["A0"]["text"] == words


def test_a_byte_order_mark_comes_on_request_and_tables_that_are_not_wanted_go(client, folder):
    asked(client, folder, accounts(1), csv_bom=True)
    assert (folder / "results.csv").read_bytes().startswith(b"\xef\xbb\xbfid,")
    manifest = asked(client, folder, accounts(1), output_formats=())
    assert manifest["tables"] == {}
    assert sorted(one.name for one in folder.glob("results.*")) == ["results.jsonl"]


def test_records_are_left_out_on_request(client, folder):
    asked(client, folder, [{"id": 1, "secret": "s3cret"}], include_record=False)
    assert table(folder)[0] == ROW
    for path in folder.rglob("*"):
        assert path.is_dir() or b"s3cret" not in path.read_bytes()


def test_two_thousand_fields_are_two_thousand_columns(client, folder):
    wide = [{"id": number, **{f"field {index}": index for index in range(2000)}} for number in range(3)]
    asked(client, folder, wide)
    header, lines = table(folder)
    assert header[:2001] == list(wide[0])
    assert lines[2]["field 1999"] == "1999"


def test_fields_without_end_stand_in_one_column(client, folder):
    asked(
        client,
        folder,
        [{"id": number, **{f"{number}-{index}": 1 for index in range(2000)}} for number in range(4)],
    )
    header, lines = table(folder)
    assert len(header) == 5001 + len(ROW)
    assert len(json.loads(lines[3]["other_fields"])) == 2000
    assert lines[0]["other_fields"] == ""


def test_every_try_writes_the_whole_table_in_the_order_of_the_input(make_org, make_client, folder):
    org = make_org()
    org.fail("start", status=503, times=2 * 3 * 3)
    given = accounts(2)
    with pytest.raises(BatchFailedError):
        asked(make_client(org), folder, given)
    assert [line["name"] for line in table(folder)[1]] == [one["name"] for one in given]
    asked(make_client(org), folder, given)
    assert [(line["name"], line["status"]) for line in table(folder)[1]] == [
        (one["name"], "answered") for one in given
    ]


def test_skipped_records_are_in_the_table_and_the_next_try_asks_them(make_org, make_client, folder):
    failing = [True]
    org = make_org(script=lambda turn: {"type": "Failure", "errors": ["no"]} if failing else "Fine.")
    given = accounts(30)
    with pytest.raises(BatchFailedError, match="the rest was skipped"):
        asked(make_client(org), folder, given, max_failures=0, max_concurrency=1)
    _, lines = table(folder)
    assert [line["name"] for line in lines] == [one["name"] for one in given]
    assert lines[-1]["status"] == "skipped"
    letter = [json.loads(line) for line in (folder / "dead_letter.jsonl").read_text().splitlines()]
    assert letter == given
    failing.clear()
    manifest = asked(make_client(org), folder, given)
    done = sum(manifest["counts"].values()) - manifest["counts"].get("failed", 0)
    assert manifest["counts"]["answered"] == done
    assert "skipped" not in manifest["counts"]


@needs["pyarrow"]
def test_parquet_has_the_types_of_the_values(typed, folder):
    parquet = importlib.import_module("pyarrow.parquet")
    manifest = asked(typed, folder, MIXED, output_type=INDUSTRY, output_formats=["parquet"])
    found = parquet.read_table(folder / "results.parquet")
    assert manifest["tables"] == {"parquet": str(folder / "results.parquet")}
    kinds = {field.name: str(field.type) for field in found.schema}
    assert list(kinds)[: len(COLUMNS)] == COLUMNS
    assert [kinds[name] for name in ("id", "price", "open", "tags", "record_key", "big", "long")] == [
        *("int64", "double", "bool", "string", "string", "string", "int64")
    ]
    assert [kinds[name] for name in ("key", "applied", "result_size", "result_sure")] == [
        *("int64", "bool", "int64", "bool")
    ]
    first, second, third = found.to_pylist()
    assert (first["tags"], second["price"], second["open"]) == ('["a", {"b": null}]', 2.5, None)
    assert (second["record_key"], third["record_key"], third["long"]) == ("k", "7", 2**53 + 1)
    assert (first["result_industry"], first["result_size"], first["sequence_id"]) == ("=Banks", 7, 1)


@needs["pyarrow"]
def test_a_table_holds_the_rows_of_earlier_records_too(client, folder):
    parquet = importlib.import_module("pyarrow.parquet")
    asked(client, folder, [{"id": "1", "value": "text", "old": True}])
    changed = [{"id": 1, "value": 5}, {"id": 2, "value": 6}]
    for _ in range(2):
        asked(client, folder, changed, output_formats=["csv", "parquet"], changes_allowed=True)
        found = parquet.read_table(folder / "results.parquet")
        assert [found[name].to_pylist() for name in ("value", "old", "key")] == [
            ["text", "6"],
            [True, None],
            ["1", "2"],
        ]
        assert [line["old"] for line in table(folder)[1]] == ["true", ""]
    assert rows(folder)["1"]["record"] == {"id": "1", "value": "text", "old": True}


def test_no_two_columns_of_csv_have_one_name_after_formulas_are_escaped(client, folder):
    asked(client, folder, [{"id": 1, "=a": "x", "'=a": "y"}])
    (line,) = table(folder)[1]
    assert (line["'=a"], line["'=a_2"]) == ("x", "y")


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is not None, reason="pyarrow is installed")
def test_parquet_without_pyarrow_is_refused_before_anything_is_sent(org, client, folder):
    with pytest.raises(AgentforceInputError, match=r"needs pyarrow.*agentforce\[parquet\]"):
        asked(client, folder, accounts(1), output_formats=["parquet"])
    assert org.requests == []


@needs["pandas"]
@needs["pyarrow"]
def test_pandas_reads_every_table(client, folder):
    pandas = importlib.import_module("pandas")
    asked(client, folder, MIXED, output_formats=["csv", "jsonl", "parquet"])
    by_csv = pandas.read_csv(folder / "results.csv")
    by_lines = pandas.read_json(folder / "results.jsonl", lines=True)
    by_parquet = pandas.read_parquet(folder / "results.parquet")
    assert list(by_csv.columns) == list(by_parquet.columns) == [*COLUMNS, *ROW]
    assert by_csv["price"].tolist()[:2] == by_parquet["price"].tolist()[:2] == [1, 2.5]
    assert by_csv["record_Text"].tolist()[1] == by_parquet["record_Text"].tolist()[1] == MIXED[1]["Text"]
    assert by_lines["text"].tolist() == by_csv["text"].tolist() == by_parquet["text"].tolist()
    assert by_lines["record"][0] == MIXED[0]


@needs["duckdb"]
@needs["pyarrow"]
def test_duckdb_reads_every_table(client, folder):
    duckdb = importlib.import_module("duckdb")
    formats = ["csv", "jsonl", "parquet"]
    # Without the record that has both name and NAME: in JSON Lines DuckDB reads only one of them.
    asked(client, folder, MIXED[:2], output_formats=formats)
    for form in formats:
        open_ = getattr(duckdb, f"read_{form.replace('jsonl', 'json')}")
        found = open_(str(folder / f"results.{form}")).order("key")
        texts = found.project("text, status").fetchall()
        assert texts == [(f"This is about: Tell me of {number}.", "answered") for number in (1, 2)]
        if form != "jsonl":
            assert found.columns[-len(ROW) :] == ROW
            assert found.project("price, record_Text").fetchall()[1] == (2.5, MIXED[1]["Text"])
