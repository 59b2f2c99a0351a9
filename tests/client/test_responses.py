"""Responses: every documented shape, every shape that no database keeps, and bytes that are no reply at all.

The payloads are composed from the API's reference and examples pages; none is from a live org.
"""

import contextlib
import itertools
import json
import math
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_agentforce.client import Session, Turn, responses
from airflow_provider_agentforce.client.delivery_policy import Failure, Operation
from airflow_provider_agentforce.client.failure_catalogue import failure_of, remedy_of
from airflow_provider_agentforce.client.responses import UnreadableReplyError

PAYLOADS = Path(__file__).parent / "payloads"
NUMBERS = itertools.count(1)
SESSION = Session("s-1", 0, "0Xxxx0000000001CAA")


def payload(name):
    return json.loads((PAYLOADS / name).read_text(encoding="utf-8"))


def read_turn(messages):
    return responses.turn(responses.messages_of({"messages": messages}), session=SESSION, sequence_id=1)


def encoded(value):
    return json.dumps(value).encode()


# Documented shapes


def test_token_of_the_documentation_is_read():
    reply = responses.token(
        encoded(payload("01_token_responses.json")["jwt_official_shape"]["body"]), now=0.0
    )
    assert (reply.is_jwt, reply.lifetime) == (True, 1800.0)
    assert reply.scopes == {"sfap_api", "chatbot_api", "api"}
    assert reply.api_instance_url == "https://api.salesforce.com"
    assert reply.instance_url == "https://example-dev-ed.develop.my.salesforce.com"


def test_opaque_token_of_the_guide_is_read():
    reply = responses.token(encoded(payload("01_token_responses.json")["guide_shape"]["body"]), now=0.0)
    assert (reply.is_jwt, reply.lifetime, reply.scopes, reply.api_instance_url) == (False, None, None, None)


@pytest.mark.parametrize("name", ["error_no_run_as", "error_bad_secret", "error_bad_key"])
def test_token_error_is_read(name):
    body = payload("01_token_responses.json")[name]["body"]
    assert responses.error(encoded(body)).text == f"{body['error']}: {body['error_description']}"


@pytest.mark.parametrize(
    "name", ["response_observed_2026", "response_official_sample_links", "response_guide_shape"]
)
def test_start_is_read(name):
    body = payload("02_start_session.json")[name]
    greeting = "" if "guide" in name else "Hi, I'm an AI service assistant. How can I help you?"
    assert responses.start(body) == (body["sessionId"], greeting)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "empty"),
        (b'{"sessionId":"a', "not JSON"),
        (b"[]", "a list instead of an object"),
        (b"{}", "without a usable sessionId"),
        (b'{"sessionId":"../x"}', "without a usable sessionId"),
        (b'[{"errorCode":"BUSY","message":"later"}]', "BUSY: later"),
        (b'{"sessionId":null,"error":"BUSY","message":"later"}', "BUSY: later"),
    ],
)
def test_start_without_a_session_is_unreadable_and_keeps_the_orgs_words(body, why):
    with pytest.raises(UnreadableReplyError, match=why) as caught:
        responses.start(responses.decode_reply(body))
    assert caught.value.failure is Failure.UNREADABLE


@pytest.mark.parametrize("messages", ["null", "7", '[null,7,{"type":"Inform","message":null}]'])
def test_start_needs_no_greeting(messages):
    body = f'{{"sessionId":"s-1","messages":{messages}}}'.encode()
    assert responses.start(responses.decode_reply(body)) == ("s-1", "")


def test_answer_with_results_and_citations_is_read():
    body = payload("03_send_message_inform.json")["response"]
    turn = read_turn(responses.decode_object(encoded(body))["messages"])
    assert turn.to_dict() == {
        "session_id": "s-1",
        "sequence_id": 1,
        "agent_id": "0Xxxx0000000001CAA",
        "text": "One promotion is active: Power Bank Tariff.",
        "outcome": "answered",
        "messages": body["messages"],
        "citations": body["messages"][0]["citedReferences"],
        "results": body["messages"][0]["result"],
        "feedback_id": "f8308c08-5c63-479f-af71-c1e80ccdb166",
        "plan_id": "f8308c08-5c63-479f-af71-c1e80ccdb166",
        "is_content_safe": True,
        "agent_version": None,
        "request": None,
        "resolution": None,
    }


