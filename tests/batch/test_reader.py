"""The input of a batch: what is read of lists, JSON Lines and CSV, and what is refused with which words."""

import csv
import json
import os
import subprocess
import sys
import tempfile
import tracemalloc
from collections import UserList
from datetime import date
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_agentforce.batch.reader import read_records, survey
from airflow_provider_agentforce.batch.sources import ListSource, source_of
from airflow_provider_agentforce.exceptions import AgentforceInputError


class Array:
    """As an array or a number of numpy."""

    __module__ = "numpy"

    def __init__(self, value):
        self.value = value

    def tolist(self):
        return self.value


BOM = b"\xef\xbb\xbf"
alike = settings(database=None, deadline=None, derandomize=True)


@pytest.fixture
def written(tmp_path):
    """Write a file and return the source that reads it."""

    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return source_of(None, path)

    return write


def fields(source):
    return [record.fields for record in read_records(source, None)]


def places(source):
    return [record.where for record in read_records(source, None)]


def refusal(source, key=None):
    with pytest.raises(AgentforceInputError) as caught:
        survey(source, key)
    told = str(caught.value)
    assert told.isprintable()
    assert not caught.value.retryable
    return told


# JSON Lines


def test_json_lines_may_have_blank_lines_windows_ends_and_a_byte_order_mark(written):
    source = written("a.jsonl", BOM + b'{"id": 1}\r\n\n   \n{"id": 2, "name": "\xc3\x96l"}')
    assert fields(source) == [{"id": 1}, {"id": 2, "name": "Öl"}]
    assert places(source) == ["line 1", "line 4"]


def test_a_file_may_be_called_ndjson_or_have_capitals_in_its_suffix(written):
    assert fields(written("a.ndjson", '{"id": 1}\n')) == [{"id": 1}]
    assert fields(written("A.JSONL", '{"id": 1}\n')) == [{"id": 1}]


def test_a_separator_of_unicode_does_not_end_a_line_of_json(written):
    assert fields(written("a.jsonl", '{"name": "a\u2028b\u0085c"}\n')) == [{"name": "a\u2028b\u0085c"}]


def test_a_line_of_five_megabytes_is_read(written):
    text = "x" * 5_000_000
    assert fields(written("a.jsonl", json.dumps({"id": 1, "text": text}))) == [{"id": 1, "text": text}]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{'id': 1}", "line 2 of {path} is not JSON"),
        (b'[{"id": 1},', ": column 1). Write one object per line, not an array."),
        (b'{"id": 1', "line 2 of {path} is not JSON"),
        (b'{"id": 1} {"id": 2}', "line 2 of {path} is not JSON"),
        (b"[1, 2]", "line 2 of {path} must be a JSON object, but is list"),
        (b'"A1"', "line 2 of {path} must be a JSON object, but is str"),
        (b"null", "line 2 of {path} must be a JSON object, but is NoneType"),
        (b'{"name": "\xd6l"}', "line 2 of {path} is not UTF-8"),
        (b'{"a":' * 100_000, "line 2 of {path} is not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "line 2 of {path} is not JSON"),
    ],
)
def test_a_line_that_is_no_record_is_refused_with_its_number(written, tmp_path, line, words):
    told = refusal(written("a.jsonl", b'{"id": 0}\n' + line + b'\n{"id": 9}\n'))
    assert words.format(path=tmp_path / "a.jsonl") in told
    assert len(told) < 300


# CSV


def test_csv_may_have_quotes_commas_line_ends_in_a_field_and_a_byte_order_mark(written):
    source = written(
        "a.csv", BOM + 'id,name,note\r\n1,"Smith, ""Jo""","two\r\nlines"\r\n\r\n2,Öl,last'.encode()
    )
    assert fields(source) == [
        {"id": "1", "name": 'Smith, "Jo"', "note": "two\r\nlines"},
        {"id": "2", "name": "Öl", "note": "last"},
    ]
    assert places(source) == ["line 2", "line 5"]


def test_blank_lines_before_the_header_of_csv_are_passed_over(written):
    source = written("a.csv", "\n\nid\nx\n")
    assert (fields(source), places(source)) == ([{"id": "x"}], ["line 4"])


