"""What is counted of a batch: how much is done, and how many records may fail."""

import pytest

from airflow_provider_agentforce.batch.options import Options
from airflow_provider_agentforce.batch.progress import Progress
from airflow_provider_agentforce.client.models import ANSWERED, SessionOptions


@pytest.mark.parametrize(
    ("done", "total", "share"),
    [
        (0, 3, "0%"),
        (1, 3, "33%"),
        (2, 3, "66%"),
        (9_996, 10_000, "99%"),
        (999_999, 10**6, "99%"),
        (3, 3, "100%"),
    ],
)
def test_all_is_done_at_the_end_and_not_before(done, total, share):
    assert f"records ({share}" in Progress(total, 0).snapshot({ANSWERED: done}, 0, 1, 0).line()


@pytest.mark.parametrize(
    ("given", "total", "most"),
    [
        (0.29, 100, 29),
        (0.57, 100, 57),
        (0.58, 50, 29),
        (0.1, 30, 3),
        (0.05, 30, 1),
        (0.999, 10, 9),
        (7, 3, 7),
    ],
)
def test_a_share_of_failures_is_what_is_written(given, total, most):
    assert Options("message", SessionOptions(), max_failures=given).most_failures(total) == most