def test_answer_of_the_guide_is_read():
    turn = read_turn(payload("03_send_message_inform.json")["response_guide_shape"]["messages"])
    assert turn.text == "Hello! I'm here to help. What can I assist you with today?"
    assert (turn.outcome, turn.feedback_id, turn.is_content_safe) == ("answered", None, None)


OTHER_TYPES = {
    "inquire": ("needs_input", "Please give the account name."),
    "confirm": ("needs_confirmation", "Shall I create the account Acme?"),
    "failure": ("failed", ""),
    "escalate_official_targets": ("escalated", "Let me connect you with a person."),
    "escalate_mulesoft_targets": ("escalated", ""),
    "session_ended_by_agent": ("ended", "Goodbye!"),
    "error_in_200": ("failed", "An unexpected error occurred while processing your request."),
    "unknown_future_type": ("answered", ""),
    "no_messages": ("answered", ""),
}


def test_no_documented_type_is_left_out():
    assert set(OTHER_TYPES) == set(payload("04_send_message_other_types.json"))


@pytest.mark.parametrize("name", OTHER_TYPES)
def test_other_type_is_read(name):
    messages = payload("04_send_message_other_types.json")[name]["messages"]
    turn = read_turn(messages)
    assert (turn.outcome, turn.text) == OTHER_TYPES[name]
    assert turn.messages == messages
    assert turn.session_ended is (name == "session_ended_by_agent")


@pytest.mark.parametrize("name", list(payload("09_errors.json")))
def test_error_body_is_read(name):
    body = payload("09_errors.json")[name]["body"]
    if isinstance(body, dict):
        assert responses.error(encoded(body)).text == f"{body['error']}: {body['message']}".strip()
    else:
        assert responses.error(body.encode()).text == ("URL No Longer Exists" if body else "")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", ""),
        (b"  \n", "  \n"),
        (b"upstream timeout", "upstream timeout"),
        (b"<h1>502</h1>", ""),
        (b"<HTML><TITLE>\n Bad\nGateway </TITLE>", "\n Bad\nGateway "),
        (b'[{"message":"m","errorCode":"C"}]', "C: m"),
        (b"[]", "[]"),
        (b"[1]", "[1]"),
        (b'"text"', '"text"'),
        (b"null", "null"),
        (b'{"error":null,"message":null}', ""),
        (b'{"detail":"d"}', "d"),
        (b'{"error":"e"}', "e"),
        (b'{"error":{"code":"C","message":"m"}}', "C: m"),
        (b'{"error":"e","message":["m",{"message":"n"}]}', "e: m; n"),
        (b'{"errors":[{"errorCode":"C","message":"m"},"n"]}', "C: m; n"),
        (b'[{"errorCode":"C","message":"m"},{"errorCode":"D","message":"n"}]', "C: m; D: n"),
        (b'{"error":"e","errors":["m"],"detail":"m"}', "e: m"),
        (b'{"error":true,"message":7}', ""),
        (b'{"code":12,"message":" m "}', "12: m"),
        (b'{"message":"\\ud83d\\u0000"}', "\ufffd\ufffd"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"{" * 100_000, None),
    ],
)
def test_error_body_of_any_kind_is_read(body, text):
    found = responses.error(body).text
    assert found == text if text is not None else found.startswith("{{{")


# Outcomes


def message(kind, **fields):
    return {"type": kind, "id": f"id {next(NUMBERS)}", **fields}


@pytest.mark.parametrize(
    ("kinds", "outcome"),
    [
        (["Inform"], "answered"),
        ([], "answered"),
        (["Inform", "Inquire"], "needs_input"),
        (["Inquire", "Confirm"], "needs_confirmation"),
        (["Confirm", "Escalate"], "escalated"),
        (["Escalate", "Failure"], "failed"),
        (["Inform", "Error", "SessionEnded"], "failed"),
        (["Inform", "SessionEnded"], "ended"),
        (["Inquire", "SessionEnded"], "needs_input"),
        (["Escalate", "SessionEnded"], "escalated"),
        (["Hologram"], "answered"),
    ],
)
def test_what_a_dag_must_act_on_outranks_what_happened(kinds, outcome):
    for order in (kinds, kinds[::-1]):
        assert read_turn([message(kind) for kind in order]).outcome == outcome


