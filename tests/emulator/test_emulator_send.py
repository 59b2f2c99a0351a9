import pytest
from emulator_caller import BASE, assert_refused

MISSING = "Missing required creator property '{}'"


@pytest.fixture
def session(caller):
    return caller.open()


def test_answer_has_the_documented_fields(caller, session):
    body = caller.send(session, "hello").json()
    [answer] = body["messages"]
    assert set(answer) == {
        "type",
        "id",
        "metrics",
        "feedbackId",
        "planId",
        "isContentSafe",
        "message",
        "result",
        "citedReferences",
    }
    assert answer["type"] == "Inform"
    assert answer["feedbackId"]
    assert body["_links"]["messages"]["href"].endswith(f"{session}/messages")


def test_turn_is_remembered(caller, org, session):
    variables = [{"name": "case", "type": "Text", "value": "7"}]
    body = caller.send(session, "hello", 3, variables=variables).json()
    [turn] = org.sessions[session].turns
    assert (turn.text, turn.sequence_id, turn.type, turn.stream) == ("hello", 3, "Text", False)
    assert turn.variables == {"case": "7"}
    assert turn.messages == body["messages"]
    assert turn.applied == org.applied("hello") == org.applied() == 1


def test_request_log_tells_what_arrived(caller, org, session):
    caller.send(session, "hello")
    caller.send(session, "again", stream=True)
    assert [record.operation for record in org.requests] == ["token", "start", "send", "send"]
    assert org.count("send") == 2
    sync, stream = org.requests[2:]
    assert (sync.stream, stream.stream) == (False, True)
    assert sync.body == {"message": {"type": "Text", "sequenceId": 1, "text": "hello"}}
    assert sync.headers["authorization"] == f"Bearer {caller.bearer}"
    assert (sync.method, sync.path) == ("POST", f"{BASE}/sessions/{session}/messages")
    assert (sync.status, stream.status) == (200, 200)
    assert sync.at <= stream.at
    assert org.requests[0].body.startswith("grant_type=client_credentials&")


@pytest.mark.parametrize(
    ("message", "refusal"),
    [
        ({"type": "Text", "text": "x"}, MISSING.format("sequenceId")),
        ({"type": "Text", "text": "x", "sequenceId": None}, MISSING.format("sequenceId")),
        ({"type": "Text", "text": "x", "sequenceId": "one"}, "Invalid sequenceId"),
        ({"type": "Text", "text": "x", "sequenceId": True}, "Invalid sequenceId"),
        ({"type": "Text", "sequenceId": 1}, MISSING.format("text")),
        ({"type": "Text", "sequenceId": 1, "text": 5}, "message.Text.text: Input should be a valid string"),
        ({"text": "x", "sequenceId": 1}, MISSING.format("type")),
        ({"type": "Shout", "text": "x", "sequenceId": 1}, "'Shout' found using 'type' does not match"),
        ({"type": "Text", "text": "x", "sequenceId": 1, "role": "User"}, 'Unrecognized field "role"'),
        ({"type": "Reply", "sequenceId": 1}, MISSING.format("reply")),
        ({"type": "Reply", "sequenceId": 1, "reply": "x"}, "reply: Input should be a valid list"),
        ({"type": "Reply", "sequenceId": 1, "reply": [{"x": 1}]}, 'Unrecognized field "x"'),
        ({"type": "TransferFailed", "sequenceId": 1}, MISSING.format("reason")),
        (
            {"type": "TransferFailed", "sequenceId": 1, "reason": "Rain"},
            "should be 'NoAgentAvailable' or 'Error'",
        ),
        ({"type": "PlanTemplate", "sequenceId": 1}, MISSING.format("details")),
        (
            {"type": "PlanTemplate", "sequenceId": 1, "details": []},
            "details: Input should be a valid",
        ),
        ("hello", "message: Input should be a valid dictionary or object"),
    ],
)
def test_a_bad_message_is_refused_and_not_acted_on(caller, org, session, message, refusal):
    assert_refused(caller.message(session, message), 400, refusal)
    assert org.applied() == 0


def test_sequence_id_beside_the_message_is_the_documented_400(caller, session):
    path = f"{BASE}/sessions/{session}/messages"
    for body in ({"sequenceId": 1}, {"sequenceId": 1, "message": {"type": "Text", "text": "x"}}):
        assert_refused(caller.call("POST", path, body), 400, MISSING.format("sequenceId"))


def test_unknown_or_missing_fields_around_the_message_are_400(caller, session):
    assert_refused(caller.send(session, extra=1), 400, 'Unrecognized field "extra"')
    assert_refused(caller.send(session, variables="x"), 400, "variables: Input should be a valid list")
    assert_refused(
        caller.call("POST", f"{BASE}/sessions/{session}/messages", {}), 400, MISSING.format("message")
    )


