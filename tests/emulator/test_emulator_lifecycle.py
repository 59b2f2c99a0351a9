import contextlib
import json
import socket
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from emulator_caller import Caller

from airflow_provider_agentforce.emulator import Emulator


def server_threads():
    return [thread for thread in threading.enumerate() if thread.name == "agentforce-emulator"]


def open_files():
    """Count what each file descriptor of this process leads to, where the system tells."""
    folder, found = Path("/proc/self/fd"), Counter()
    for descriptor in folder.iterdir() if folder.exists() else ():
        with contextlib.suppress(OSError):  # it is closed by now
            found[descriptor.readlink()] += 1
    return found


def test_nothing_is_left_after_stop():
    before = server_threads(), open_files()
    with Emulator() as org:
        assert len(server_threads()) == len(before[0]) + 1
        with Caller(org) as caller:
            caller.login().open()
    assert server_threads() == before[0]
    # Other emulators of this process may close connections meanwhile.
    assert open_files() - before[1] == Counter()
    url = urlsplit(org.url)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((url.hostname, url.port), timeout=5)


def test_what_happened_can_be_read_after_stop():
    with Emulator() as org, Caller(org) as caller:
        session = caller.login().open()
    assert org.open_sessions == [session]


def test_stop_closes_open_connections_and_held_requests():
    with Emulator() as org, Caller(org) as caller, ThreadPoolExecutor(1) as pool:
        session = caller.login().open()
        hold = org.hold("send")
        waiting = pool.submit(caller.send, session)
        hold.wait_until_held()
        org.stop()
        with pytest.raises(requests.ConnectionError):
            waiting.result(timeout=5)
        hold.release()
    assert org.applied() == 0


def test_start_and_stop_may_be_called_twice_and_again_at_the_same_address():
    org = Emulator()
    org.start()
    url = org.url
    org.start()
    org.stop()
    org.stop()
    org.start()
    assert org.url == url
    with Caller(org) as caller:
        assert caller.ask_token().status_code == 200
    org.stop()


def test_a_taken_port_is_an_error():
    with Emulator() as org, pytest.raises(OSError, match="in use"):
        Emulator(port=int(org.url.rpartition(":")[2])).start()


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.1", "example.com", "", "::"])  # noqa: S104  # refused, not bound
def test_only_loopback_hosts_are_served(host):
    with pytest.raises(ValueError, match="loopback"):
        Emulator(host=host)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"mode": "x"}, "mode"),
        ({"inactive_status": 418}, "inactive_status"),
        ({"feedback_status": 200}, "feedback_status"),
        ({"latency": -1}, "latency"),
        ({"token_lifetime": -1}, "token_lifetime"),
    ],
)
def test_impossible_settings_are_refused_by_name(settings, problem):
    with pytest.raises(ValueError, match=problem):
        Emulator(**settings)


def test_localhost_is_a_host(make_caller):
    caller = make_caller(host="localhost")
    assert caller.org.url.startswith("http://localhost:")
    assert caller.start().status_code == 200


def test_foreign_host_or_origin_is_refused(caller, org):
    session = caller.open()
    for header in (
        {"Host": "evil.example"},
        {"Host": ""},
        {"Host": "["},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ):
        answer = caller.send(session, headers=header)
        assert answer.status_code == 403, header
        assert caller.call("GET", "/", headers=header).status_code == 403
    assert org.applied() == 0
    for header in ({"Host": "localhost:1"}, {"Host": "[::1]"}, {"Origin": org.url}):
        assert caller.send(session, headers=header).status_code == 200, header


def test_every_answer_is_marked(caller, org):
    org.fail("start", status=503)
    for answer in (caller.start(), caller.start(), caller.call("GET", "/"), caller.send("gone")):
        assert answer.headers["X-Agentforce-Emulator"] == "1"


def test_connection_is_what_airflow_reads(org):
    connection = json.loads(org.connection(timeout=5))
    assert connection == {
        "conn_type": "agentforce",
        "host": org.url,
        "login": org.consumer_key,
        "password": org.consumer_secret,
        "extra": {"agent_id": org.agent_id, "api_url": org.url, "timeout": 5},
    }


def test_reset_forgets_what_happened_and_keeps_the_script(make_caller):
    caller = make_caller(script={"answers": [{"text": "scripted"}]}, max_sessions_per_hour=1)
    org = caller.org
    session = caller.open()
    org.fail("send", status=503)
    org.hold("end")
    org.reset()
    assert (org.requests, org.sessions, org.unused_faults(), org.tokens_issued) == ([], {}, [], 0)
    assert caller.send(session).status_code == 401
    caller.login()
    assert caller.send(session).status_code == 404
    session = caller.open()
    assert caller.send(session).json()["messages"][0]["message"] == "scripted"
    assert caller.end(session).status_code == 200


