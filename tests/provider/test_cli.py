"""The command that checks a connection, as it is typed in a shell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import keys
import pytest

from airflow_provider_agentforce.cli.check import main

AIRFLOW = str(Path(sys.executable).with_name("airflow"))
MODULE = [sys.executable, "-m", "airflow_provider_agentforce"]
CANARY = "canary/secret+42 %"


def run(*command, **variables):
    env = {**os.environ, **variables}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def lines_of(done):
    """Return the list, without what else Airflow may print."""
    lines = done.stdout.splitlines()
    return lines[lines.index("Connection agentforce_default") :]


@pytest.fixture
def check(capfd):
    """Run the command in this process, as Airflow takes seconds to import; give its status and output."""

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        return end.value.code, "".join(capfd.readouterr())

    return run


def test_a_good_connection_is_listed_and_the_status_is_0(org):
    done = run(AIRFLOW, "agentforce", "check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"✓ agent: Service_Agent, {org.agent_id}." in lines_of(done)
    assert len(lines_of(done)) == 12
    assert org.count("start") == 0


def test_a_session_is_started_only_when_it_is_asked_for(org, check):
    status, output = check("check", "--start-session")
    assert status == 0, output
    assert (org.count("start"), org.open_sessions) == (1, [])


def test_a_bad_connection_has_the_status_1_and_json_says_where_to_fix_it_and_is_all_that_is_printed(org):
    connection = json.dumps({**json.loads(org.connection()), "password": CANARY})
    done = run(*MODULE, "check", "--json", AIRFLOW_CONN_AGENTFORCE_DEFAULT=connection)
    found = json.loads(done.stdout)
    assert (done.returncode, found["connection"], found["good"]) == (1, "agentforce_default", False)
    assert found["checks"][0] == {
        "name": "settings",
        "status": "ok",
        "fact": "complete; client_credentials.",
        "remedy": "",
        "setup": "",
    }
    (failed,) = [check for check in found["checks"] if check["status"] == "failed"]
    assert failed["name"] == "secret"
    assert failed["setup"].startswith("Setup > External Client App Manager")
    assert "canary" not in done.stdout + done.stderr


def test_a_key_is_not_shown_either(org, check, monkeypatch):
    pem = keys.pem_of(keys.rsa_key())
    extra = {"auth": "jwt_bearer", "username": keys.USERNAME, "private_key": pem, "api_url": org.url}
    connection = json.dumps({**json.loads(org.connection()), "password": None, "extra": extra})
    monkeypatch.setenv("AIRFLOW_CONN_AGENTFORCE_DEFAULT", connection)
    status, output = check("check")
    assert status == 0, output
    assert "✓ key: accepted by the org; the SHA-256 of its public key is " in output
    assert keys.quoted(pem, output) == []


def test_a_connection_that_is_nowhere_has_the_status_1(airflow_db, check):
    status, output = check("check", "typo")
    assert status == 1
    assert "✗ settings: it does not exist." in output


def test_a_connection_of_airflow_s_database_is_found(org, airflow_db, check):
    from airflow.models import Connection  # noqa: PLC0415 - the one of the database
    from airflow.utils.session import create_session  # noqa: PLC0415

    fields = json.loads(org.connection())
    with create_session() as database:
        database.add(Connection("sf_stored", **{**fields, "extra": json.dumps(fields["extra"])}))  # noqa: AIR311
    status, output = check("check", "sf_stored")
    assert status == 0, output
    assert f"✓ agent: Service_Agent, {org.agent_id}." in output


def test_arguments_that_are_wrong_have_the_status_2(check):
    assert check()[0] == 2
