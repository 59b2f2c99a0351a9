"""Which messages go into which session, and what becomes of a record."""

import time
from collections import Counter

import pytest
from batches import accounts, job, rows

from airflow_provider_agentforce.exceptions import AgentforceInputError, BatchFailedError


def never():
    return False


def messages_of(org):
    return [[turn.text for turn in session.turns] for session in org.sessions.values()]


def test_each_record_has_a_session_of_its_own(org, client, folder):
    batch = job(client, folder, accounts(9))
    batch.run(killed=never)
    assert batch.counted == {"answered": 9}
    assert Counter(map(len, messages_of(org))) == {1: 9}


def test_records_share_sessions_if_told_so(org, client, folder):
    manifest = job(client, folder, accounts(100), messages_per_session=25).run(killed=never)
    assert manifest["counts"] == {"answered": 100}
    assert max(map(len, messages_of(org))) == 25
    assert manifest["sessions"] == len(org.sessions) <= 4 + 4
    assert org.open_sessions == []
    assert sorted(text for texts in messages_of(org) for text in texts) == sorted(
        f"Tell me of account-{number}." for number in range(100)
    )


def test_a_session_that_has_nothing_to_do_makes_room_for_a_record_that_waits(make_org, make_client, folder):
    org = make_org(max_concurrent_sessions=2)
    client = make_client(org)
    client.limiter.longest_pause = 0.01
    hold, end = org.hold("send"), time.monotonic() + 60

    def let_go():
        # The third record is refused a session, and waits for one, before the others are answered.
        if client.limiter.refusals:
            hold.release()
        return time.monotonic() > end

    batch = job(client, folder, accounts(3), messages_per_session=5, max_concurrency=3)
    assert batch.run(killed=let_go)["counts"] == {"answered": 3}