def test_a_value_that_a_row_of_csv_leaves_out_is_no_field_and_an_empty_one_is_an_empty_text(written):
    assert fields(written("a.csv", "id,name\n1\n2,\n")) == [{"id": "1"}, {"id": "2", "name": ""}]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"id,name\n1,a\n2,b,c\n", "line 3 of {path} has 3 values, and the header names 2"),
        (
            b"id,name,id\n1,a,2\n",
            "the header of {path} needs a different name for each column, but column 3, 'id', is the same",
        ),
        (
            b"id,,name\n1,a,2\n",
            "the header of {path} needs a different name for each column, but column 2, '', is blank",
        ),
        (b"id,name\n1,\xd6l\n", "line 2 of {path} is not UTF-8"),
        (b'id,name\n1,a\n2,"b\n', "is not CSV (unexpected end of data)"),
        (b'id,name\n1,"a"b\n', "line 2 of {path} is not CSV"),
        (b"id,name\n1," + b"x" * 10_000_001 + b"\n", "line 2 of {path} is not CSV (field larger than"),
        (b'id,"a\nERROR done"\n1,2,3\n', "has 3 values, and the header names 2"),
        ("id,name\n1,a\n".encode("utf-16"), "line 1 of {path} is not UTF-8 but UTF-16. Save"),
    ],
)
def test_csv_that_cannot_be_read_as_records_is_refused_with_its_place(written, tmp_path, content, words):
    assert words.format(path=tmp_path / "a.csv") in refusal(written("a.csv", content))


# Empty, missing, of another kind


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl", ""), ("a.jsonl", "\n \n"), ("a.csv", ""), ("a.csv", "id,name\n"), ("a.csv", BOM)],
)
def test_a_file_without_records_is_refused(written, name, content):
    assert refusal(written(name, content)).startswith("records is empty.")


def test_an_empty_list_is_refused():
    assert refusal(source_of([])).startswith("records is empty.")


@pytest.mark.parametrize("name", ["a.json", "a.txt", "a.parq", "a.csv.gz", "accounts"])
def test_a_file_of_another_form_is_refused(tmp_path, name):
    with pytest.raises(AgentforceInputError, match=r"must end in \.jsonl, \.ndjson, \.csv or \.parq"):
        source_of(None, tmp_path / name)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    missing = source_of(None, tmp_path / "a.csv")
    assert refusal(missing) == f"records: the file {tmp_path}/a.csv does not exist."


def fails(error):
    """Return a path whose store fails."""

    class Failing(type(Path())):
        def open(self, _mode):
            raise error

    return Failing("/x/a.csv")


def loop(folder):
    path = folder / "loop.csv"
    path.symlink_to(path)
    return path


@pytest.mark.parametrize(
    ("path", "words", "again"),
    [
        (loop, "cannot be read (OSError: Too many levels of symbolic links)", False),
        (
            lambda folder: folder / ("x" * 300 + ".csv"),
            "x… cannot be read (OSError: File name too long)",
            False,
        ),
        (lambda _: Path("/dev/null/x.csv"), "/dev/null/x.csv cannot be read (NotADirectoryError: Not", False),
        (lambda folder: folder / "a\0.csv", "cannot be read (ValueError: embedded null byte)", False),
        (lambda folder: folder / "a\nERROR done.csv", "a ERROR done.csv does not exist", False),
        (lambda _: fails(RuntimeError("the bucket\nis busy")), "(RuntimeError: the bucket is busy)", True),
        (lambda _: fails(ConnectionResetError(104, "reset by peer")), "(ConnectionResetError: reset", True),
        (lambda _: fails(OSError(5, "Input/output error")), "(OSError: Input/output error)", True),
    ],
)
def test_a_path_that_cannot_be_opened_is_one_clear_error(tmp_path, path, words, again):
    with pytest.raises(AgentforceInputError) as caught:
        survey(source_of(None, path(tmp_path)), "id")
    assert str(caught.value).startswith("records: ")
    assert words in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400
    assert caught.value.retryable is again


def test_a_store_that_fails_while_it_is_read_is_one_clear_error_and_may_be_tried_again():
    class File:
        chunks = iter([b"id\n1\n"])

        def read(self, _size):
            chunk = next(self.chunks, None)
            if chunk is None:
                raise RuntimeError("the store is gone")
            return chunk

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    class Stored(type(Path())):
        def open(self, _mode):
            return File()

    with pytest.raises(AgentforceInputError, match="cannot be read \\(RuntimeError: the store") as caught:
        survey(source_of(None, Stored("/x/a.csv")), "id")
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ('{"id": 2, "id": 3}', "'id'"),
        ('{"id": 2, "x": [{"a": {"b": 1, "c": 2, "b": 1}}]}', "'b'"),
        ('{"id": 2, "a": 1, "\\u0061": 1}', "'a'"),
        ('{"id": 2, "a\\n": 1, "a\\n": 1}', r"'a\n'"),
    ],
)
def test_a_name_twice_in_an_object_is_refused_with_its_line(written, tmp_path, line, name):
    told = refusal(written("a.jsonl", f'{{"id": 1, "x": {{"id": 1}}}}\n{line}\n'), "id")
    where = f"records: line 2 of {tmp_path}/a.jsonl is not JSON"
    assert told == f"{where} (the name {name} occurs twice in an object)."


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_file_in_another_encoding_is_called_what_it_is(written, encoding, name):
    told = refusal(written(name, '{"id": 1}\n'.encode(encoding)))
    assert f"is not UTF-8 but {encoding.upper()}." in told


