import pytest
from emulator_caller import BASE, assert_refused


@pytest.fixture
def session(caller):
    return caller.open()


@pytest.mark.parametrize("reason", ["UserRequest", "Transfer", "Expiration", "Error", "Other"])
def test_end_confirms_with_its_own_reason(caller, org, session, reason):
    answer = caller.end(session, reason)
    assert answer.status_code == 200
    [message] = answer.json()["messages"]
    assert message.pop("id")
    assert message == {"type": "SessionEnded", "reason": "ClientRequest", "feedbackId": "", "metrics": {}}
    assert "_links" in answer.json()
    record = org.sessions[session]
    assert (record.open, record.end_reason) == (False, reason)
    assert org.open_sessions == []


@pytest.mark.parametrize("reason", [None, "", "Expired", "userrequest"])
def test_end_needs_a_listed_reason(caller, org, session, reason):
    assert_refused(caller.end(session, reason), 400, "x-session-end-reason")
    assert org.open_sessions == [session]


def test_a_session_ends_once(caller, session):
    assert caller.end(session).status_code == 200
    assert_refused(caller.end(session), 404, f"V6Session not found for sessionId: {session}")


def test_session_ended_by_the_agent_is_over(caller, org, session):
    kinds = [message["type"] for message in caller.send(session, "goodbye").json()["messages"]]
    assert kinds == ["Inform", "SessionEnded"]
    assert org.sessions[session].end_reason == "Action"
    assert_refused(caller.send(session), 404, "V6Session not found")


def test_escalation_leaves_the_session_open(caller, org, session):
    kinds = [message["type"] for message in caller.send(session, "a human please").json()["messages"]]
    assert kinds == ["Inform", "Escalate"]
    assert org.open_sessions == [session]


@pytest.mark.parametrize("status", [201, 202])
def test_feedback_is_taken_without_a_body(make_caller, status):
    caller = make_caller(feedback_status=status)
    session = caller.open()
    feedback_id = caller.send(session).json()["messages"][0]["feedbackId"]
    rating = {"feedbackId": feedback_id, "feedback": "GOOD", "text": "clear", "details": {"dag": "x"}}
    answer = caller.rate(session, **rating)
    assert (answer.status_code, answer.content) == (status, b"")
    assert caller.org.sessions[session].feedback == [rating]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feedbackId": "unknown"}, "feedbackId"),
        ({"feedbackId": ""}, "feedbackId"),
        ({"feedbackId": None}, "Missing required creator property 'feedbackId'"),
        ({"feedback": None}, "Missing required creator property 'feedback'"),
        ({"feedback": "MAYBE"}, "feedback: Input should be 'GOOD' or 'BAD'"),
        ({"extra": 1}, 'Unrecognized field "extra"'),
        ({"text": 5}, "text: Input should be a valid string"),
        ({"details": []}, "details: Input should be a valid dictionary"),
        ({"details": {str(number): number for number in range(11)}}, "at most 10"),
    ],
)
def test_bad_feedback_is_refused(caller, org, session, changes, message):
    feedback_id = caller.send(session).json()["messages"][0]["feedbackId"]
    rating = {"feedbackId": feedback_id, "feedback": "BAD", **changes}
    assert_refused(caller.rate(session, **rating), 400, message)
    assert org.sessions[session].feedback == []


def test_feedback_on_another_sessions_answer_is_refused(caller, session):
    feedback_id = caller.send(session).json()["messages"][0]["feedbackId"]
    assert caller.rate(caller.open(), feedbackId=feedback_id, feedback="GOOD").status_code == 400


def test_feedback_needs_json_and_an_open_session(caller, session):
    path = f"{BASE}/sessions/{session}/feedback"
    answer = caller.call("POST", path, data="{}", headers={"Content-Type": "text/plain"})
    assert_refused(answer, 500, "Unsupported Media Type")
    assert_refused(caller.rate("gone", feedbackId="x", feedback="GOOD"), 404, "V6Session not found")