def test_failure_that_escalates_is_an_escalation_unless_there_is_an_error():
    failure = message("Failure", code="ESCALATE", errors=["no"])
    assert read_turn([failure]).outcome == "escalated"
    assert read_turn([failure, message("Error")]).outcome == "failed"


@pytest.mark.parametrize("kind", ["Escalate", "Escalation", "EscalateToConversationMessage"])
def test_every_escalation_is_one(kind):
    turn = read_turn([message("Inform", message="One moment."), message(kind, message="To a person.")])
    assert (turn.outcome, turn.text) == ("escalated", "One moment.\nTo a person.")


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([message("Inform", message="x")], ""),
        ([message("Failure")], ""),
        ([message("Failure", code="", message=" ", errors=[])], ""),
        ([message("Failure", code=None, message=None, errors=None)], ""),
        ([message("Failure", code="ACTION_FAILED")], "ACTION_FAILED"),
        ([message("Failure", code="ACTION_FAILED", message="", errors=["", "no"])], "ACTION_FAILED: no"),
        ([message("Failure", code="C", message="m", errors=["n", {"message": "o"}, 7])], "C: m; n; o"),
        ([message("Failure", errors="odd")], "odd"),
        ([message("Error", error="E", message="m", httpStatus=500)], "E: m"),
        ([message("Error", message="m")], "m"),
        ([message("Failure", message="I failed"), message("Error", error="E")], "I failed; E"),
        ([message("Failure", message="same"), message("Error", message="same")], "same"),
    ],
)
def test_failure_is_told_in_the_agents_words_without_stray_punctuation(messages, reason):
    assert read_turn(messages).failure_reason == reason


def test_deeply_nested_errors_have_a_reason_of_bounded_depth():
    nested = "x"
    for _ in range(400):
        nested = {"message": "m", "errors": [nested]}
    assert read_turn([message("Error", errors=[nested])]).failure_reason == "m"


def test_texts_are_joined_in_order_and_the_users_own_is_left_out():
    messages = [
        message("Text", text="my question", role="User"),
        message("Inform", message="One."),
        message("ProgressIndicator", message="Working"),
        message("Hologram", message="not this"),
        message("Text", text="Two.", role="Agent"),
        message("Inform", message=None, text="Three."),
        message("Inform", message=""),
        message("Inform", message=7),
        message("Confirm", message="Four?"),
        message("Error", message="nor this while there is an answer"),
    ]
    assert read_turn(messages).text == "One.\nTwo.\nThree.\nFour?"


def result(text, name="text"):
    return {"type": "x", "property": name, "value": text}


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"message": None, "result": [result("Hello")]}, "Hello"),
        ({"message": "", "result": [result("Hello"), result("you")]}, "Hello\nyou"),
        ({"result": [result("", "x"), result({"a": 1}), result(None), 7, result("Hello")]}, "Hello"),
        ({"message": "Said", "result": [result("Hello")]}, "Said"),
        ({"message": None, "result": [result("data", "Id")]}, ""),
        ({"message": None, "result": {"property": "text", "value": "x"}}, ""),
    ],
)
def test_text_is_taken_from_a_result_when_the_message_has_none(fields, text):
    turn = read_turn([message("Inform", **fields)])
    assert (turn.text, turn.outcome) == (text, "answered")


def test_message_that_arrives_twice_counts_once():
    answer = message("Inform", id="a", message="One.", result=[1], citedReferences=[2])
    turn = read_turn([answer, message("Confirm", id="b"), dict(answer)])
    assert (turn.text, turn.results, turn.citations) == ("One.", [1], [2])
    assert turn.messages == [answer, message("Confirm", id="b")]


@pytest.mark.parametrize("ids", [("a", "b"), (None, None), ("", ""), (7, 7)])
def test_messages_without_an_id_or_with_another_one_all_count(ids):
    turn = read_turn([message("Inform", id=one, message="Yes.", result=[1]) for one in ids])
    assert (turn.text, turn.results) == ("Yes.\nYes.", [1, 1])


def test_messages_of_two_types_may_share_an_id():
    turn = read_turn([message("Inform", id="a", message="Yes."), message("Escalate", id="a")])
    assert (turn.text, turn.outcome) == ("Yes.", "escalated")


