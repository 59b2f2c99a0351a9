import itertools
import json

import pytest


@pytest.fixture
def ask(caller):
    session, numbers = caller.open(), itertools.count(1)

    def ask_agent(text):
        return caller.send(session, text, next(numbers)).json()["messages"]

    return ask_agent


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("Where is order 123?", ["Inform"]),
        ("Tell me about account Acme", ["Inform"]),
        ("Please refund it", ["Confirm"]),
        ("delete the record", ["Confirm"]),
        ("Let me talk to a human", ["Inform", "Escalate"]),
        ("escalate this", ["Inform", "Escalate"]),
        ("a real person please", ["Inform", "Escalate"]),
        ("which one?", ["Inquire"]),
        ("something is missing", ["Inquire"]),
        ("please fail", ["Failure"]),
        ("goodbye", ["Inform", "SessionEnded"]),
        ("bye", ["Inform", "SessionEnded"]),
        ("How many open cases are there?", ["Inform"]),
        ("hello", ["Inform"]),
        ("the failure of a personal whichever", ["Inform"]),
    ],
)
def test_obvious_words_lead_to_every_outcome(ask, text, kinds):
    assert [message["type"] for message in ask(text)] == kinds


def test_order_has_a_status_and_an_action_result(ask):
    [answer] = ask("Where is order #4711?")
    assert answer["message"].startswith("Order 4711 ")
    assert answer["result"][0]["type"].startswith("copilotActionOutput/Get_Order_Status_")
    assert answer["result"][0]["value"]["order"] == "4711"


def test_account_answers_depend_on_the_name_alone(ask):
    first, again, other = (
        ask(text)[0]["message"]
        for text in ("Enrich account Acme Corp.", "What about account 'Acme Corp'?", "Enrich account Globex.")
    )
    assert first == again != other
    assert first.startswith("Acme Corp is in ")
    assert "Risk: " in first


def test_account_answers_cite_their_record(ask):
    [reference] = ask("account Acme")[0]["citedReferences"]
    assert set(reference) == {"type", "value", "recordId", "label", "inlineMetadata"}
    assert reference["label"] == "Acme"


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("Give me account Acme as JSON", {"account", "industry", "risk", "employees", "open_cases"}),
        ("order 5 in JSON", {"order", "status", "items"}),
        ("a JSON report", {"open_cases", "escalated_cases", "pipeline_eur", "deals_at_risk"}),
        ("any json", {"question", "answer"}),
    ],
)
def test_json_comes_in_a_fence(ask, text, keys):
    message = ask(text)[0]["message"]
    assert message.startswith("```json\n")
    assert message.endswith("\n```")
    assert set(json.loads(message.removeprefix("```json\n").removesuffix("\n```"))) == keys


def test_yes_and_no_answer_a_confirmation_only(ask):
    ask("refund it")
    assert ask("Yes, please")[0]["message"] == "Done."
    assert ask("yes")[0]["message"].endswith("heard: yes")
    ask("refund it")
    assert ask("no")[0]["message"] == "All right, I changed nothing."


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        ({"type": "Reply", "reply": []}, "Done."),
        ({"type": "Cancel"}, "All right, I changed nothing."),
        ({"type": "Text", "text": "yes"}, "Done."),
    ],
)
def test_a_confirmation_is_answered_by_naming_it(caller, message, answer):
    session = caller.open()
    [asked] = caller.send(session, "refund it").json()["messages"]
    named = {"sequenceId": 2, "inReplyToMessageId": asked["id"], **message}
    assert caller.message(session, named).json()["messages"][0]["message"] == answer


def test_a_reply_that_names_nothing_is_noted(caller):
    session = caller.open()
    caller.send(session, "refund it")
    answer = caller.message(session, {"sequenceId": 2, "type": "Reply", "reply": []})
    assert answer.json()["messages"][0]["message"] == "Thank you, I noted your choice."


@pytest.mark.parametrize("text", ["summary of the pipeline", "write a report", "how many open cases"])
def test_reports_have_the_same_figures_each_time(ask, text):
    message = ask(text)[0]["message"]
    assert "42 open cases" in message
    assert message == ask(text)[0]["message"]


def test_anything_else_is_echoed(ask):
    assert ask("good morning")[0]["message"] == "I am the emulator's agent and heard: good morning"
