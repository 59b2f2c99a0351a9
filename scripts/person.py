"""Answers what a Dag asks people through Airflow's REST API, until stopped: the person of a demo.

``python person.py DAG_ID [ANSWER]`` takes the option ANSWER of a request, or the first one if there is
no such option, and writes ANSWER into its fields.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_POLL_S = 0.5
# Airflow 3.3 loses an answer that comes before the task has come to its rest.
_THINKING_S = 2.0


def answer_all(dag_id: str, words: str) -> None:
    """Answer every request of the Dag's runs, and wait for the next."""
    seen: dict[str, float] = {}
    with rest_api() as api:
        while True:
            for request in api.get(f"/api/v2/dags/{dag_id}/dagRuns/~/hitlDetails").json()["hitl_details"]:
                since = seen.setdefault(request["task_instance"]["id"], time.monotonic())
                if request["responded_at"] is None and time.monotonic() - since >= _THINKING_S:
                    option = words if words in request["options"] else request["options"][0]
                    answer(api, request, option, dict.fromkeys(request["params"], words))
            time.sleep(_POLL_S)


def answer(api: Any, request: dict[str, Any], option: str, fields: dict[str, str]) -> None:
    """Answer one request and print both."""
    ti = request["task_instance"]
    path = f"/api/v2/dags/{ti['dag_id']}/dagRuns/{ti['dag_run_id']}/taskInstances/{ti['task_id']}"
    given = {"chosen_options": [option], "params_input": fields}
    api.patch(f"{path}/{ti['map_index']}/hitlDetails", json=given).raise_for_status()
    sys.stdout.write(f"{request['subject']}: {request['body']}\n  {option} {fields}\n")
    sys.stdout.flush()


@contextmanager
def rest_api() -> Iterator[Any]:
    """Give an HTTP client of Airflow's API, served by this process with Airflow's own database."""
    os.environ["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS"] = "True"
    # Signs the token that this process gives itself.
    os.environ["AIRFLOW__API_AUTH__JWT_SECRET"] = secrets.token_hex(64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whatever Airflow's own web application has to say
        from airflow.api_fastapi.app import create_app  # noqa: PLC0415 - it reads the environment
        from fastapi.testclient import TestClient  # noqa: PLC0415

        with TestClient(create_app(), base_url="http://127.0.0.1") as api:
            token = api.get("/auth/token").json()["access_token"]
            api.headers["Authorization"] = f"Bearer {token}"
            yield api


if __name__ == "__main__":
    answer_all(sys.argv[1], " ".join(sys.argv[2:]) or "4711")
