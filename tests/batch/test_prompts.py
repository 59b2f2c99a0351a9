"""What is asked about a record: templates, lists, functions; and the rows of records that lack something."""

from functools import partial
from types import MappingProxyType

import pytest
from jinja2 import Environment, StrictUndefined

from airflow_provider_agentforce.batch.options import Options
from airflow_provider_agentforce.batch.prompts import Prompts
from airflow_provider_agentforce.batch.reader import read_records
from airflow_provider_agentforce.batch.results import Row
from airflow_provider_agentforce.batch.sources import ListSource
from airflow_provider_agentforce.batch.worker import WorkItem
from airflow_provider_agentforce.client.models import SessionOptions
from airflow_provider_agentforce.exceptions import AgentforceInputError


def compile_template(text):
    template = Environment(undefined=StrictUndefined, autoescape=False).from_string(text)  # noqa: S701 - text
    return lambda record: template.render(record=record)


def prompts(message, variables=None, key="id", most=5):
    options = Options(message, SessionOptions(), key=key, variables=variables)
    return Prompts(options, compile_template, most)


def one(record):
    return "one"


def other(record):
    return "other"


def about(asked, **fields):
    (record,) = read_records(ListSource([{"id": "A1", **fields}]), "id")
    return asked.about(record)


def texts(asked, **fields):
    return tuple(message.text for message in about(asked, **fields).messages)


def refused(asked, **fields):
    """Return the reason in the row of a record that cannot be asked about."""
    row = about(asked, **fields)
    assert isinstance(row, Row)
    assert (row.status, row.applied, row.attempts, row.session_id) == ("failed", False, 0, None)
    assert row.error.isprintable()
    return row.error


# What is asked


def test_a_template_is_rendered_with_the_record():
    ask = about(prompts("Is {{ record.name }} ({{ record['id'] }}) a customer?"), name="Acme")
    assert tuple(message.text for message in ask.messages) == ("Is Acme (A1) a customer?",)
    assert ask.variables == []


def test_a_list_of_templates_is_one_conversation():
    for given in (["Who is {{ record.name }}?", "Since when?"], ("Who is {{ record.name }}?", "Since when?")):
        assert texts(prompts(given), name="Acme") == ("Who is Acme?", "Since when?")


def test_a_function_returns_a_text_or_several():
    assert texts(prompts(lambda record: f"Who is {record['id']}?")) == ("Who is A1?",)
    assert texts(prompts(lambda record: [record["id"], "And then?"])) == ("A1", "And then?")


@pytest.mark.parametrize("text", ["{{ 7 * 7 }}", "{% raw %}", "{# gone #}", "}}"])
def test_what_is_in_a_record_or_comes_from_a_function_is_never_taken_for_a_template(text):
    assert texts(prompts("Say {{ record.text }}"), text=text) == (f"Say {text}",)
    assert texts(prompts(lambda record: record["text"]), text=text) == (text,)
    ask = about(prompts("Hello.", {"Note": "{{ record.text }}"}), text=text)
    assert [one["value"] for one in ask.variables] == [text]


def test_variables_keep_their_form_and_their_texts_are_templates():
    given = {"$Context.EndUserLanguage": "{{ record.language }}", "Visits": 3, "Vip": True}
    assert about(prompts("Hello.", given), language="de").variables == [
        {"name": "$Context.EndUserLanguage", "type": "Text", "value": "de"},
        {"name": "Visits", "type": "Number", "value": 3},
        {"name": "Vip", "type": "Boolean", "value": True},
    ]
    listed = [{"name": "Since", "type": "Date", "value": "{{ record.since }}"}]
    assert about(prompts("Hello.", listed), since="2026-01-01").variables == [
        {"name": "Since", "type": "Date", "value": "2026-01-01"}
    ]


def test_variables_may_come_from_a_function():
    assert about(prompts("Hello.", lambda record: {"Id": record["id"]})).variables == [
        {"name": "Id", "type": "Text", "value": "A1"}
    ]


# Records that cannot be asked about


@pytest.mark.parametrize("message", ["Who is {{ record.name }}?", ["Hello.", "Who is {{ record['name'] }}?"]])
def test_a_field_that_the_template_needs_is_named_in_the_row_of_a_record_without_it(message):
    assert refused(prompts(message)).startswith("records[0]: UndefinedError: ")
    assert "'name'" in refused(prompts(message))
    assert isinstance(about(prompts(message), name="Acme"), WorkItem)


