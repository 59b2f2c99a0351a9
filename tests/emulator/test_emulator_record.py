"""What a recorder passes on, what it writes, and above all what it does not write."""

from __future__ import annotations

import base64
import html
import json
import os
import re
import signal
import subprocess
import sys
from urllib.parse import quote

import pytest
import requests
import yaml
from emulator_caller import BASE, Caller

from airflow_provider_agentforce.emulator import Emulator
from airflow_provider_agentforce.emulator.__main__ import main
from airflow_provider_agentforce.emulator.recorded_script import RecordedCall, RecordedScript
from airflow_provider_agentforce.emulator.recorder import Recorder, Upstream

QUESTION = "Where is order {4711}?"


@pytest.fixture
def recorded(tmp_path, make_org):
    """Return a function that starts an org with a script, and a recorder before it."""
    recorders = []

    def build(script=None, **settings):
        org = make_org(script=script, **settings)
        recorder = Recorder(Upstream(org.url), tmp_path / "recorded.yaml")
        recorder.start()
        recorders.append(recorder)
        return org, recorder, caller_of(org, recorder.url)

    yield build
    for recorder in recorders:
        recorder.stop()


class Passed(Caller):
    """A caller that knows the org by another address."""

    def __init__(self, org, url):
        super().__init__(org)
        self.org = _Addressed(org, url)


class _Addressed:
    def __init__(self, org, url):
        self.url = url
        self.agent_id = org.agent_id
        self.consumer_key = org.consumer_key
        self.consumer_secret = org.consumer_secret


def caller_of(org, url):
    return Passed(org, url).login()


def written(recorder, path):
    recorder.stop()
    return path.read_text()


def asked(org, *texts, stream=False):
    """Return what the agent of an org says to these texts in one session."""
    with Caller(org) as caller:
        session = caller.login().open()
        answers = [caller.send(session, text, number + 1) for number, text in enumerate(texts)]
        return [[one.get("message") for one in answer.json()["messages"]] for answer in answers]


def test_an_org_that_was_recorded_answers_the_same_when_replayed(recorded, tmp_path):
    org, recorder, caller = recorded(
        {
            "greeting": "Hello {you}!",
            "answers": [
                {"match": "order", "text": "{{ '{' }}Shipped{{ '}' }} twice: {{ turn }}", "code": "A-1"},
                {"match": "refund", "type": "Confirm", "text": "Shall I refund it?"},
                {"match": "stream", "text": "One two three four five six."},
                {"text": "What?"},
            ],
        }
    )
    session = caller.open()
    for number, text in enumerate((QUESTION, "refund", QUESTION), 1):
        caller.send(session, text, number)
    streamed = caller.stream(session, "stream it", 4)
    assert caller.end(session).status_code == 200
    script = yaml.safe_load(written(recorder, tmp_path / "recorded.yaml"))
    assert [entry.get("turn") for entry in script["answers"]] == [1, 3, None, None]
    with Emulator(script=tmp_path / "recorded.yaml") as replayed:
        assert asked(replayed, QUESTION, "refund", QUESTION) == asked(org, QUESTION, "refund", QUESTION)
        with Caller(replayed) as again:
            session = again.login().open()
            events = again.stream(session, "stream it")
        assert next(iter(replayed.sessions.values())).greeting == "Hello {you}!"
    said = [data["message"]["message"] for name, _, data in events if name == "INFORM"]
    assert said == [data["message"]["message"] for name, _, data in streamed if name == "INFORM"]


def test_a_message_is_passed_on_once_and_a_lost_answer_is_lost(recorded, tmp_path):
    org, recorder, caller = recorded()
    session = caller.open()
    org.fail("send", drop=True, after=True)
    with pytest.raises(requests.ConnectionError):
        caller.send(session, "once")
    org.fail("send", cut=20)
    with pytest.raises(requests.RequestException):
        caller.send(session, "broken", 2, stream=True)
    org.fail("send", status=503)
    assert caller.send(session, "refused", 3).status_code == 503
    assert (org.applied("once"), org.applied("broken"), org.applied("refused")) == (1, 1, 0)
    assert yaml.safe_load(written(recorder, tmp_path / "recorded.yaml"))["answers"] == []
    assert recorder.script.refused == {503: 1}


