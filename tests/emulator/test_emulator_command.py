import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys

import pytest
import requests

from airflow_provider_agentforce.emulator.__main__ import main

COMMAND = [sys.executable, "-W", "error", "-m", "airflow_provider_agentforce.emulator"]
STOPS = (signal.SIGINT, signal.SIGTERM)


def started(*arguments):
    return subprocess.Popen(  # our own command
        [*COMMAND, "--port", "0", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("number", STOPS)
def test_command_prints_address_and_connection_and_stops_cleanly(number):
    with started() as process:
        first = process.stdout.readline()
        url = re.search(r"http://127\.0\.0\.1:\d+/", first)[0]
        lines = [process.stdout.readline() for _ in range(3)]
        export, assignment = shlex.split(lines[2])
        name, _, value = assignment.partition("=")
        assert (export, name) == ("export", "AIRFLOW_CONN_AGENTFORCE_DEFAULT")
        connection = json.loads(value)
        assert connection["host"] + "/" == url
        form = {
            "grant_type": "client_credentials",
            "client_id": connection["login"],
            "client_secret": connection["password"],
        }
        assert requests.post(url + "services/oauth2/token", data=form, timeout=5).status_code == 200
        process.send_signal(number)
        rest, errors = process.communicate(timeout=10)
        assert process.returncode == 0
        assert rest.endswith("Stopped.\n")
        assert errors == ""


def test_command_speaks_https_and_names_its_proxy(tmp_path):
    ca_file = tmp_path / "ca.pem"
    with started("--tls", str(ca_file)) as process:
        url = re.search(r"https://127\.0\.0\.1:\d+/", process.stdout.readline())[0]
        proxy = process.stdout.readline().strip().partition("HTTPS_PROXY=")[2]
        for place in (url, "https://api.salesforce.com/"):
            answer = requests.get(
                place + "services/data", verify=str(ca_file), proxies={"https": proxy}, timeout=5
            )
            assert answer.status_code == 200
        process.terminate()
        process.communicate(timeout=10)


@pytest.fixture
def _signals_are_blocked():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


@pytest.mark.usefixtures("_signals_are_blocked")
@pytest.mark.parametrize("number", STOPS)
def test_command_stops_though_its_parent_has_the_signal_blocked(number):
    with started() as process:
        process.stdout.readline()
        process.send_signal(number)
        _stops(process)


def test_signals_in_quick_succession_stop_the_command():
    with started() as process:
        process.stdout.readline()
        for _ in range(500):
            for number in STOPS:
                process.send_signal(number)
        _stops(process, codes={0, -signal.SIGINT, -signal.SIGTERM})


def _stops(process, codes=frozenset({0})):
    try:
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode in codes


def test_command_passes_its_options_on():
    with started(
        "--mode", "seed", "--inactive-status", "422", "--strict-sequence", "--latency", "0"
    ) as process:
        url = re.search(r"http://[\d.:]+/", process.stdout.readline())[0]
        state = requests.get(url + "emulator/sessions", timeout=5).json()
        process.terminate()
        process.communicate(timeout=10)
    assert state["mode"] == "seed"


def test_a_bad_script_is_one_clear_line(tmp_path, capsys):
    script = tmp_path / "agent.yaml"
    script.write_text("answers: 5")
    assert main(["--script", str(script), "--port", "0"]) == 1
    captured = capsys.readouterr()
    assert captured.err == f"agentforce-emulator: {script}: answers must be a list.\n"
    assert captured.out == ""


@pytest.mark.parametrize(
    ("arguments", "way_out"),
    [
        ([], "--port or the variable EMULATOR_PORT"),
        (["record", "--upstream", "http://127.0.0.1:1"], "--port"),
    ],
)
def test_a_taken_port_is_one_clear_line_that_names_the_way_out(arguments, way_out, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main([*arguments, "--port", str(taken.getsockname()[1])]) == 1
    assert re.fullmatch(
        rf"agentforce-emulator: .*in use.* another port with {way_out}\.\n", capsys.readouterr().err
    )


def test_the_variable_chooses_the_port(capsys, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("EMULATOR_PORT", str(taken.getsockname()[1]))
        assert main([]) == 1
    assert "in use" in capsys.readouterr().err


def test_a_missing_extra_is_one_clear_line():
    program = (
        "import sys\n"
        "sys.modules['uvicorn'] = None\n"
        "from airflow_provider_agentforce.emulator.__main__ import main\n"
        "sys.exit(main([]))"
    )
    done = subprocess.run(  # our own program
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env=os.environ
    )
    assert done.returncode == 1
    assert done.stderr == (
        "agentforce-emulator: The emulator needs its extra: "
        "pip install 'airflow-provider-agentforce[emulator]'\n"
    )


@pytest.fixture(autouse=True)
def _keep_signal_handlers():
    handlers = {number: signal.getsignal(number) for number in STOPS}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
