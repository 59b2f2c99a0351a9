"""The Redis that an Airflow connection names, and what operators do with a budget in it."""

import pytest
import redis
from airflow.sdk.exceptions import TaskDeferred
from redis_and_takers import until
from stand_ins import Task

from airflow_provider_agentforce.client.org_state import forget_orgs
from airflow_provider_agentforce.exceptions import AgentforceInputError, BudgetExceededError
from airflow_provider_agentforce.hooks.agentforce import AgentforceHook
from airflow_provider_agentforce.operators import Budget, ConversationOperator


@pytest.fixture
def database(store, org, tmp_path, monkeypatch):
    """The database of the store that the org's connection names."""
    monkeypatch.setattr(Task, "folder", tmp_path, raising=False)
    monkeypatch.setenv("AIRFLOW_CONN_AGENTFORCE_DEFAULT", org.connection(limits_conn_id="the_limits"))
    monkeypatch.setenv("AIRFLOW_CONN_THE_LIMITS", f"redis://127.0.0.1:{store.port}/?db=3")
    # A Redis that has just begun lets nothing start for a while.
    until(lambda: store.up_for() > 10)
    with redis.Redis(port=store.port, db=3) as client:
        yield client


@pytest.mark.parametrize(
    ("connection", "status", "told"),
    [
        (
            "redis://reader:right@127.0.0.1:{port}",
            "failed",
            "refuses the connection 'the_limits': NoPerm",
        ),
        (
            "redis://reader:wrong@127.0.0.1:{port}",
            "failed",
            "refuses the connection 'the_limits': Auth",
        ),
        ("redis://127.0.0.1:1", "warning", "the Redis of the connection 'the_limits' cannot be reached"),
        ("redis://127.0.0.1:{port}", "ok", "50 sessions at once"),
    ],
)
def test_the_check_finds_what_is_wrong_and_only_a_store_that_is_away_does_not_stop_a_task(
    store, org, monkeypatch, connection, status, told
):
    store.client.acl_setuser("reader", enabled=True, passwords=["+right"], keys=["*"], commands=["+ping"])
    monkeypatch.setenv("AIRFLOW_CONN_AGENTFORCE_DEFAULT", org.connection(limits_conn_id="the_limits"))
    monkeypatch.setenv("AIRFLOW_CONN_THE_LIMITS", connection.format(port=store.port))
    limits = AgentforceHook().diagnose().checks[-1]
    assert (limits.name, limits.status) == ("limits", status)
    assert told in limits.fact
    if status == "failed":
        with pytest.raises(AgentforceInputError, match=told):
            _ = AgentforceHook().client
    else:
        AgentforceHook().client.close()
    forget_orgs()


def members(database, name):
    (key,) = database.keys(f"agentforce:*:{name}") or [None]
    return database.zcard(key) if key else 0


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_hook_shares_the_limits_by_the_redis_that_its_connection_names(database, org):
    with AgentforceHook().conversation() as chat:
        chat.send("order 7?")
        assert members(database, "open") == 1
    assert members(database, "open") == 0
    assert members(database, "starts") == 1
    forget_orgs()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_conversation_stops_at_its_budget_or_waits_without_a_slot(database, org):
    stops = Task(ConversationOperator, messages=["1?", "2?", "3?"], budget=Budget("messages", per_day=2))
    with pytest.raises(BudgetExceededError, match="2 messages a day"):
        stops.run()
    assert org.applied() == 2
    assert [turn["text"] for turn in stops.xcoms["turns"]] != []
    assert org.open_sessions == []
    waits = Task(ConversationOperator, messages=["4?"], budget=Budget("messages", per_day=2, at_limit="wait"))
    with pytest.raises(TaskDeferred) as wait:
        waits.run()
    assert org.applied() == 2
    (day,) = database.keys("agentforce:*:budget:messages:day")
    database.set(day, "19000")  # the next day
    assert waits.resume(wait.value)["outcome"] == "answered"
    assert org.applied() == 3
    forget_orgs()