@pytest.mark.parametrize(
    "message",
    [
        {"type": "Reply", "reply": [{"type": "t", "property": "p", "value": "v"}]},
        {"type": "Cancel", "inReplyToMessageId": "m"},
        {"type": "TransferFailed", "reason": "NoAgentAvailable", "description": "late"},
        {"type": "TransferSucceeded"},
        {"type": "PlanTemplate", "details": {"planId": "p"}},
        {"type": "Text", "text": "x", "inReplyToMessageId": "m"},
    ],
)
def test_every_type_of_message_is_answered(caller, org, session, message):
    answer = caller.message(session, {"sequenceId": 1, **message})
    assert answer.status_code == 200
    assert answer.json()["messages"][0]["message"]
    assert org.sessions[session].turns[0].type == message["type"]


@pytest.mark.parametrize("sequence_id", [0, 42, -3, 1764000000340, 1.5, "1"])
def test_any_number_will_do_as_sequence_id(caller, session, sequence_id):
    assert caller.send(session, sequence_id=sequence_id).status_code == 200


def test_strict_order_takes_only_the_next_number(make_caller):
    caller = make_caller(strict_sequence=True)
    session = caller.open()
    assert_refused(caller.send(session, sequence_id=2), 400, "Invalid sequenceId")
    assert caller.send(session, sequence_id=1).status_code == 200
    assert_refused(caller.send(session, sequence_id=3), 400, "Invalid sequenceId")
    assert caller.send(session, sequence_id=2).status_code == 200
    for used in (1, 2):
        refused = caller.send(session, sequence_id=used)
        assert_refused(refused, 400, f"Sequence id {used} was already used", "BadRequest")
    assert caller.org.applied() == 2


def test_a_resend_counts_on_the_same_turn(caller, org, session):
    caller.send(session, "pay", 1)
    caller.send(session, "pay", 1)
    caller.send(session, "pay", 2)
    assert [turn.applied for turn in org.sessions[session].turns] == [2, 1]
    assert org.applied("pay") == 3
    assert org.applied("other") == 0


def test_context_variables_are_fixed_after_the_start_except_the_language(caller, org):
    def variable(name, value):
        return {"name": name, "type": "Text", "value": value}

    names = ("$Context.AccountId", "$Context.EndUserLanguage", "mood")
    session = caller.open(variables=[variable(name, "old") for name in names])
    caller.send(session, variables=[variable(name, "new") for name in names])
    assert org.sessions[session].variables == dict(zip(names, ("old", "new", "new"), strict=True))


@pytest.mark.parametrize("gone", ["unknown", "ended"])
def test_a_session_that_is_gone_is_404(caller, session, gone):
    if gone == "ended":
        caller.end(session)
    else:
        session = "019d0aac-dcd0-7368-936c-106bffe75e84"
    message = f"V6Session not found for sessionId: {session}"
    for answer in (caller.send(session), caller.send(session, stream=True), caller.end(session)):
        assert_refused(answer, 404, message, "NotFoundException")


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (404, "NotFoundException", "V6Session not found for sessionId: {}"),
        (410, "NotAvailableError", "Gone"),
        (500, "HttpServerErrorException", "V6Session not found for sessionId: {}"),
    ],
)
def test_a_session_that_is_gone_answers_as_chosen(make_caller, status, error, message):
    caller = make_caller(gone_status=status)
    session = caller.open()
    caller.end(session)
    for answer in (caller.send(session), caller.end(session)):
        assert_refused(answer, status, message.format(session), error)


def test_an_idle_session_is_gone(make_caller):
    caller = make_caller(session_idle_timeout=0)
    session = caller.open()
    assert_refused(caller.send(session), 404, "V6Session not found")
    assert caller.org.sessions[session].end_reason == "IdleTimeout"
    assert caller.org.open_sessions == []


def test_too_many_messages_are_429(make_caller):
    caller = make_caller(max_messages_per_session=1, retry_after=2.5)
    session = caller.open()
    assert caller.send(session).status_code == 200
    refused = caller.send(session, sequence_id=2)
    assert_refused(refused, 429, "Too many requests")
    assert refused.headers["Retry-After"] == "2.5"
    assert caller.send(caller.open()).status_code == 200


def test_one_request_at_a_time_per_session(make_caller):
    refused = []

    def answer(_turn):
        # The agent is at work here, so its session is taken and another one is not.
        refused.extend([other.send(session), other.send(session, stream=True), other.end(session)])
        refused.append(other.end(free))
        return "done"

    caller, other = make_caller(script=answer), make_caller()
    other.org, other.bearer = caller.org, caller.bearer
    session, free = caller.open(), caller.open()
    assert caller.send(session).json()["messages"][0]["message"] == "done"
    assert [answer.status_code for answer in refused] == [423, 423, 423, 200]
    assert_refused(refused[0], 423, "Session Already Locked")
    assert caller.end(session).status_code == 200


def test_wrong_content_type_is_500(caller, session):
    assert_refused(
        caller.send(session, headers={"Content-Type": "text/plain"}), 500, "Unsupported Media Type"
    )


def test_path_of_an_error_is_the_servers(caller):
    assert caller.send("gone").json()["path"] == "v6.0.0/sessions/gone/messages"
