"""A batch that mapped tasks share, in a Dag."""

import csv
import json
from collections import Counter

import pytest
from airflow.sdk import DAG
from stand_ins import TaskInstance

from airflow_provider_agentforce.emulator import Emulator
from airflow_provider_agentforce.exceptions import AgentforceInputError
from airflow_provider_agentforce.operators import ConversationBatchOperator, shards


def test_mapped_tasks_share_a_batch_and_a_task_merges_their_results(dag_test, tmp_path):
    with Emulator() as org:
        status, output = dag_test("shards", org)
        assert status == 0, output
        texts = [turn.text for session in org.sessions.values() for turn in session.turns]
        assert Counter(texts) == Counter(f"Tell me of A{number}." for number in range(12))
    (folder,) = tmp_path.glob("manual__*")
    assert {path.name for path in folder.iterdir()} == {
        *("shard-0-of-3", "shard-1-of-3", "shard-2-of-3"),
        *("results.jsonl", "results.csv"),
    }
    lines = (folder / "results.jsonl").read_text().splitlines()
    assert {json.loads(line)["key"] for line in lines} == {f"A{number}" for number in range(12)}
    with (folder / "results.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 12


def test_there_are_as_many_shards_as_are_asked_for():
    assert shards(3) == ["0/3", "1/3", "2/3"]
    for wrong in (0, -1, 2.5, None, "many"):
        with pytest.raises(AgentforceInputError, match="shards must be"):
            shards(wrong)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"shard": "3/3"}, "shard must be one of"),
        ({"shard": "1"}, "shard must be one of"),
        ({"shard": 1}, "shard must be one of"),
        ({"shard": "0/3", "records": None, "soql": "SELECT Id FROM Account"}, "with AgentforceHook.query"),
    ],
)
def test_a_shard_that_cannot_be_is_refused_when_the_dag_is_parsed(arguments, told):
    given = {"records": [{"id": 1}], "message": "hi", "result_path": "file:///tmp/x", **arguments}
    with DAG("refused", schedule=None), pytest.raises(AgentforceInputError, match=told):
        ConversationBatchOperator(task_id="batch", **given)


def test_a_share_of_each_limit_is_used_and_more_shards_than_sessions_are_refused(org, monkeypatch, tmp_path):
    monkeypatch.setenv("AIRFLOW_CONN_AGENTFORCE_DEFAULT", org.connection(max_concurrent_sessions=4))
    with DAG("limits", schedule=None):
        batch = ConversationBatchOperator(
            task_id="batch",
            records=[{"id": number} for number in range(40)],
            message="hi",
            key="id",
            max_concurrency=3,
            result_path=f"file://{tmp_path}",
            shard="0/5",
        )
    context = {"ti": TaskInstance()}
    with pytest.raises(Exception, match=r"max_concurrent_sessions is 4.*Use shards\(4\) or fewer"):
        batch.execute(context)
    batch.shard = "0/4"
    with pytest.raises(Exception, match=r"max_concurrency is 3.*Use shards\(3\) or fewer"):
        batch.execute(context)
    batch.shard = "1/2"
    assert batch.execute(context)["shard"] == "1/2"
    assert org.count("start") > 0
    open_now = most = 0
    for request in org.requests:
        open_now += {"start": 1, "end": -1}.get(request.operation, 0)
        most = max(most, open_now)
    assert most == 1
