"""The example Dag with people in it, as it is and with a time that nobody can keep."""

from __future__ import annotations

from pathlib import Path

from airflow.sdk import DAG  # noqa: F401 - Airflow looks for Dags in files that name it

EXAMPLE = Path(__file__).resolve().parents[3] / "example_dags" / "example_agentforce_person.py"

for dag_id, within in {"person": "minutes=10", "person_too_late": "seconds=2"}.items():
    code = EXAMPLE.read_text()
    assert "minutes=10" in code
    code = code.replace("minutes=10", within).replace("example_agentforce_person", dag_id)
    exec(compile(code, str(EXAMPLE), "exec"), {"__name__": __name__})  # noqa: S102 - a file of ours
