"""The pages in Airflow: the plugin that adds them, the files it serves, and what tasks leave for them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from stand_ins import StateStore
from starlette.applications import Starlette
from starlette.testclient import TestClient

from airflow_provider_agentforce import _compat, plugins
from airflow_provider_agentforce.links import page as links
from airflow_provider_agentforce.links.page import BatchLink, ConversationLink
from airflow_provider_agentforce.operators import (
    ConversationBatchOperator,
    ConversationOperator,
    EndSessionOperator,
    SendMessageOperator,
    StartSessionOperator,
    SubmitFeedbackOperator,
)
from airflow_provider_agentforce.plugins.agentforce import AgentforcePlugin
from airflow_provider_agentforce.plugins.pages import Pages

STATIC = Path(plugins.__file__).parent / "static"
PLACE = SimpleNamespace(
    dag_id="a dag/1", run_id="manual__2026-01-01T00:00:00+00:00", task_id="t", map_index=3
)


@pytest.fixture
def pages():
    """The pages, mounted as Airflow mounts them."""
    airflow = Starlette()
    airflow.mount("/agentforce", Pages())
    with TestClient(airflow) as client:
        yield client


@pytest.mark.parametrize(
    "name", ["", *sorted(path.name for path in STATIC.iterdir() if path.suffix != ".html")]
)
def test_every_file_is_served_with_a_strict_policy(pages, name):
    answer = pages.get(f"/agentforce/{name}")
    assert answer.status_code == 200
    policy = answer.headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert {"default-src 'none'", "script-src 'self'", "frame-ancestors 'self'"} <= set(policy.split("; "))
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", ["pages.py", "%2e%2e/pages.py", "..%2fagentforce.py", "index.html/x", "x"])
def test_nothing_else_is_served(pages, path):
    assert pages.get(f"/agentforce/{path}").status_code == 404


def test_only_reading_is_allowed(pages):
    assert pages.head("/agentforce/").status_code == 200
    assert pages.post("/agentforce/").status_code == 405


def test_the_page_holds_no_script_and_no_style_of_its_own():
    page = (STATIC / "index.html").read_text()
    assert re.findall(r"<script[^>]*>([^<]*)</script>", page) == [""]
    assert not re.search(r"<style|style=|\son\w+=|https?://", page)


def test_the_script_never_makes_markup_of_text():
    script = (STATIC / "agentforce.js").read_text()
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|srcdoc", script
    )


def test_the_plugin_adds_a_tab_to_runs(monkeypatch):
    (app,) = AgentforcePlugin.fastapi_apps
    assert app["url_prefix"] == "/agentforce"
    tab = AgentforcePlugin.external_views[0]
    assert tab["destination"] == "dag_run"
    assert tab["href"] == "agentforce/?dag_id={DAG_ID}&run_id={RUN_ID}"
    of_tasks = [one for one in AgentforcePlugin.external_views if one["destination"] == "task_instance"]
    assert bool(of_tasks) == _compat.tabs_choose_operators()
    assert all("ConversationOperator" in one["applies_to"]["operator_name"] for one in of_tasks)


def test_airflow_loads_the_plugin_without_a_web_framework():
    code = (
        "import sys, airflow.sdk.plugins_manager; before = set(sys.modules); "
        "import airflow_provider_agentforce.plugins.agentforce; new = set(sys.modules) - before; "
        "assert not [name for name in new if name.startswith(('starlette', 'fastapi'))], new"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("link", [ConversationLink(), BatchLink()])
def test_a_link_leads_to_the_page_of_its_task(link):
    assert link.get_link(None, ti_key=PLACE) == (
        "agentforce/?dag_id=a%20dag%2F1&run_id=manual__2026-01-01T00%3A00%3A00%2B00%3A00"
        "&task_id=t&map_index=3&tab=1"
    )


def test_there_is_no_link_where_airflow_has_no_such_pages(monkeypatch):
    monkeypatch.setattr(links, "has_pages", lambda: False)
    assert ConversationLink().get_link(None, ti_key=PLACE) == ""


def test_the_link_is_there_before_the_task_does_anything():
    pushed = {}
    ti = SimpleNamespace(**vars(PLACE), xcom_push=lambda key, value: pushed.update({key: value}))
    ConversationOperator(task_id="t", messages=["hello"]).pre_execute({"ti": ti})
    assert pushed == {"_link_ConversationLink": links.page_url(PLACE)}
    pushed.clear()
    batch = ConversationBatchOperator(task_id="b", records=[{}], message="x", result_path="file:///tmp/x")
    batch.pre_execute({"ti": ti})
    assert list(pushed) == ["_link_BatchLink"]


def test_a_conversation_is_on_its_page(org, run):
    page = run(
        ConversationOperator(task_id="t", messages=["What is the status of order 4711?", "Thanks"])
    ).page
    (session,) = org.sessions.values()
    assert (page["state"], page["kind"], page["session_id"]) == (
        "finished",
        "conversation",
        session.session_id,
    )
    assert [turn["request"]["text"] for turn in page["turns"]] == [
        "What is the status of order 4711?",
        "Thanks",
    ]
    assert [turn["text"] for turn in page["turns"]] == [turn.messages[0]["message"] for turn in session.turns]
    assert page["greeting"] == session.greeting
    assert page["sending"] is page["unknown"] is None
    assert all(turn["sent_at"] <= turn["at"] for turn in page["turns"])


def test_the_tasks_of_a_session_have_its_id_on_their_pages(org, run):
    start = run(StartSessionOperator(task_id="start"))
    send = run(SendMessageOperator(task_id="send", session=start.value, text="hello"))
    rate = run(SubmitFeedbackOperator(task_id="rate", turn=send.value, feedback="GOOD", text="clear"))
    end = run(EndSessionOperator(task_id="end", session=start.value))
    assert [one.page["kind"] for one in (start, send, rate, end)] == ["session", "message", "feedback", "end"]
    assert {one.page["session_id"] for one in (start, send, rate, end)} == {start.value["session_id"]}
    assert (rate.page["feedback"], rate.page["text"], end.page["ended"]) == ("GOOD", "clear", True)


def test_what_is_not_to_be_kept_is_not_on_the_page_either(org, run):
    done = run(ConversationOperator(task_id="t", messages=["Where is order 4711?"], store_requests=False))
    assert done.page["turns"][0]["text"]
    assert "Where is" not in str(done.page)
    assert run(ConversationOperator(task_id="t", messages=["hello"], do_xcom_push=False)).page is None


def test_a_failure_is_on_the_page_with_what_to_do(org, run):
    org.fail("send", status=400, body={"message": "no"})
    page = run(ConversationOperator(task_id="t", messages=["hello"])).page
    assert page["state"] == "failed"
    assert page["error"]["what"]
    assert not page["error"]["unknown"]


def test_a_message_whose_reply_is_lost_is_on_the_page_as_unknown(org, run):
    org.fail("send", drop=True, after=True)
    done = run(ConversationOperator(task_id="t", messages=["Please refund order 4711."]))
    page = done.page
    assert page["error"] == {"what": done.error.fact, "hint": done.error.hint, "unknown": True}
    assert page["sending"]["request"]["text"] == "Please refund order 4711."


def test_an_error_of_others_is_named_and_not_quoted(org, run):
    def following(_turns):
        raise KeyError("a secret")

    page = run(ConversationOperator(task_id="t", messages=following)).page
    assert page["error"]["what"] == "The task failed with KeyError."
    assert "a secret" not in str(page)


def test_a_page_is_bounded_and_keeps_the_newest_turns(org, run):
    org.fail("send", times=30, body={"messages": [{"type": "Inform", "id": "m", "message": "x" * 30_000}]})
    page = run(ConversationOperator(task_id="t", messages=["long"] * 30 + ["last"])).page
    assert len(str(page)) < 60_000
    assert page["left_out"] == 31 - len(page["turns"])
    assert page["turns"][-1]["request"]["text"] == "last"
    assert page["turns"][0]["cut"]


def test_an_answer_that_an_earlier_try_got_says_so(org, run):
    store = {"task_state_store": StateStore()}
    operator = partial(ConversationOperator, task_id="t", messages=["one", "two"])
    org.fail("send", body={"messages": [{"type": "Inform", "id": "m", "message": "first"}]})
    org.fail("send", status=500)
    assert run(operator(on_unknown_delivery="resend"), store, max_tries=1).error is not None
    second = run(operator(on_unknown_delivery="resend"), store, try_number=2, max_tries=1)
    assert [turn.get("kept_from") for turn in second.page["turns"]] == [1, None]
    assert second.page["try"] == 2


def test_what_each_step_found_is_on_the_page(org, run):
    def cannot_say(_delivery):
        return None

    org.fail("send", drop=True, after=True)
    store = {"task_state_store": StateStore()}
    operator = ConversationOperator(task_id="t", messages=["hello"], on_unknown_delivery=[cannot_say])
    page = run(operator, store).page
    assert page["unknown"]["steps"] == ["check", "fail"]
    assert page["unknown"]["findings"] == ["The check cannot_say cannot tell."]
    assert page["error"]["unknown"]


def test_a_recovered_answer_is_on_the_page_as_such(org, run):
    org.fail("send", drop=True, after=True)
    store = {"task_state_store": StateStore()}
    operator = ConversationOperator(task_id="t", messages=["hello"], on_unknown_delivery=[lambda _: True])
    page = run(operator, store).page
    (turn,) = page["turns"]
    assert (turn["outcome"], turn["resolution"]["by"]) == ("answer_lost", "check")
    assert page["unknown"] is page["sending"] is None


def test_a_batch_is_on_its_page(org, run, tmp_path):
    records = [{"id": number} for number in range(30)]
    batch = ConversationBatchOperator(
        task_id="t",
        records=records,
        key="id",
        message=lambda record: "Tell me." if record["id"] % 10 else "",
        result_path=tmp_path.as_uri(),
    )
    done = run(batch)
    page = done.page
    assert (page["state"], page["records"], page["done"]) == ("finished", 30, 30)
    assert page["counts"] == done.value["counts"] == {"answered": 27, "failed": 3}
    (reason,) = page["reasons"]
    assert (reason["count"], reason["keys"]) == (3, ["0", "10", "20"])
    assert len(page["problems"]) + len(page["others"]) == 30
    assert page["files"]["results"] == done.value["results"]


def test_the_reasons_of_a_batch_count_each_record_that_failed_once_over_all_tries(org, run, tmp_path):
    def tried(try_number):
        batch = ConversationBatchOperator(
            task_id="t",
            records=[{"id": number} for number in range(50)],
            key="id",
            # A record whose message is blank is looked at again by each try.
            message=lambda record: "" if 6 <= record["id"] <= 9 else "Tell me.",
            result_path=tmp_path.as_uri(),
            max_concurrency=1,
        )
        return run(batch, try_number=try_number, max_tries=1)

    org.fail("send", status=500, times=6)
    # How many more are under way when the first one is refused differs.
    org.fail("send", status=401, times=100)
    for try_number in (1, 2):
        page = tried(try_number).page
        assert page["state"] == "failed"
        counts = page["counts"]
        assert (counts["unknown"], counts["failed"]) == (6, 4)
        assert sorted((one["count"], one["keys"]) for one in page["reasons"]) == [
            (4, ["6", "7", "8", "9"]),
            (6, ["0", "1", "2", "3", "4"]),
        ]
        assert page["failed_otherwise"] == 0
    org.reset()


def test_the_page_of_a_batch_is_bounded_and_written_now_and_then(org, run, tmp_path):
    began = time.monotonic()
    batch = ConversationBatchOperator(
        task_id="t",
        records=[{"id": f"{number} {'x' * 200}"} for number in range(500)],
        key="id",
        message=lambda record: "" if "7" in record["id"][:3] else "Say " + "word " * 200,
        result_path=tmp_path.as_uri(),
        max_concurrency=8,
    )
    done = run(batch)
    assert len(json.dumps(done.page)) < 70_000
    assert done.pages_written <= (time.monotonic() - began) / 3 + 3


def test_the_log_of_a_failed_task_leads_to_its_page(org, run, monkeypatch, capsys):
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example.com/prefix/")
    org.fail("send", drop=True, after=True)
    run(ConversationOperator(task_id="t", messages=["hello"]))
    page = "https://airflow.example.com/prefix/agentforce/?dag_id=dag&run_id=run&"
    assert page in capsys.readouterr().out


def test_what_a_batch_would_ask_is_on_its_page(org, run, tmp_path):
    batch = ConversationBatchOperator(
        task_id="t", records=[{"id": 1}], message="Hello.", result_path=tmp_path.as_uri(), dry_run=True
    )
    done = run(batch)
    assert (done.page["summary"], done.page["files"]["plan"]) == (done.value["summary"], done.value["plan"])


def test_what_each_step_found_of_a_batchs_records_is_on_its_page(org, run, tmp_path):
    pages = []

    def cannot_say(delivery):
        pages.append(delivery.record_key)

    org.fail("send", drop=True, after=True)
    batch = ConversationBatchOperator(
        task_id="t",
        records=[{"id": number} for number in range(3)],
        key="id",
        message="Hello.",
        result_path=tmp_path.as_uri(),
        max_concurrency=1,
        on_unknown_delivery=[cannot_say],
    )
    page = run(batch).page
    assert (page["counts"]["unknown"], len(pages)) == (1, 1)
    assert page["unknown"]["steps"] == ["check", "fail"]
    assert page["unknown"]["keys"] == [str(pages[0])]
    assert page["unknown"]["findings"] == ["The check cannot_say cannot tell."]