def test_an_org_that_does_not_answer_is_no_answer(tmp_path):
    with (
        Recorder(Upstream("http://127.0.0.1:9"), tmp_path / "recorded.yaml") as recorder,
        pytest.raises(requests.ConnectionError),
    ):
        requests.post(f"{recorder.url}{BASE}/sessions/1/messages", json={}, timeout=10)


def forms_of(canary):
    """Return how a secret may stand in a file, whole or in the middle of something encoded."""
    plain = canary.encode()
    yield from (canary, quote(canary, safe=""), html.escape(canary), json.dumps(canary)[1:-1])
    for before in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            inside = encode(b":" * before + plain).decode().rstrip("=")
            # The last and the first characters also hold bits of what stands beside them.
            yield inside[2 if before else 0 : -2]


def test_no_secret_and_no_id_is_written_in_any_form(recorded, tmp_path):
    canaries = []

    def answer(turn):
        """Say everything that the org knows, in every form."""
        found = [form for canary in canaries for form in (canary, *encoded(canary))]
        return {
            "type": "Inform",
            "text": " ".join(found),
            "result": [{"type": "X", "property": canaries[0], "value": json.dumps({"all": found})}],
            "citedReferences": [{"url": f"https://acme.my.salesforce.com/{quote(one)}"} for one in canaries],
            f"key {canaries[0]}": canaries[1:],
        }

    org, recorder, caller = recorded(answer)
    session = caller.open()
    identity = caller.ask_token().json()["id"]
    user = caller.call("GET", "/services/oauth2/userinfo").json()
    canaries += [
        *(caller.bearer, org.consumer_secret, org.consumer_key, session, identity.split("/")[-2]),
        *(identity.split("/")[-1], user["preferred_username"], org.agent_id),
        *("00DKK0000012345!AQEAQ.secret_canary", "jane.canary@acme.example", "001KK000001CANARY4"),
    ]
    for number, canary in enumerate(canaries, 1):
        text = f"I am {canary} and {' '.join(encoded(canary))}"
        assert caller.send(session, text, number).status_code == 200
    assert caller.send(session, "hello", len(canaries) + 1, stream=True).status_code == 200
    caller.end(session)
    text = written(recorder, tmp_path / "recorded.yaml")
    assert "hello" in text
    assert len(yaml.safe_load(text)["answers"]) > 1
    for canary in canaries:
        found = [form for form in forms_of(canary) if form in text]
        assert found == [], canary
    with Emulator(script=tmp_path / "recorded.yaml") as replayed:
        ((said,),) = asked(replayed, f"I am {canaries[0]} and {' '.join(encoded(canaries[0]))}")
        assert said.startswith("***")


def encoded(canary):
    return (
        *(quote(canary, safe=""), quote(quote(canary, safe=""), safe=""), html.escape(canary)),
        *(base64.b64encode(f"{':' * pad}{canary}".encode()).decode() for pad in range(3)),
        *(base64.urlsafe_b64encode(f"{'<' * pad}{canary}>".encode()).decode() for pad in range(3)),
        "".join(f"\\u{ord(char):04x}" for char in canary),
    )


def exchange(path, *, method="POST", body=b"", answer=None, headers=None, query=""):
    return RecordedCall(
        method=method,
        path=path,
        query=query,
        headers=headers or {},
        body=body,
        status=200,
        answer_headers={"content-type": "application/json", "set-cookie": "sid=COOKIE-CANARY-1; Path=/"},
        answer=json.dumps(answer or {}).encode(),
    )


def claims_of(**claims):
    parts = (json.dumps(one).encode() for one in ({"alg": "RS256"}, claims))
    return ".".join(
        [*(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts), "SIGNATURECANARY"]
    )