@pytest.mark.parametrize(
    ("flags", "safe"), [([], None), ([True], True), ([True, False], False), (["no", None], None)]
)
def test_one_unsafe_message_makes_the_answer_unsafe(flags, safe):
    assert read_turn([message("Inform", isContentSafe=flag) for flag in flags]).is_content_safe is safe


@pytest.mark.parametrize("following", ["SessionEnded", "Escalate", "Escalation", "Hologram"])
@pytest.mark.parametrize("kind", ["Inform", "Text", "Inquire", "Confirm", "Failure"])
def test_ids_are_those_of_the_answer_not_of_what_follows_it(kind, following):
    messages = [
        message("Inform", feedbackId="a", planId="p"),
        message(kind, feedbackId="b", planId=""),
        message(following, feedbackId="c", planId=None),
        message("Inform", feedbackId=None, planId=7),
    ]
    turn = read_turn(messages)
    assert (turn.feedback_id, turn.plan_id) == ("b", "p")
    assert read_turn(messages[2:3]).feedback_id == "c"


@pytest.mark.parametrize("messages", [None, {}, "x", 7, ["x"], [None], [[]], [message("Inform"), 1]])
def test_messages_of_another_shape_are_unreadable(messages):
    with pytest.raises(UnreadableReplyError, match="without a list of messages"):
        read_turn(messages)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ([{"errorCode": "SESSION_BUSY", "message": "planner down"}], "SESSION_BUSY: planner down"),
        ({"errorCode": "SESSION_BUSY", "message": "planner down"}, "SESSION_BUSY: planner down"),
        ({"error": "PlannerError", "message": "planner down", "status": 500}, "PlannerError: planner down"),
        ({"error": {"code": "E", "message": "planner down"}}, "E: planner down"),
        ({"error": "E"}, "E"),
        ({"message": "planner down"}, "planner down"),
        ({"errors": [{"errorCode": "E", "message": "planner down"}, "no"]}, "E: planner down; no"),
        ([{"errorCode": "E", "message": "m"}, {"errorCode": "F", "message": "n"}], "E: m; F: n"),
        ({"messages": None, "error": "E", "message": "m"}, "E: m"),
        ({"messages": [], "errors": [{"message": "m"}]}, "m"),
        ({"type": "about:blank", "title": "Oops", "detail": "planner down"}, "planner down"),
    ],
)
def test_error_of_the_org_in_place_of_an_answer_is_a_failure_in_its_words(reply, reason):
    turn = responses.turn(responses.messages_of(reply), session=SESSION, sequence_id=1)
    assert (turn.outcome, turn.failure_reason) == ("failed", reason)
    assert all(one["type"] == "Error" for one in turn.messages)


def test_error_beside_an_answer_does_not_displace_it():
    reply = {"messages": [message("Inform", message="Half.")], "error": "E", "message": "m", "errors": []}
    turn = responses.turn(responses.messages_of(reply), session=SESSION, sequence_id=1)
    assert (turn.outcome, turn.text, turn.failure_reason) == ("failed", "Half.", "E: m")


@pytest.mark.parametrize(
    "extra", [{"error": None}, {"errors": []}, {"error": ""}, {"message": "OK"}, {"code": 0}]
)
def test_answer_with_an_empty_error_is_answered(extra):
    reply = {"messages": [message("Inform", message="Whole.")], **extra}
    turn = responses.turn(responses.messages_of(reply), session=SESSION, sequence_id=1)
    assert (turn.outcome, turn.text, len(turn.messages)) == ("answered", "Whole.", 1)


@pytest.mark.parametrize("reply", [None, 7, "x", [], {}, [[]], [7], {"errors": []}, {"error": None}])
def test_json_that_is_neither_an_answer_nor_an_error_is_unreadable(reply):
    with pytest.raises(UnreadableReplyError):
        responses.messages_of(reply)


def test_turn_and_session_are_read_from_what_they_wrote():
    turn = read_turn([message("Inform", message="x", feedbackId="f", result=[1])])
    assert Turn.from_dict({**turn.to_dict(), "of a later version": 1}) == turn
    session = Session("s-1", 3, "0Xxxx0000000001CAA", "key", "Hi")
    assert Session.from_dict({**session.to_dict(), "of a later version": 1}) == session
    with pytest.raises(TypeError, match="outcome"):
        Turn.from_dict({"session_id": "s", "sequence_id": 1, "agent_id": None, "text": ""})