def test_a_file_that_may_not_be_read_is_refused():
    class Locked(type(Path())):
        def open(self, mode):
            raise PermissionError(13, "Permission denied")

    assert refusal(source_of(None, Locked("/x/a.csv"))) == "records: /x/a.csv may not be read by this task."


@pytest.mark.parametrize("given", [{"id": 1}, 5, None, {1, 2}, b"id", iter([{"id": 1}])])
def test_what_is_no_list_is_refused_by_the_name_of_its_type(given):
    with pytest.raises(AgentforceInputError, match=f"but is {type(given).__name__}"):
        source_of(given)


def test_an_item_that_is_no_dict_is_refused_with_its_place():
    assert refusal(source_of([{"id": 1}, ["id", 2]])) == "records[1] must be a dict, but is list."


@pytest.mark.parametrize("bad", [{"id": 1, 2: "mixed", "2": "up"}, {(1, 2): "a tuple"}])
def test_a_record_that_json_cannot_hold_is_refused_with_its_place(bad):
    told = refusal(source_of([{"id": 0}, bad]))
    assert told.startswith("records: records[1] cannot be written as JSON")


def test_a_record_that_holds_itself_is_refused_with_its_place():
    record = {"id": 1}
    record["self"] = record
    assert "the field 'self', cannot be written as JSON (Circular" in refusal(source_of([record]))


def test_a_sequence_that_is_no_list_is_read_once():
    class Fetched(UserList):
        reads = 0

        def __iter__(self):
            Fetched.reads += 1
            return super().__iter__()

    source = source_of(Fetched([{"id": 1}, {"id": 2}]))
    assert [len(fields(source)), len(fields(source))] == [2, 2]
    assert Fetched.reads == 1


# Keys


def test_without_a_key_the_position_is_the_key(written):
    assert [record.key for record in read_records(written("a.csv", "id\nx\ny\n"), None)] == [0, 1]


def test_a_number_stays_a_number_as_a_key_and_another_thing_becomes_its_text():
    given = [7, 1.5, True, "a", Decimal("1.10"), UUID(int=1), ["x"]]
    keys = [record.key for record in read_records(ListSource([{"id": key} for key in given]), "id")]
    assert keys == [7, 1.5, True, "a", "1.10", str(UUID(int=1)), "['x']"]


@pytest.mark.parametrize("missing", [{}, {"id": None}, {"id": ""}, {"id": float("nan")}])
def test_a_record_without_its_key_is_one_of_the_batch_all_the_same(missing):
    records = list(read_records(ListSource([{"id": "a"}, missing, missing]), "id"))
    assert [record.key for record in records] == ["a", None, None]
    assert len(survey(ListSource([{"id": "a"}, missing, missing]), "id").positions) == 3


def test_zero_is_a_key():
    assert [record.key for record in read_records(ListSource([{"id": 0}]), "id")] == [0]


@pytest.mark.parametrize(("one", "other"), [("a", "a"), (1, "1"), (True, "True"), ("1.5", 1.5)])
def test_a_key_that_is_there_twice_is_refused_with_both_places(one, other):
    told = refusal(ListSource([{"id": one}, {"id": "between"}, {"id": other}]), "id")
    assert told.startswith(
        f"records: records[2] has the same id as records[0]: {other!r}. Keys must be unique"
    )


def test_a_key_that_is_twice_in_a_file_is_refused_with_both_lines(written):
    assert "line 4 has the same id as line 2: 'a'" in refusal(written("a.csv", "id\na\nb\na\n"), "id")


def test_a_key_field_that_no_record_has_is_refused_with_the_fields_that_there_are(written):
    told = refusal(written("a.csv", "Id;Name\n1;Acme\n"), "Id")
    assert told == "key: no record has a value in the field 'Id'. The last one has the fields Id;Name."


def test_the_order_of_fields_does_not_make_another_batch_but_a_value_does():
    prints = [
        survey(ListSource([record]), "id").fingerprint
        for record in ({"id": 1, "name": "a"}, {"name": "a", "id": 1}, {"id": 1, "name": "b"})
    ]
    assert prints[0] == prints[1] != prints[2]


# Back into a file


