import json

import pytest


def read(caller, path):
    return caller.call("GET", path).json()


def test_a_fault_can_be_programmed_over_http(caller, org):
    answer = caller.call("POST", "/emulator/faults", {"operation": "start", "status": 503, "times": 2})
    assert answer.status_code == 201
    assert (answer.json()["operation"], answer.json()["remaining"]) == ("start", 2)
    assert caller.start().status_code == 503
    [pending] = read(caller, "/emulator/faults")["faults"]
    assert pending["remaining"] == 1
    assert caller.call("DELETE", "/emulator/faults").json() == {"faults": []}
    assert org.unused_faults() == []
    assert caller.start().status_code == 200


@pytest.mark.parametrize("body", [{"operation": "sned"}, {"operation": "send", "colour": 1}, {}, [1], "x"])
def test_a_bad_fault_is_refused_with_the_reason(caller, org, body):
    answer = caller.call("POST", "/emulator/faults", body)
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert org.unused_faults() == []


def test_sessions_can_be_watched(caller):
    session = caller.open()
    caller.send(session, "hello")
    state = read(caller, "/emulator/sessions")
    assert state["sessions"][0]["session_id"] == session
    assert state["sessions"][0]["turns"][0]["text"] == "hello"
    assert (state["tokens_issued"], state["requests"]) == (1, 3)
    assert len(state["agents"]) == 3


def test_a_watcher_hears_only_of_changes(caller, org):
    path = f"/emulator/sessions?since={read(caller, '/emulator/sessions')['version']}"
    assert caller.call("GET", path).status_code == 204
    org.fail("start", status=503)
    assert caller.call("GET", path).status_code == 200
    later = f"/emulator/sessions?since={read(caller, '/emulator/sessions')['version']}"
    caller.start()
    assert read(caller, later)["faults"] == []


def test_admin_requests_are_not_part_of_the_log(caller, org):
    before = len(org.requests)
    for path in ("/", "/emulator/sessions", "/emulator/requests", "/emulator/faults"):
        assert caller.call("GET", path).status_code == 200
    assert len(org.requests) == before


def test_requests_are_shown_without_tokens_and_secrets(caller, org):
    caller.ask_token(client_secret="my real secret")
    session = caller.open(externalSessionKey=caller.bearer)
    caller.send(session, f"my secret is {org.consumer_secret} and my token {caller.bearer}")
    shown = "".join(
        caller.call("GET", path).text
        for path in ("/emulator/requests", "/emulator/sessions", "/emulator/faults", "/")
    )
    assert "grant_type=client_credentials&client_id=EMULATOR.consumer.key&client_secret=(hidden)" in shown
    assert "my secret is (hidden) and my token (hidden)" in shown
    for secret in (org.consumer_secret, caller.bearer, "my+real+secret", "my real secret"):
        assert secret not in shown


def test_a_token_request_that_is_no_form_is_not_shown(caller):
    caller.call("POST", "/services/oauth2/token", {"client_secret": "real"})
    assert read(caller, "/emulator/requests")["requests"][-1]["body"] == "(hidden)"


def test_reset_and_revoke_work_over_http(caller, org):
    session = caller.open()
    assert caller.call("POST", "/emulator/revoke-tokens").json() == {"revoked": 1}
    assert caller.send(session).status_code == 401
    assert caller.call("POST", "/emulator/reset").json() == {"reset": True}
    assert (org.sessions, org.requests) == ({}, [])


def test_page_loads_nothing_from_elsewhere(caller):
    answer = caller.call("GET", "/")
    assert answer.headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "http://" not in answer.text
    assert "https://" not in answer.text
    assert "innerHTML" not in answer.text


def test_a_bytes_body_of_a_fault_can_be_shown(caller, org):
    org.fail("send", body=b"\xffraw")
    assert json.loads(caller.call("GET", "/emulator/faults").text)["faults"][0]["body"] == "\ufffdraw"