@pytest.mark.parametrize(
    ("canary", "learned"),
    [
        (
            "basic-canary-secret",
            {"headers": {"authorization": "Basic " + base64.b64encode(b"key:basic-canary-secret").decode()}},
        ),
        ("opaque-canary-token", {"headers": {"authorization": "Bearer opaque-canary-token"}}),
        ("cookie-canary", {"headers": {"cookie": "a=b; sid=cookie-canary"}}),
        ("COOKIE-CANARY-1", {}),
        ("query-canary", {"query": "access_token=query-canary"}),
        ("form+canary/secret", {"body": b"client_secret=form%2Bcanary%2Fsecret"}),
        ("etl-canary", {"body": f"assertion={claims_of(sub='etl-canary', iss='key-canary')}".encode()}),
        ("key-canary", {"body": f"assertion={claims_of(sub='etl-canary', iss='key-canary')}".encode()}),
        ("Jane Canary", {"answer": {"name": "Jane Canary"}}),
        ("jane_canary", {"answer": {"records": [{"attributes": {}, "Username": "jane_canary"}]}}),
    ],
)
@pytest.mark.parametrize("late", [False, True])
def test_a_secret_is_known_wherever_it_travels_even_after_it_was_said(canary, learned, late):
    script = RecordedScript()
    login = exchange("/services/oauth2/token", **learned)
    said = exchange(
        f"{BASE}/sessions/1/messages",
        body=json.dumps({"message": {"type": "Text", "text": f"I am {canary}."}}).encode(),
        answer={"messages": [{"type": "Inform", "message": f"Hello {canary}, {quote(canary, safe='')}!"}]},
    )
    for one in (said, login) if late else (login, said):
        script.take(one)
    text = script.yaml()
    assert canary not in text
    assert quote(canary, safe="") not in text
    assert "Hello ***, ***!" in text


@pytest.mark.parametrize(
    "upstream",
    ["https://example.com", "http://acme.my.salesforce.com", "https://salesforce.com.evil.example"],
)
def test_credentials_go_to_salesforce_or_stay_on_this_machine(upstream, tmp_path, capsys):
    assert main(["record", "--upstream", upstream, "--output", str(tmp_path / "x.yaml"), "--port", "0"]) == 1
    assert "neither a host of Salesforce" in capsys.readouterr().err


def test_a_file_is_not_overwritten(tmp_path, capsys):
    output = tmp_path / "recorded.yaml"
    output.write_text("mine")
    assert main(["record", "--upstream", "http://127.0.0.1:9", "--output", str(output), "--port", "0"]) == 1
    assert output.read_text() == "mine"
    assert "--output" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["unheard_of", '{"password": "canary-secret"}', "{canary-secret"])
def test_a_bad_connection_is_one_clear_line_without_its_secret(given, tmp_path, capsys):
    assert main(["record", "--conn", given, "--output", str(tmp_path / "x.yaml"), "--port", "0"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "--conn" in error
    assert "canary-secret" not in error


def test_the_commands_record_and_replay(make_org, tmp_path):
    org, output = make_org(), tmp_path / "recorded.yaml"
    command = [sys.executable, "-m", "airflow_provider_agentforce.emulator"]
    environment = {**os.environ, "AIRFLOW_CONN_MY_ORG": org.connection()}

    def run(*arguments):
        return subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True, env=environment)

    with run("record", "--conn", "my_org", "--output", str(output), "--port", "0") as process:
        assert str(output) in process.stdout.readline()
        url = re.search(r"http://[\d.:]+", process.stdout.readline())[0]
        caller = caller_of(org, url)
        caller.send(caller.open(), "hello")
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
        assert f"Recorded 1 answers. Read the file, then run: agentforce-emulator replay {output}" in rest
        assert org.consumer_secret not in rest
    with run("replay", str(output), "--port", "0") as process:
        url = re.search(r"http://[\d.:]+", process.stdout.readline())[0]
        caller = caller_of(org, url)
        answer = caller.send(caller.open(), "hello").json()["messages"][0]["message"]
        process.terminate()
        process.communicate(timeout=60)
    # The key of the emulator's own app has its name in it.
    assert answer == "I am the ***'s agent and heard: hello"
