"""Example Dags, as they are, on a cluster."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("name", ["conversation", "session", "batch"])
def test_an_example_runs_unchanged(cluster, org, name):
    run = cluster.trigger(f"example_agentforce_{name}")
    assert run.wait() == "success"
    assert org.applied() > 0
    assert org.open_sessions == []
