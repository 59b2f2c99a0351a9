"""These tests start a whole cluster, so they run only when asked for: ``make test-cluster``."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from cluster_services import MissingPackagesError
from real_airflow import left_out, running, until
from real_cluster import Cluster

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parent.parent / "example_dags"
# As they are, with what they read.
EXAMPLE_FILES = (
    "example_agentforce_conversation.py",
    "example_agentforce_session.py",
    "example_agentforce_batch.py",
    "agentforce_accounts.csv",
)
DAG_IDS = {
    *("batch", "batch_deferred", "batch_in_shards", "batch_on_own_disk", "talk", "shared"),
    *(Path(name).stem for name in EXAMPLE_FILES if name.startswith("example_")),
}
SESSIONS = 4


def pytest_ignore_collect(collection_path, config):
    return left_out(HERE, "AGENTFORCE_CLUSTER_TESTS", collection_path, config)


@pytest.fixture(scope="session")
def org_server():
    """An org that refuses more sessions than it allows."""
    from airflow_provider_agentforce.emulator import Emulator  # noqa: PLC0415

    with Emulator(script=lambda turn: f"You said: {turn.text}", max_concurrent_sessions=SESSIONS) as server:
        yield server


@pytest.fixture(scope="session")
def running_cluster(org_server):
    """The cluster. Its folder is where PostgreSQL's user can reach it, which pytest's is not."""
    with tempfile.TemporaryDirectory(prefix="agentforce-cluster-") as folder:
        home = Path(folder)
        (home / "dags").mkdir()
        for path in (HERE / "dags" / "cluster_dags.py", *(EXAMPLES / name for name in EXAMPLE_FILES)):
            (home / "dags" / path.name).symlink_to(path)
        environment = {
            "AIRFLOW_CONN_AGENTFORCE_DEFAULT": org_server.connection(max_concurrent_sessions=SESSIONS),
            "AGENTFORCE_EXAMPLE_OUTPUT": str(home / "out"),
        }
        (home / "out").mkdir()
        try:
            cluster = Cluster(home, home / "dags", environment)
        except MissingPackagesError as error:
            pytest.exit(str(error), 1)
        with running(cluster, DAG_IDS) as started:
            yield started


@pytest.fixture
def cluster(running_cluster):
    """The cluster, whole. Afterwards what a test has broken is started again."""
    yield running_cluster
    running_cluster.heal()


@pytest.fixture
def org(org_server, cluster):
    """The org, empty. Afterwards all that every test here promises is looked at."""
    org_server.reset()
    yield org_server
    until("all tasks have ended", lambda: not cluster.task_runners())
    turns = [turn for session in org_server.sessions.values() for turn in session.turns]
    texts = [turn.text for turn in turns]
    twice = sorted({text for text in texts if texts.count(text) > 1})
    acted_twice = [turn.text for turn in turns if turn.applied > 1]
    open_sessions, unused = org_server.open_sessions, org_server.unused_faults()
    org_server.reset()
    assert (twice, acted_twice, open_sessions, unused) == ([], [], [], [])


@pytest.fixture
def cap_held(org):
    """See that the org has refused no session."""
    yield
    assert [one for one in org.requests if one.operation == "start" and one.status == 429] == []