def there_and_back(source, suffix):
    """Write all records of a source in its own form and read that file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"again{suffix}"
        path.write_bytes(b"".join(source.encode(record.line() for record in read_records(source, None))))
        return fields(source_of(None, path))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@alike
@given(st.lists(st.dictionaries(st.text(), values, max_size=4), max_size=5))
def test_json_lines_come_back_as_they_were(records):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        assert there_and_back(source_of(None, path), ".jsonl") == records
    assert there_and_back(ListSource(records), ".jsonl") == records


# UTF-8 has no halves of surrogate pairs; csv of Python 3.10 reads no NUL.
cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@alike
@given(st.lists(st.lists(cells, min_size=1, max_size=3), max_size=5))
def test_csv_comes_back_as_it_was_with_short_rows_and_every_character(rows):
    header = ["a", "ä,b", 'c"\nd']
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows])
        expected = [dict(zip(header, row, strict=False)) for row in rows]
        assert fields(source_of(None, path)) == expected
        assert there_and_back(source_of(None, path), ".csv") == expected


def test_a_list_is_written_with_what_json_has_no_form_for_as_text():
    given = {"id": UUID(int=1), "price": Decimal("1.10"), "half": "\ud800", "day": date(2026, 1, 2)}
    given |= {"none": float("nan"), "in": [Array(3), Array(float("nan"))]}
    (record,) = read_records(ListSource([given]), "id")
    assert json.loads(record.line()) == {
        "id": str(UUID(int=1)),
        "price": "1.10",
        "half": "\ud800",
        "day": "2026-01-02",
        "none": None,
        "in": [3, None],
    }


def test_csv_without_records_to_write_still_has_its_header(written):
    source = written("a.csv", "id,name\n1,a\n")
    assert b"".join(source.encode([])) == b"id,name\r\n"


# Values that JSON has no form for


class NAType:
    """As pandas' ``NA``."""

    __module__ = "pandas._libs.missing"


def test_a_cell_of_200_kilobytes_is_read(written):
    (record,) = fields(written("a.csv", "id,text\n1," + "x" * 200_000 + "\n"))
    assert len(record["text"]) == 200_000


@pytest.mark.parametrize(
    ("value", "same"),
    [
        (NAType(), None),
        (float("nan"), None),
        (Decimal("1.10"), "1.10"),
        (date(2026, 1, 2), "2026-01-02"),
        ((1, 2), [1, 2]),
        (Array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (Array(True), True),
        (Array(date(2026, 1, 2)), "2026-01-02"),
    ],
)
def test_values_of_libraries_are_what_they_hold(value, same):
    prints = [survey(ListSource([{"id": 1, "v": one}]), "id").fingerprint for one in (value, same)]
    assert prints[0] == prints[1]


@pytest.mark.parametrize("value", [{"a", "b"}, object(), b"bytes", [{"deep": {1}}]])
def test_a_value_that_is_another_in_each_process_is_refused_with_its_field(value):
    told = refusal(ListSource([{"id": 1, "tags": value}]), "id")
    assert told.startswith("records: records[0], because of the field 'tags', cannot be written as JSON")


DEEP = []
for _ in range(100_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    "key",
    ["\x00", "\ud800", "a\x00", {"a"}, 10**5000, DEEP],
    ids=["nul", "half", "more", "set", "int", "deep"],
)
def test_a_key_that_no_result_can_keep_is_refused(key):
    told = refusal(ListSource([{"id": "a"}, {"id": key}]), "id")
    assert told.startswith(("records: records[1]: the id", "records: records[1], because of the field 'id'"))


def test_the_fingerprint_is_the_same_in_a_process_with_another_hash_seed():
    program = (
        "from airflow_provider_agentforce.batch.reader import survey;"
        "from airflow_provider_agentforce.batch.sources import ListSource; import datetime, decimal;"
        "print(survey(ListSource([{'id': 1, 'd': datetime.date(2026, 1, 2), 'n': decimal.Decimal('1.0'),"
        " 'x': float('nan'), 'm': {'b': 1, 'a': [None, 'é']}}]), 'id').fingerprint)"
    )
    prints = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(prints) == 1


def test_a_name_of_a_column_cannot_forge_a_line_of_the_log(written):
    assert "ERROR done" in refusal(written("a.csv", 'id,"a\nERROR done"\n1,2\n'), "key")


def test_the_first_reading_keeps_a_few_bytes_of_each_record(written):
    source = written("a.csv", "id,name\n" + "".join(f"{n:018d},name {n}\n" for n in range(10_000)))
    tracemalloc.start()
    try:
        found = survey(source, "id")
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found.positions) == 10_000
    assert kept / 10_000 < 40


def test_keys_keep_their_type(written):
    given = ["a", 7, 1.5, True, None]
    assert [one.key for one in read_records(ListSource([{"id": key} for key in given]), "id")] == given
    assert [one.key for one in read_records(written("a.csv", "id\nx\ny\n"), None)] == [0, 1]