def test_a_held_message_waits_with_its_session_locked(caller, org):
    session = caller.open()
    with Caller(org) as other, ThreadPoolExecutor(1) as pool:
        other.bearer = caller.bearer
        with org.hold("send") as hold:
            waiting = pool.submit(caller.send, session)
            hold.wait_until_held(5)
            assert org.applied() == 0
            assert org.requests[-1].status is None
            assert other.end(session).status_code == 423
        assert waiting.result(timeout=5).status_code == 200
    assert org.applied() == 1


def test_a_message_whose_sender_is_gone_is_acted_on_after_all(caller, org):
    session = caller.open()
    hold = org.hold("send")
    with ThreadPoolExecutor(1) as pool:
        impatient = pool.submit(
            requests.post,
            f"{org.url}/einstein/ai-agent/v1/sessions/{session}/messages",
            json={"message": {"type": "Text", "sequenceId": 1, "text": "hello"}},
            headers={"Authorization": f"Bearer {caller.bearer}"},
            timeout=0.1,
        )
        hold.wait_until_held()
        with pytest.raises(requests.Timeout):
            impatient.result(timeout=5)
    assert org.applied() == 0
    after = org.hold("end")
    hold.release()
    with ThreadPoolExecutor(1) as pool:
        # The release and this request reach the server in this order.
        ending = pool.submit(caller.end, session)
        after.wait_until_held()
        assert org.applied() == 1
        after.release()
        assert ending.result(timeout=5).status_code == 200


def test_half_a_request_is_forgotten_in_silence(make_caller, caplog):
    caller = make_caller()
    org, session = caller.org, caller.open()
    before = len(org.requests)
    url = urlsplit(org.url)
    with socket.create_connection((url.hostname, url.port), timeout=5) as wire:
        lines = [f"POST /einstein/ai-agent/v1/sessions/{session}/messages HTTP/1.1", f"Host: {url.netloc}"]
        lines += ["Content-Length: 100", "Expect: 100-continue", "", ""]
        wire.sendall("\r\n".join(lines).encode())
        # The server says this when it waits for the body.
        assert wire.recv(100).startswith(b"HTTP/1.1 100")
        wire.sendall(b"{")
    # Each of these takes the server at least as many steps as noticing the lost connection.
    for number in (1, 2, 3):
        assert caller.send(session, sequence_id=number).status_code == 200
    assert len(org.requests) == before + 3
    org.stop()
    assert caplog.records == []


@pytest.mark.parametrize("operation", ["token", "start", "end", "feedback", "query"])
def test_every_operation_can_be_held(caller, org, operation):
    session = caller.open()
    feedback_id = caller.send(session).json()["messages"][0]["feedbackId"]
    calls = {
        "token": caller.ask_token,
        "start": caller.start,
        "end": lambda: caller.end(session),
        "feedback": lambda: caller.rate(session, feedbackId=feedback_id, feedback="GOOD"),
        "query": lambda: caller.call("GET", "/services/data/v63.0/query?q=SELECT Id FROM BotDefinition"),
    }
    with ThreadPoolExecutor(1) as pool:
        with org.hold(operation) as hold:
            waiting = pool.submit(calls[operation])
            hold.wait_until_held()
            assert not waiting.done()
        assert waiting.result(timeout=5).status_code in (200, 201)


def test_hold_reports_what_did_not_arrive_and_is_held_once(org):
    with org.hold("send") as hold:
        with pytest.raises(TimeoutError, match="0 of 2 'send' requests"):
            hold.wait_until_held(0, count=2)
        with pytest.raises(ValueError, match="held already"):
            org.hold("send")
    assert org.hold("send").released is False


def test_hold_of_an_unknown_operation_is_refused(org):
    with pytest.raises(ValueError, match="Unknown operation"):
        org.hold("sned")


def test_fifty_clients_at_once_keep_their_conversations_apart(make_caller):
    owner = make_caller(max_concurrent_sessions=50)
    org = owner.org

    def converse(number):
        with Caller(org) as caller:
            caller.login()
            session = caller.open()
            heard = [
                caller.send(session, f"client {number} turn {turn}", turn).json()["messages"][0]["message"]
                for turn in (1, 2, 3)
            ]
            return heard, caller.end(session).status_code

    with ThreadPoolExecutor(50) as pool:
        outcomes = list(pool.map(converse, range(50)))
    for number, (heard, ended) in enumerate(outcomes):
        assert [text.endswith(f"client {number} turn {turn}") for turn, text in enumerate(heard, 1)] == [
            True
        ] * 3
        assert ended == 200
    assert (org.applied(), org.count("send"), org.tokens_issued) == (150, 150, 51)
    assert org.open_sessions == []
    assert all(turn.applied == 1 for session in org.sessions.values() for turn in session.turns)


def test_importing_the_package_loads_neither_server_nor_airflow_nor_client():
    program = (
        "import sys, airflow_provider_agentforce.emulator\n"
        "heavy = {'fastapi', 'starlette', 'uvicorn', 'airflow', 'airflow_provider_agentforce.client'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(  # our own program
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
