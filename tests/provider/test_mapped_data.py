"""What a mapped task takes from XCom is rendered in no templated argument of any operator."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from airflow_provider_agentforce import operators
from airflow_provider_agentforce._compat import BaseOperator

MAPPED = Path(__file__).parent / "dags" / "mapped.py"
WORDS = "{{ conn.agentforce_default.password }} {{ 7 * 7 }}"
EVERY = [getattr(operators, name) for name in operators.__all__]
KINDS = [kind for kind in EVERY if isinstance(kind, type) and issubclass(kind, BaseOperator)]
# Rendered for each record, when the batch asks.
PER_RECORD = {"ConversationBatchOperator": 2}


def became(folder, kind):
    return (folder / f"{kind.__name__}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("way", ["expand", "expand_map", "expand_kwargs"])
def test_data_is_in_every_templated_argument_as_it_was(dag_test, org, tmp_path, way):
    status, output = dag_test(way, org, MAPPED)
    assert status == 0, output
    for kind in KINDS:
        text = became(tmp_path, kind)
        assert text.count(WORDS) == len(kind.template_fields), (kind, text)
        assert org.consumer_secret not in text


def test_every_template_of_the_author_is_rendered_beside_data(dag_test, org, tmp_path):
    status, output = dag_test("written_by_the_author", org, MAPPED)
    assert status == 0, output
    for kind in KINDS:
        text = became(tmp_path, kind)
        rendered = len(kind.template_fields) - PER_RECORD.get(kind.__name__, 0)
        assert text.count("'49'") == rendered, (kind, text)


def test_data_reaches_agent_folder_and_record_as_it_was(dag_test, org, tmp_path):
    status, output = dag_test("asked_and_written", org, MAPPED, ACCOUNT=org.records("Account")[0]["Id"])
    assert status == 0, output
    sent = [turn.text for session in org.sessions.values() for turn in session.turns]
    assert sorted(sent) == sorted([WORDS, WORDS, "hi"])
    written = [one.body["records"][0]["Agent_Summary__c"] for one in org.requests if one.operation == "write"]
    assert written == [WORDS, WORDS]
    assert (tmp_path / WORDS).is_dir()
    assert (tmp_path / "store 49").is_dir()
    assert org.consumer_secret not in json.dumps(
        [one.body for one in org.requests if one.operation != "token"]
    )