def test_lists_of_another_shape_are_left_out():
    odd = message("Inform", message="x", result={"a": 1}, citedReferences="none")
    turn = read_turn([odd])
    assert (turn.results, turn.citations, turn.text) == ([], [], "x")


# Values that can be stored


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('"\\ud83d"', "\ufffd"),
        ('"\\ud83d\\ude42"', "🙂"),
        ('"\\ude42\\ud83d"', "\ufffd\ufffd"),
        ('"a\\u0000b"', "a\ufffdb"),
        ('{"\\u0000\\udc80":["\\ud800"]}', {"\ufffd\ufffd": ["\ufffd"]}),
        ("NaN", "NaN"),
        ("[Infinity,-Infinity]", ["Infinity", "-Infinity"]),
        ("1e999", "1e999"),
        ("-1e999", "-1e999"),
        ("1.5", 1.5),
        (str(2**63 - 1), 2**63 - 1),
        (str(-(2**63)), -(2**63)),
        (str(2**63), str(2**63)),
        (str(-(2**63) - 1), str(-(2**63) - 1)),
        ("9" * 5000, "9" * 5000),
        ("-" + "9" * 5000, "-" + "9" * 5000),
        ('{"a":1,"a":2}', {"a": 2}),
        ('\ufeff{"a":1}', {"a": 1}),
        (" \n[1]\t", [1]),
        ("true", True),
    ],
)
def test_value_is_made_storable(text, value):
    found = responses.decode_reply(text.encode())
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "empty"),
        (b" \r\n", "empty"),
        (b"\xef\xbb\xbf", "empty"),
        (b"<html>", "not JSON"),
        (b'{"a":', "not JSON"),
        (b'{"a":1}x', "not JSON"),
        (b"{'a':1}", "not JSON"),
        ('{"a":1}'.encode("utf-16"), "not JSON"),
        ('{"a":1}'.encode("utf-16-le"), "not JSON"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"a":' * 100_000, "nested too deep"),
        (b"[" * 5000 + b"]" * 5000, "nested too deep"),
        (b"[" * 102 + b"]" * 102, "nested too deep"),
    ],
)
def test_bytes_that_are_no_json_are_unreadable(body, why):
    with pytest.raises(UnreadableReplyError, match=why):
        responses.decode_reply(body)


@pytest.mark.parametrize("body", [b"[]", b'"x"', b"1", b"null", b"true"])
def test_json_that_is_no_object_is_unreadable(body):
    with pytest.raises(UnreadableReplyError, match="instead of an object"):
        responses.decode_object(body)


def storable(value):
    if isinstance(value, str):
        return "\x00" not in value and value.encode() is not None
    if isinstance(value, dict):
        return all(storable(key) and storable(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(storable, value))
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, bool) or -(2**63) <= value < 2**63


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None, exclude_categories=[])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_unreadable(body):
    try:
        value = responses.decode_reply(body)
    except UnreadableReplyError as error:
        value = str(error)
    assert storable(value)
    assert isinstance(responses.error(body).text, str)


@given(JSON)
def test_any_json_is_read_and_can_be_stored(value):
    assert storable(responses.decode_reply(json.dumps(value).encode()))


@given(
    st.lists(st.dictionaries(st.sampled_from(["type", "message", "text", "role", "code"]), JSON), max_size=4)
)
def test_any_messages_make_a_turn(messages):
    turn = read_turn(responses.decode_reply(json.dumps(messages).encode()))
    assert turn.outcome in {"answered", "needs_input", "needs_confirmation", "escalated", "failed", "ended"}
    assert storable(turn.to_dict())


# Tokens


@pytest.mark.parametrize(
    ("reply", "lifetime"),
    [
        ({"access_token": "t"}, None),
        ({"access_token": "t", "expires_in": 300}, 300.0),
        ({"access_token": "t", "expires_in": "300"}, 300.0),
        ({"access_token": "t", "expires_in": -5}, None),
        ({"access_token": "t", "expires_in": "-5"}, None),
        ({"access_token": "t", "expires_in": "soon"}, None),
        ({"access_token": "t", "expires_in": True}, None),
        ({"access_token": "t", "expires_in": 10**30}, None),
        ({"access_token": "t", "expires_in": 0}, None),
    ],
)
def test_lifetime_that_is_told_is_used(reply, lifetime):
    assert responses.token(encoded(reply), now=0.0).lifetime == lifetime