def test_a_template_may_have_a_default_for_a_field_that_is_missing():
    assert texts(prompts("Who is {{ record.name | default('this') }}?")) == ("Who is this?",)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"Note": "{{ record.note }}"}, "UndefinedError"),
        (lambda record: {"Note": record["note"]}, "KeyError: 'note'"),
        (lambda record: {"Note": object()}, "variables['Note']"),
        (lambda record: "Note", "variables must be a list"),
        (lambda record: [{"name": "Note"}], "variables[0]"),
    ],
)
def test_variables_that_cannot_be_made_fail_the_record(variables, words):
    assert words in refused(prompts("Hello.", variables))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda record: record["name"], "KeyError: 'name'"),
        (lambda record: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda record: None, "message must be"),
        (lambda record: "  ", "message is blank"),
        (lambda record: [], "message is empty"),
        (lambda record: ["Hello.", 5], "message[1] must be"),
        (lambda record: {"text": "Hello."}, "message must be"),
        (lambda record: "half \ud800", "surrogate"),
        (lambda record: ["more"] * 6, "6 messages; a session may have 5"),
    ],
)
def test_a_function_that_gives_nothing_to_send_fails_the_record_with_the_reason(function, words):
    assert words in refused(prompts(function))


def test_a_template_that_renders_to_nothing_fails_the_record():
    assert "message is blank" in refused(prompts("{{ record.name }}"), name="")


def test_a_reason_is_one_short_line():
    def function(record):
        raise ValueError("first\nsecond " + "x" * 5000)

    assert len(refused(prompts(function))) <= 300


@pytest.mark.parametrize("missing", [{}, {"id": None}, {"id": ""}])
def test_a_record_without_its_key_is_not_asked_about_and_says_where_it_stands(missing):
    records = list(read_records(ListSource([{"id": "A1"}, missing]), "id"))
    row = prompts("Hello.").about(records[1])
    assert (row.key, row.status) == (None, "failed")
    assert row.error == "records[1]: the field id, which names the record, is missing or empty."


# What nobody can be asked


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("", "message is blank"),
        (" \n", "message is blank"),
        ([], "message is empty"),
        (None, "message must be"),
        (5, "message must be"),
        (["Hello.", ""], "message[1] is blank"),
        (["Hello.", lambda record: "x"], "message[1] must be"),
        ({"text": "Hello."}, "message must be"),
        ("{{ record.name", "is not a valid template: unexpected end of template"),
        ("{{ record.name | nope }}", "is not a valid template: No filter named 'nope'"),
        (["Hello."] * 6, "message: 6 messages are more than a session may have (5)"),
    ],
)
def test_a_message_that_no_record_can_be_asked_with_is_refused_before_anything_is_read(message, words):
    with pytest.raises(AgentforceInputError) as caught:
        prompts(message)
    assert words in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"Note": "{% if %}"}, "variables: '{% if %}' is not a valid template"),
        ("{{ record.variables }}", "variables must be a list"),
        ({"Note": one}, "variables['Note'] must be text, a number or a boolean"),
        ([{"name": "Note", "values": "x"}], "variables[0] must have"),
    ],
)
def test_variables_that_no_record_can_have_are_refused_before_anything_is_read(variables, words):
    with pytest.raises(AgentforceInputError) as caught:
        prompts("Hello.", variables)
    assert words in str(caught.value)


# Whether it is the same batch


def changing(record):
    record["tags"].append("x")
    record["deep"]["tags"].clear()
    return f"fail please {record.pop('name')}"


CHANGING = "{{ record.tags.append('x') }}{{ record.deep.tags.clear() }}fail please {{ record.pop('name') }}"


@pytest.mark.parametrize(
    "given",
    [
        {"message": changing},
        {"message": CHANGING},
        {"message": [CHANGING, "more"]},
        {"message": changing, "variables": {"$Context.A": CHANGING}},
        {"message": "Acme", "variables": lambda record: {"$Context.A": changing(record)}},
    ],
)
def test_a_record_that_its_function_or_template_changes_stays_what_the_input_says(given):
    asked = prompts(**given)
    fields = {
        "id": "A1",
        "name": "Acme",
        "tags": ["a"],
        "deep": {"tags": ["b"]},
        "fixed": MappingProxyType({}),
    }
    (record,) = read_records(ListSource([fields]), "id")
    line = record.line()
    item = asked.about(record)
    assert "Acme" in item.messages[0].text
    assert item.record.line() == line
    assert fields["tags"] == ["a"]


class Asks:
    def __call__(self, record):
        return "something"


def test_the_fingerprint_tells_templates_variables_and_functions_apart_and_stays_the_same():
    given = [
        ("one", None),
        ("other", None),
        (["one"], None),
        ("one", {"a": "b"}),
        ("one", {"a": "c"}),
        (one, None),
        (other, None),
        ("one", one),
        (Asks(), None),
        (partial(other, tone="kind"), None),
        (partial(other, tone="rude"), None),
    ]
    prints = [prompts(*pair).fingerprint for pair in given]
    assert len(set(prints)) == len(given)
    assert prompts(Asks()).fingerprint == prints[8]
    assert [prompts(*pair).fingerprint for pair in given] == prints
