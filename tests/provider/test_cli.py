"""The command that checks a connection, as it is typed in a shell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import keys
import pytest

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


@pytest.mark.parametrize("command", [[*MODULE, "check"], [AIRFLOW, "agentforce", "check"]])
def test_a_good_connection_is_listed_and_the_status_is_0(org, command):
    done = run(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"✓ agent: Service_Agent, {org.agent_id}." in lines_of(done)
    assert len(lines_of(done)) == 12
    assert org.count("start") == 0


def test_a_session_is_started_only_when_it_is_asked_for(org):
    assert run(*MODULE, "check", "--start-session").returncode == 0
    assert (org.count("start"), org.open_sessions) == (1, [])


def test_json_is_all_that_is_printed(org):
    done = run(*MODULE, "check", "--json")
    found = json.loads(done.stdout)
    assert (found["connection"], found["good"]) == ("agentforce_default", True)
    assert found["checks"][0] == {
        "name": "settings",
        "status": "ok",
        "fact": "complete; client_credentials.",
        "remedy": "",
        "setup": "",
    }


def test_a_bad_connection_has_the_status_1_and_says_where_to_fix_it(org):
    connection = json.dumps({**json.loads(org.connection()), "password": CANARY})
    done = run(*MODULE, "check", "--json", AIRFLOW_CONN_AGENTFORCE_DEFAULT=connection)
    (failed,) = [check for check in json.loads(done.stdout)["checks"] if check["status"] == "failed"]
    assert (done.returncode, failed["name"]) == (1, "secret")
    assert failed["setup"].startswith("Setup > External Client App Manager")
    assert "canary" not in done.stdout + done.stderr


def test_a_key_is_not_shown_either(org):
    pem = keys.pem_of(keys.rsa_key())
    extra = {"auth": "jwt_bearer", "username": keys.USERNAME, "private_key": pem, "api_url": org.url}
    connection = json.dumps({**json.loads(org.connection()), "password": None, "extra": extra})
    done = run(*MODULE, "check", AIRFLOW_CONN_AGENTFORCE_DEFAULT=connection)
    assert done.returncode == 0, done.stdout
    assert "✓ key: accepted by the org; the SHA-256 of its public key is " in done.stdout
    assert keys.quoted(pem, done.stdout + done.stderr) == []


def test_a_connection_that_is_nowhere_has_the_status_1():
    done = run(*MODULE, "check", "typo")
    assert done.returncode == 1
    assert "✗ settings: it does not exist." in done.stdout


def test_a_connection_of_airflow_s_database_is_found(org, airflow_db):
    fields = json.loads(org.connection())
    added = run(AIRFLOW, "connections", "add", "sf_stored", "--conn-json", json.dumps(fields))
    assert added.returncode == 0, added.stdout + added.stderr
    done = run(*MODULE, "check", "sf_stored", "--json")
    assert json.loads(done.stdout)["good"] is True


def test_arguments_that_are_wrong_have_the_status_2():
    assert run(*MODULE).returncode == 2