def jwt(claims):
    import base64  # noqa: PLC0415

    part = base64.urlsafe_b64encode(claims if isinstance(claims, bytes) else encoded(claims)).decode()
    return f"eyJhbGciOiJSUzI1NiJ9.{part.rstrip('=')}.c2ln"


@pytest.mark.parametrize(
    ("claims", "lifetime"),
    [
        ({"exp": 5000, "iat": 4000}, 1000.0),
        ({"exp": 5000}, 4900.0),
        ({"exp": 5000, "iat": 6000}, 4900.0),
        ({"exp": "5000", "iat": "4000"}, 1000.0),
        ({"exp": "never"}, 60.0),
        ({"exp": 1e308, "iat": 1}, 1e308),
        ({}, 60.0),
    ],
)
def test_claims_of_a_jwt_come_before_expires_in(claims, lifetime):
    reply = {"access_token": jwt(claims), "expires_in": 60}
    assert responses.token(encoded(reply), now=100.0).lifetime == lifetime


@pytest.mark.parametrize(
    "token", ["eyJ", "eyJ.a", "eyJ.!.x", jwt(b"[1]"), jwt(b"\xff"), "00D!x.y.z", "a.b.c"]
)
def test_token_that_only_looks_like_a_jwt_is_opaque(token):
    assert responses.jwt_claims(token) is None
    assert responses.token(encoded({"access_token": token}), now=0.0).is_jwt is False


@pytest.mark.parametrize(
    ("reply", "scopes"),
    [
        ({"scope": "api sfap_api"}, {"api", "sfap_api"}),
        ({"scope": ["api", 7]}, {"api", "7"}),
        ({"scope": ""}, None),
        ({"access_token": jwt({"scp": "api"})}, {"api"}),
        ({"access_token": jwt({"scope": ["api"]})}, {"api"}),
    ],
)
def test_scopes_are_read_in_every_dialect(reply, scopes):
    assert responses.token(encoded({"access_token": "t", **reply}), now=0.0).scopes == scopes


# Size

MIB4 = 4 * 1024 * 1024


@pytest.mark.parametrize(
    "make",
    # What exists for as long as the tests run is mapped again by each process that one of them forks.
    [
        lambda: b"[" * MIB4,
        lambda: b'{"a":' * (MIB4 // 5),
        lambda: b"9" * MIB4,
        lambda: b"-" + b"9" * MIB4,
        lambda: b"1." + b"9" * MIB4,
        lambda: b"0." + b"0" * MIB4 + b"1",
        lambda: b'"' + b"\\ud83d" * (MIB4 // 6) + b'"',
        lambda: b"[" + b"1," * (MIB4 // 2) + b"1]",
        lambda: b'["' + b'","' * (MIB4 // 3) + b'"]',
        lambda: b"<title" * (MIB4 // 6),
        lambda: b"<title>" * (MIB4 // 7),
        lambda: b"<title " + b"x" * MIB4,
        lambda: b" " * MIB4,
        lambda: b"\xff" * MIB4,
        lambda: b'{"error":"' + b"HttpServerErrorException" * (MIB4 // 24) + b'UNKNOWN_EXCEPTION"}',
        lambda: encoded(
            {"message": "HttpServerErrorException" * 80_000 + "UNKNOWN_EXCEPTION" + "x" * 2_000_000}
        ),
    ],
    ids=lambda make: make()[:12].decode("latin-1") + f"…{len(make())}",
)
def test_longest_reply_is_read_in_bounded_time(make):
    body = make()
    began = time.process_time()
    said = responses.error(body)
    failure = failure_of(Operation.START, 500, said)
    remedy_of(Operation.START, failure, status=500, said=said)
    with contextlib.suppress(UnreadableReplyError):
        responses.decode_object(body)
    # What takes time that grows with the square takes hours; a slow machine does not.
    assert time.process_time() - began < 30