def test_a_record_with_several_messages_has_them_in_one_session(org, client, folder):
    message = ["Tell me of {{ record.name }}.", "And in short, {{ record.id }}?"]
    manifest = job(client, folder, accounts(10), message=message, messages_per_session=5).run(killed=never)
    for texts in messages_of(org):
        assert len(texts) in {2, 4}
        assert [text.startswith("Tell") for text in texts] == [True, False] * (len(texts) // 2)
    row = rows(folder)["A3"]
    assert row["earlier_answers"] == ["This is about: Tell me of account-3."]
    assert row["text"] == "This is about: And in short, A3?"
    assert manifest["messages"] == 20


def test_variables_go_with_the_message_when_sessions_are_shared(org, client, folder):
    job(client, folder, accounts(6), variables={"Name": "{{ record.name }}"}, messages_per_session=3).run(
        killed=never
    )
    for request in org.requests:
        if request.operation == "start":
            assert not request.body.get("variables")
        if request.operation == "send":
            (variable,) = request.body["variables"]
            assert variable["value"] in request.body["message"]["text"]


@pytest.mark.parametrize("kind", ["Inquire", "Confirm", "Escalate", "Failure", "SessionEnded"])
def test_a_session_is_not_shared_further_after_anything_but_a_plain_answer(
    make_org, make_client, folder, kind
):
    org = make_org(script=lambda _: ["Well.", {"type": kind, "text": "Which one?"}])
    client = make_client(org)
    with_failures = kind == "Failure"
    try:
        manifest = job(client, folder, accounts(8), messages_per_session=8).run(killed=never)
    except BatchFailedError as error:
        assert with_failures
        manifest = error.manifest
    assert Counter(map(len, messages_of(org))) == {1: 8}
    expected = {
        "Inquire": "needs_input",
        "Confirm": "needs_confirmation",
        "Escalate": "escalated",
        "Failure": "failed",
        "SessionEnded": "answered",
    }
    assert manifest["counts"] == {expected[kind]: 8}


def test_a_session_that_has_expired_costs_nothing(org, client, folder):
    org.fail("send", status=404, times=2)
    manifest = job(client, folder, accounts(10), messages_per_session=10).run(killed=never)
    assert manifest["counts"] == {"answered": 10}
    assert org.applied() == 10


def test_a_message_whose_delivery_is_unknown_spoils_the_session_for_others(org, client, folder):
    org.fail("send", status=500, after=True)
    manifest = job(client, folder, accounts(10), messages_per_session=10, max_concurrency=1).run(killed=never)
    assert manifest["counts"] == {"answered": 9, "unknown": 1}
    assert org.applied() == 10
    assert [len(texts) for texts in messages_of(org)] == [1, 9]


def test_more_messages_than_a_session_may_have_are_refused_before_anything_is_sent(org, make_client, folder):
    client = make_client(max_messages_per_session=2)
    with pytest.raises(AgentforceInputError, match="message: 3 messages are more than a session may have"):
        job(client, folder, accounts(2), message=["a", "b", "c"]).run(killed=never)
    with pytest.raises(AgentforceInputError, match="messages_per_session is 3, and the connection allows 2"):
        job(client, folder, accounts(2), messages_per_session=3).run(killed=never)
    assert org.requests == []


def test_a_conversation_that_the_agent_ends_early_is_a_failure_that_keeps_its_answer(
    make_org, make_client, folder
):
    org = make_org(script=lambda _: ["Bye.", {"type": "SessionEnded"}])
    with pytest.raises(BatchFailedError):
        job(make_client(org), folder, accounts(1), message=["a", "b"]).run(killed=never)
    row = rows(folder)["A0"]
    assert (row["status"], row["text"], row["applied"]) == ("failed", "Bye.", True)
    assert "after 1 of 2 messages" in row["error"]
    assert org.count("send") == 1


def test_a_defect_in_the_client_is_an_unknown_record_and_not_a_hang(org, client, folder, monkeypatch):
    real = client.send

    def broken(session, message, how, **options):
        turn = real(session, message, how, **options)
        if "account-1." in message.text:
            raise ZeroDivisionError
        return turn

    monkeypatch.setattr(client, "send", broken)
    manifest = job(client, folder, accounts(3)).run(killed=never)
    assert manifest["counts"] == {"answered": 2, "unknown": 1}
    assert "ZeroDivisionError" in rows(folder)["A1"]["error"]
    assert org.open_sessions == []


def test_a_defect_in_a_worker_ends_the_batch(org, client, folder, monkeypatch):
    monkeypatch.setattr(client, "end_quietly", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        job(client, folder, accounts(3)).run(killed=never)


def test_max_failures_stops_the_batch_and_skips_the_rest(make_org, make_client, folder):
    org = make_org(script=lambda turn: {"type": "Failure", "errors": [f"no {turn.text}"]})
    records = accounts(60)
    with pytest.raises(
        BatchFailedError, match="more than max_failures allows; the rest was skipped"
    ) as caught:
        job(make_client(org), folder, records, max_failures=5).run(killed=never)
    counts = caught.value.manifest["counts"]
    assert 6 <= counts["failed"] <= 6 + 8
    assert counts["failed"] + counts["skipped"] == 60
    assert not caught.value.retryable
    # The next try asks nothing: what failed was acted on.
    before = org.count("send")
    with pytest.raises(BatchFailedError):
        job(make_client(org), folder, records, max_failures=5).run(killed=never)
    assert org.count("send") == before


def test_in_a_shared_session_a_record_sets_its_variables_with_its_first_message(org, client, folder):
    given = {
        "message": ["Of {{ record.name }}?", "And then?"],
        "variables": {"$Context.X": "{{ record.name }}"},
    }
    job(client, folder, accounts(2), messages_per_session=4, max_concurrency=1, **given).run(killed=never)
    start, *sends = [request.body for request in org.requests if request.operation in {"start", "send"}]
    assert "variables" not in start
    set_with = {body["message"]["text"]: body.get("variables") for body in sends}
    assert set_with.pop("And then?") is None
    assert {text: [one["value"] for one in found] for text, found in set_with.items()} == {
        f"Of {record['name']}?": [record["name"]] for record in accounts(2)
    }
