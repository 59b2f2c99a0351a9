"""The same conversations under pytest, without Airflow."""

from __future__ import annotations

import gc
import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

MODULE = "airflow_provider_agentforce.pytest_plugin"
INSTALLED = any(
    entry.value == MODULE for entry in importlib.metadata.entry_points(group="pytest11", name="agentforce")
)
GOOD = "name: order\nturns:\n  - say: Where is order 42?\n    expect: {contains: being packed}\n"


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Run pytest in a folder with these files, and return its status and output."""

    def command(files, *options, **variables):
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        monkeypatch.chdir(tmp_path)
        for name, value in {**variables, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}.items():
            monkeypatch.setenv(name, value)
        capfd.readouterr()
        gc.freeze()  # pytest ends with collections of garbage, which would visit all that Airflow consists of
        status = pytest.main(["-q", "-p", "no:cacheprovider", "-p", MODULE, *options])
        return status, "".join(capfd.readouterr())

    return command


@pytest.mark.skipif(not INSTALLED, reason="the package is not installed")
def test_pytest_finds_the_plugin(tmp_path):
    (tmp_path / "a.agentforce.yaml").write_text(GOOD)
    command = [sys.executable, "-m", "pytest", "-q"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_a_conversation_is_a_test_against_the_emulator(run):
    status, output = run({"a.agentforce.yaml": GOOD, "other.yaml": "not: ours"}, "-vv")
    assert (status, "a.agentforce.yaml::order PASSED" in output) == (0, True), output
    assert "1 passed" in output


def test_the_conversations_of_the_example_dag_are_tests_as_they_are(run):
    folder = Path(__file__).resolve().parents[2] / "example_dags" / "agentforce_conversations"
    files = {path.name: path.read_text() for path in folder.iterdir()}
    status, output = run(files)
    assert (status, "1 passed" in output) == (0, True), output


def test_what_does_not_pass_is_said_without_a_traceback(run):
    status, output = run({"a.agentforce.yml": GOOD.replace("being packed", "lost")})
    assert status == 1
    assert "turn 1: contains: expected 'lost', got 'Order 42 is being packed" in output
    assert "Traceback" not in output
    assert "runner.py" not in output


def test_a_mistake_in_a_file_is_an_error_of_the_collection(run):
    status, output = run({"a.agentforce.yaml": GOOD.replace("expect", "expects")})
    assert status == 2
    assert "a.agentforce.yaml, line 4: turns[0].expects is not a field here" in output


def test_a_script_and_repetitions_are_options(run):
    script = "answers:\n  - text: It is being packed.\n"
    options = ("--agentforce-script", "agent.yaml", "--agentforce-repeat", "2", "-vv")
    status, output = run({"a.agentforce.yaml": GOOD, "agent.yaml": script}, *options)
    assert status == 0, output
    assert "order[2] PASSED" in output


@pytest.mark.parametrize("times", ["0", "-1", "two"])
def test_a_number_of_repetitions_below_one_is_refused(run, times):
    status, output = run({"a.agentforce.yaml": GOOD}, f"--agentforce-repeat={times}")
    assert (status, f"'{times}' is not a whole number of at least 1" in output) == (4, True), output


SECRET = "5ecret0f7heApp"
KEY = ["-----BEGIN PRIVATE KEY-----", *(f"MIIEv{'k3y' * 19}{number}" for number in range(9))]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"password": 1234567890}, "The connection's password must be text, but is of type int."),
        ({"password": [SECRET], "login": {}}, "login must be text.* password must be text"),
        ({"extra": json.dumps(KEY)}, "extra must be an object of names and values, but is of type list"),
        ({"extra": 1234567890}, "extra must be an object"),
        ({"login": 33, "extra": {"auth": "jwt_bearer", "private_key": "\n".join(KEY)}}, "login must be text"),
        (
            {"extra": {"auth": "jwt_bearer", "username": "a@b.c", "private_key": KEY}},
            "private_key must be text",
        ),
        (
            {"extra": {"auth": "jwt_bearer", "username": KEY, "private_key": "\n".join(KEY)}},
            "username must be",
        ),
        ({"extra": {"auth": KEY}}, "auth must be"),
    ],
)
def test_a_connection_field_of_a_wrong_type_is_named_and_no_value_is_shown(run, wrong, words):
    connection = {"host": "https://acme.my.salesforce.com", "login": "key", "password": SECRET, **wrong}
    options = ("--agentforce-org", "MY_ORG", "--showlocals")
    status, output = run({"a.agentforce.yaml": GOOD}, *options, MY_ORG=json.dumps(connection))
    assert status == 1
    assert re.search(f"AgentforceInputError: .*{words}", output), output
    assert not [shown for shown in (SECRET, "1234567890", *KEY) if shown in output]
    assert "Traceback" not in output
    assert "settings.py" not in output


def test_a_mistake_in_a_script_is_one_line(run):
    files = {"a.agentforce.yaml": GOOD, "agent.yaml": "answer: []"}
    status, output = run(files, "--agentforce-script", "agent.yaml")
    assert status == 1
    assert "ScriptError: agent.yaml: unknown key 'answer'" in output
    assert "script.py" not in output


def test_an_org_is_used_when_it_is_named(run, org):
    options = ("--agentforce-org", "MY_ORG")
    status, output = run({"a.agentforce.yaml": GOOD}, *options, MY_ORG=org.connection())
    assert status == 0, output
    assert org.applied("Where is order 42?") == 1
    assert org.open_sessions == []
    status, output = run({"a.agentforce.yaml": GOOD}, *options, MY_ORG="agentforce://")
    assert status == 1
    assert "--agentforce-org names must hold a connection as JSON" in output
    status, output = run({"a.agentforce.yaml": GOOD}, *options, MY_ORG=org.connection(agent_id="Nobody"))
    assert "no agent of" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("NOPE", "the environment variable NOPE, which is not set. Set it to a connection as JSON"),
        (json.dumps({"password": SECRET}), "takes the name of an environment variable, such as AIRFLOW_CONN"),
    ],
)
def test_an_org_that_is_not_named_by_a_variable_says_what_to_do(run, option, words):
    status, output = run({"a.agentforce.yaml": GOOD}, "--agentforce-org", option)
    assert status == 1
    assert words in " ".join(output.split())
    assert SECRET not in output.partition("test session starts")[2]
    assert "Traceback" not in output


def test_two_conversations_of_a_file_with_the_same_name_are_refused(run):
    twice = "".join(f"- {GOOD}".replace("\n", "\n  ").rstrip() + "\n" for _ in range(2))
    status, output = run({"a.agentforce.yaml": twice})
    assert status == 2
    assert "is that of another conversation, at a.agentforce.yaml, line 1" in output


def test_it_costs_others_nothing_and_knows_no_airflow():
    code = f"import sys, {MODULE}; print([m for m in sys.modules if m.split('.')[0] in sys.argv[1:]])"
    heavy = ["airflow", "requests", "yaml", "fastapi", "tenacity"]
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
