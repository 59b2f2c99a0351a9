"""The tab Agentforce in Airflow 3.3: what was said, what is unknown, and how far a batch is."""

from __future__ import annotations

import json
import os
import signal
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import quote

import pytest
import requests
from agentforce_tab import PATIENCE_MS, AgentforceTab
from real_airflow import RealAirflow, kill, until

from airflow_provider_agentforce._compat import tabs_choose_operators

HERE = Path(__file__).resolve().parent
PHONE = {"width": 390, "height": 844}
WIDE = {"width": 1280, "height": 900}
LOOKS = {"": ("light", WIDE), "-dark": ("dark", WIDE), "-phone": ("light", PHONE)}
MAIL = "Please send the customer a mail about it."
XCOM = "agentforce_page"
AT = datetime(2026, 1, 1, tzinfo=timezone.utc).isoformat()


@pytest.fixture
def tab(page):
    """The tab. Nothing on it may break its policy, fail, or open a dialog."""
    trouble = []
    page.on("console", lambda one: trouble.append(one.text) if "Content Security" in one.text else None)
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("dialog", lambda dialog: (trouble.append(dialog.message), dialog.dismiss()))
    page.set_viewport_size(WIDE)
    yield AgentforceTab(page)
    assert trouble == []


@pytest.fixture
def pictures(tab, seen, picture):
    """Take the pictures of a page: light, dark, and as on a phone."""

    def take(name, run, task_id, *parts):
        for suffix, (scheme, size) in LOOKS.items():
            tab.page.set_viewport_size(size)
            tab.page.emulate_media(color_scheme=scheme)
            main = tab.alone(run, task_id)
            seen(tab.page.locator("html")).to_have_attribute("data-theme", scheme)
            wide, window = tab.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
            assert wide <= window, f"{name}{suffix} is wider than its window"
            shown = [main.locator(part).first for part in parts] or [main]
            picture(f"{name}{suffix}", *shown, margin=20 if parts else 0)
        tab.page.set_viewport_size(WIDE)
        tab.page.emulate_media(color_scheme="light")

    return take


@pytest.fixture
def foreign(airflow):
    """Return a run that takes what others may have left in XCom for the page of its task."""

    def made(*pages, task_id="said"):
        run = airflow.trigger("foreign")
        path = f"dags/foreign/dagRuns/{quote(run.run_id)}/taskInstances/{task_id}/xcomEntries"
        for index, value in enumerate(pages):
            entry = {"key": XCOM, "value": value, "map_index": index if len(pages) > 1 else -1}
            airflow.ask("POST", path, entry)
        return run

    return made


def turn(number=1, text="The answer.", **more):
    request = {"type": "Text", "text": "The question.", "variables": []}
    return {"sequence_id": number, "text": text, "outcome": "answered", "request": request, **more}


def conversation(*turns, **more):
    about = {
        "version": 1,
        "kind": "conversation",
        "state": "finished",
        "try": 1,
        "at": AT,
        "session_id": "s-1",
    }
    return {**about, "agent": "Service Agent", "turns": list(turns), "left_out": 0, **more}


# -- a conversation


@pytest.fixture
def told(connected, airflow):
    """A run of the example whose conversation is over."""
    run = airflow.trigger("example_agentforce_conversation")
    assert run.wait() == "success"
    return run


def test_a_person_finds_out_from_the_task_what_an_agent_said(tab, seen, told, org):
    tab.page.goto(f"/dags/{told.dag_id}/runs/{told.run_id}/tasks/ask/details")
    tab.page.get_by_role("link", name="Conversation", exact=True).click()
    tab.main.wait_for()
    (session,) = org.sessions.values()
    messages = tab.main.get_by_role("list", name="Messages").locator("> li")
    seen(messages).to_have_count(2)
    for item, of_org in zip(messages.all(), session.turns, strict=True):
        seen(item).to_contain_text(of_org.text)
        seen(item).to_contain_text(of_org.messages[0]["message"])
    seen(tab.main.get_by_role("heading", level=1)).to_have_text("Conversation")


def test_our_tasks_have_the_tab_where_a_plugin_can_choose_them(tab, seen, told):
    tab.page.goto(f"/dags/{told.dag_id}/runs/{told.run_id}/tasks/ask/details")
    seen(tab.page.get_by_role("link", name="Conversation", exact=True)).to_be_visible()
    of_task = tab.page.get_by_role("link", name="Agentforce", exact=True)
    seen(of_task).to_have_count(1 if tabs_choose_operators() else 0)
    if tabs_choose_operators():
        of_task.click()
        seen(tab.main).to_contain_text("And of order 4712?")
        seen(tab.main.get_by_role("heading", level=1)).to_have_text("Conversation")
    tab.page.goto(f"/dags/{told.dag_id}/runs/{told.run_id}/tasks/use/details")
    seen(tab.page.get_by_text("use", exact=True).first).to_be_visible()
    seen(of_task).to_have_count(0)


def test_the_tab_of_the_run_leads_to_its_conversations_with_the_keyboard_alone(tab, seen, told):
    tab.open(told)
    entry = tab.main.get_by_role("list", name="Conversations and batches").get_by_role("link")
    seen(entry).to_have_count(1)
    entry.focus()
    tab.page.keyboard.press("Enter")
    seen(tab.main.get_by_role("heading", level=1)).to_have_text("Conversation")
    seen(tab.main).to_contain_text("And of order 4712?")
    tab.main.get_by_role("link", name="All of this run").press("Enter")
    seen(entry).to_have_count(1)


def test_the_pictures_of_a_conversation_show_it_as_it_is(told, pictures):
    pictures("conversation-page", told, "ask")


def test_the_tab_is_dark_when_airflow_is(tab, seen, told):
    tab.open(told)
    seen(tab.frame.locator("html")).to_have_attribute("data-theme", "light")
    tab.page.evaluate("localStorage.setItem('theme', 'dark')")
    tab.open(told)
    seen(tab.frame.locator("html")).to_have_attribute("data-theme", "dark")
    tab.page.evaluate("localStorage.removeItem('theme')")


def test_the_tasks_of_one_session_are_one_conversation(tab, seen, connected, airflow):
    run = airflow.trigger("example_agentforce_session")
    assert run.wait() == "success"
    tab.open(run)
    seen(tab.main.get_by_role("list", name="Conversations and batches").get_by_role("link")).to_have_count(1)
    tab.open(run, "second")
    seen(tab.main.get_by_role("list", name="Messages").locator("> li")).to_have_count(2)
    seen(tab.main).to_contain_text("Rated good")
    seen(tab.main).to_contain_text("The session was ended by the task end.")


def test_a_conversation_can_be_downloaded(tab, told):
    main = tab.alone(told, "ask")
    with tab.page.expect_download() as started:
        main.get_by_role("button", name="Download JSON").click()
    text = started.value.path().read_text()
    assert "And of order 4712?" in text
    assert started.value.suggested_filename == "conversation-ask.json"


# -- a conversation that runs, or was killed


def test_a_conversation_is_followed_while_it_runs(tab, seen, connected, airflow, org):
    with org.hold("send") as held:
        run = airflow.trigger("careful")
        held.wait_until_held(90)
        tab.page.goto(f"/dags/{run.dag_id}/runs/{run.run_id}/tasks/tell/details")
        tab.page.get_by_role("link", name="Conversation", exact=True).click()
        seen(tab.main).to_contain_text("Waiting for the agent's answer…")
        seen(tab.main).to_contain_text("Hello.")
    assert run.wait() == "success"
    seen(tab.main.get_by_role("list", name="Messages").locator("> li")).to_have_count(2)
    seen(tab.main).not_to_contain_text("Waiting for the agent's answer…")


def test_a_killed_task_shows_what_was_known_and_what_is_not(tab, seen, connected, airflow, org):
    with org.hold("send") as held:
        run = airflow.trigger("careful")
        held.wait_until_held(90)
        kill(run.runner("tell"), by=signal.SIGKILL)
        assert run.wait() == "failed"
    tab.page.goto(f"/dags/{run.dag_id}/runs/{run.run_id}/tasks/tell/details")
    tab.page.get_by_role("link", name="Conversation", exact=True).click()
    alarm = tab.main.get_by_role("alert")
    seen(alarm).to_contain_text("It is not known whether the agent acted on message 1")
    seen(alarm).to_contain_text("Clearing the task sends the message again.")


# -- an unknown delivery


def test_a_doubt_is_decided_on_airflows_page_and_shown_on_ours(tab, seen, connected, airflow, org, pictures):
    org.fail("send", drop=True, after=True)
    run = airflow.trigger("refund")
    run.asked("refund")
    tab.open(run, "refund")
    alarm = tab.main.get_by_role("alert")
    seen(alarm).to_contain_text("It is not known whether the agent acted on message 1")
    seen(alarm).to_contain_text("The check _the_crm_cannot_say cannot tell.")
    seen(alarm).to_contain_text("Then decide.")
    pictures("unknown-delivery-page", run, "refund")
    tab.open(run, "refund")
    alarm.get_by_role("link", name="Decide in Airflow's Required Actions").click()
    tab.page.wait_for_url("**/required_actions")
    # Who does not know the answer can decide, too.
    seen(tab.page.get_by_role("button", name="Fail", exact=True)).to_be_enabled()
    tab.page.locator('[name="element_answer"]').fill("Order 4711 has shipped.")
    tab.page.get_by_role("button", name="It was done", exact=True).click()
    assert run.wait() == "success"
    tab.open(run, "refund")
    seen(tab.main.get_by_role("alert")).to_have_count(0)
    first = tab.main.get_by_role("list", name="Messages").locator("> li").first
    seen(first).to_contain_text("Recovered")
    seen(first).to_contain_text("Order 4711 has shipped.")
    assert [one.text for one in next(iter(org.sessions.values())).turns].count(MAIL) == 1


# -- an open question


@pytest.mark.parametrize(("outcome", "told"), [("needs_confirmation", True), ("answered", False)])
def test_a_question_that_is_left_open_is_told_with_what_to_do(tab, seen, foreign, outcome, told):
    page = conversation(turn(1), turn(2, "Shall I go ahead?", outcome=outcome))
    main = tab.alone(foreign(page), "said")
    seen(main).to_contain_text("Shall I go ahead?")
    note = main.get_by_role("heading", name="The agent still waits for an answer")
    seen(note).to_have_count(1 if told else 0)
    seen(main.get_by_text("on_needs_confirmation")).to_have_count(1 if told else 0)


def test_a_session_that_did_not_start_says_why_and_not_that_it_started(tab, seen, foreign):
    error = {
        "what": "Starting a session failed: HTTP 403.",
        "hint": "Give the user access.",
        "unknown": False,
    }
    page = conversation(kind="session", state="failed", error=error, session_id=None)
    main = tab.alone(foreign(page), "said")
    seen(main.get_by_role("alert")).to_contain_text("Give the user access.")
    seen(main).to_contain_text("Nothing has been said yet.")


# -- a batch


def test_a_batch_is_followed_while_it_runs_and_shown_at_its_end(tab, seen, connected, airflow, org, pictures):
    with org.hold("send") as held:
        run = airflow.trigger("accounts")
        held.wait_until_held(90, count=4)
        tab.open(run, "accounts")
        seen(tab.main).to_contain_text("of 40 records")
        seen(tab.main).to_contain_text("of at most 4 sessions open")
    assert run.wait() == "success"
    seen(tab.main.get_by_role("region", name="Why records failed").locator("tbody tr")).to_have_count(1)
    search = tab.main.get_by_role("searchbox", name="Find a record by its key")
    search.fill("40")
    found = tab.main.get_by_role("region", name="Records found")
    seen(found.locator("tbody tr")).to_have_count(1)
    seen(found).to_contain_text("Account 40")
    search.fill("4000")
    seen(tab.main).to_contain_text("No record has such a key.")
    search.fill("")
    seen(tab.main.get_by_role("heading", name="Files")).to_be_visible()
    pictures("batch-page", run, "accounts", "header", 'section[aria-label="Progress"]', "section:has(table)")


def test_a_batch_of_100_000_records_is_drawn_at_once(tab, seen, foreign):
    rows = [{"key": str(key), "status": "answered", "text": "x" * 300, "reason": ""} for key in range(120)]
    failed = [{"key": f"F{key}", "status": "failed", "text": "", "reason": "no"} for key in range(100)]
    page = {
        "version": 1,
        "kind": "batch",
        "state": "finished",
        "try": 1,
        "at": AT,
        "records": 100_000,
        "done": 100_000,
        "counts": {"answered": 99_000, "failed": 1_000},
        "problems": failed,
        "recent": [],
        "others": rows,
        "reasons": [{"reason": "no", "count": 993, "keys": ["F1"]}],
        "failed_otherwise": 7,
    }
    main = tab.alone(foreign(page), "said")
    seen(main).to_contain_text("100,000")
    reasons = main.get_by_role("region", name="Why records failed").locator("tbody tr")
    seen(reasons.last).to_contain_text("7for other reasons")
    seen(main).to_contain_text("220 of 100,000 records can be found here")
    main.get_by_role("searchbox").fill("99999")
    seen(main).to_contain_text("It may be in the results.")


# -- what comes from outside

JOINED = "family 👨\u200d👩\u200d👧 \u0645\u06cc\u200c\u062e"
MARKUP = '<img src=x onerror="alert(1)"><script>alert(2)</script><svg onload=alert(3)>'
LINKS = [
    "javascript:alert(4)",
    "data:text/html,<script>alert(5)</script>",
    " java\tscript:alert(6)",
    "//x",
    "ftp://x/",
]
GOOD_LINK = "https://acme.my.salesforce.com/ka0?a=<b>&c"


def test_markup_of_any_field_is_text(tab, seen, foreign):
    hostile = turn(
        text=MARKUP,
        outcome=MARKUP,
        reason=MARKUP,
        feedback_id=MARKUP,
        citations=[{"type": "link", "value": one, "label": MARKUP} for one in (*LINKS, GOOD_LINK)],
        results=[{"type": MARKUP, "property": MARKUP, "value": {MARKUP: [MARKUP]}}],
        plan={"subagent": MARKUP, "actions": [{MARKUP: MARKUP}]},
        question={"type": "Confirm", "items": [{"property": MARKUP, "value": MARKUP}]},
        resolution={
            "by": MARKUP,
            "acted": True,
            "answer": MARKUP,
            "user": MARKUP,
            "at": MARKUP,
            "note": MARKUP,
        },
        request={"type": MARKUP, "text": MARKUP, "variables": [{"name": MARKUP, "value": MARKUP}]},
    )
    page = conversation(
        hostile,
        agent=MARKUP,
        org=MARKUP,
        greeting=MARKUP,
        session_id=MARKUP,
        result={MARKUP: MARKUP},
        error={"what": MARKUP, "hint": MARKUP, "unknown": True},
        external_session_key=MARKUP,
        unknown={"sequence_id": MARKUP, "steps": [MARKUP], "step": 0, "findings": [MARKUP], "error": MARKUP},
        sending={"sequence_id": MARKUP, "request": {"type": "Text", "text": MARKUP}, "sent_at": MARKUP},
    )
    batch = {
        "version": 1,
        "kind": "batch",
        "state": MARKUP,
        "records": 3,
        "done": MARKUP,
        "counts": {MARKUP: MARKUP},
        "reasons": [{"reason": MARKUP, "count": MARKUP, "keys": [MARKUP]}],
        "summary": None,
        "limit": MARKUP,
        "problems": [{"key": MARKUP, "status": MARKUP, "text": MARKUP, "reason": MARKUP}],
        "agent": MARKUP,
        "files": {"results": LINKS[0], "tables": {MARKUP: MARKUP}},
    }
    run = foreign(page, batch, task_id="mapped")
    for index, words in enumerate(["Sources", "Why records failed"]):
        main = tab.alone(run, "mapped", index)
        seen(main).to_contain_text(words)
        seen(main).to_contain_text("<script>alert(2)</script>")
        assert tab.page.locator("main :is(script, img, svg, iframe, object, embed)").count() == 0
        hrefs = main.locator("a").evaluate_all("all => all.map(one => one.protocol)")
        assert set(hrefs) <= {"http:", "https:"}
    main = tab.alone(run, "mapped", 0)
    assert main.locator("a[target=_blank]").evaluate_all("all => all.map(one => one.rel)") == [
        "noopener noreferrer nofollow"
    ]
    tab.open(run)
    seen(tab.main.get_by_role("list", name="Conversations and batches").get_by_role("link")).to_have_count(2)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("pay \u202e001$\u202c now", "pay U+202E001$U+202C now"),
        ("a\u200bb\u2060c\ufeff", "aU+200BbU+2060cU+FEFF"),
        ("tag \U000e0041", "tag U+E0041"),
        ("nul \u0007", "nul U+0007"),
        ("\u200dx", "U+200Dx"),
        (JOINED, JOINED),
    ],
)
def test_characters_that_cannot_be_seen_are_shown(tab, seen, foreign, text, shown):
    main = tab.alone(foreign(conversation(turn(text=text))), "said")
    seen(main.locator(".answer .text")).to_have_text(shown)


def test_a_megabyte_is_cut_until_someone_wants_it(tab, seen, foreign):
    main = tab.alone(foreign(conversation(turn(text="word " * 200_000))), "said")
    answer = main.locator(".answer .text")
    assert len(answer.inner_text()) < 5_000
    main.get_by_role("button", name="Show all 1,000,000 characters").click()
    seen(main.get_by_role("button", name="Show all")).to_have_count(0)
    assert answer.bounding_box()["height"] < 700


def test_ten_thousand_turns_are_shown_in_parts(tab, seen, foreign):
    main = tab.alone(foreign(conversation(*(turn(number) for number in range(1, 10_001)))), "said")
    messages = main.get_by_role("list", name="Messages").locator("> li")
    seen(messages).to_have_count(50)
    main.get_by_role("button", name="Show earlier messages (9,950)").click()
    seen(messages).to_have_count(100)


def test_earlier_turns_are_loaded_from_what_the_task_returned(tab, seen, foreign, airflow):
    run = foreign(conversation(*(turn(number) for number in range(9_951, 10_001)), left_out=9_950))
    path = f"dags/foreign/dagRuns/{quote(run.run_id)}/taskInstances/said/xcomEntries"
    returned = {"turns": [turn(number, text=f"Answer {number}.") for number in range(1, 10_001)]}
    airflow.ask("POST", path, {"key": "return_value", "value": returned, "map_index": -1})
    main = tab.alone(run, "said")
    main.get_by_role("button", name="Load 9,950 earlier messages").click()
    main.get_by_role("button", name="Show earlier messages (9,950)").click()
    messages = main.get_by_role("list", name="Messages").locator("> li")
    seen(messages).to_have_count(100)
    seen(messages.first).to_contain_text("Answer 9901.")


def test_a_run_is_found_by_its_id_as_airflow_3_1_puts_it_into_the_address(tab, seen, foreign):
    run = foreign(conversation(turn(text="Found.")))
    assert "+" in run.run_id
    tab.page.goto(f"/agentforce/?dag_id=foreign&run_id={run.run_id}&task_id=said")
    seen(tab.page.locator("main")).to_contain_text("Found.")


@pytest.mark.parametrize(
    "value", ["s3://bucket/xcoms/dag/run/task/key", 7, [], {"kind": "x"}, {"turns": "no"}]
)
def test_an_xcom_that_is_not_ours_breaks_nothing(tab, seen, foreign, value):
    run = foreign(value)
    main = tab.alone(run, "said")
    seen(main.get_by_role("heading", level=1)).to_be_visible()
    tab.open(run)
    seen(tab.main.get_by_role("list", name="Conversations and batches").get_by_role("link")).to_have_count(1)


def test_a_reference_of_an_xcom_backend_is_explained(tab, seen, foreign):
    main = tab.alone(foreign("s3://bucket/xcoms/1"), "said")
    seen(main).to_contain_text("The XComs of this task are kept elsewhere")


# -- who may see it


def test_a_run_without_conversations_says_so_kindly(tab, seen, airflow):
    run = airflow.trigger("foreign")
    tab.open(run)
    seen(tab.main).to_contain_text("No conversation in this run yet")
    tab.open(run, "said")
    seen(tab.main).to_contain_text("Nothing to show for this task")


def answers(url):
    try:
        return requests.get(url, timeout=5).ok
    except requests.ConnectionError:
        return False


@pytest.fixture(scope="module")
def elsewhere(airflow, tmp_path_factory):
    """The same Airflow under a path, for people who log in and whose rights are limited."""
    passwords = tmp_path_factory.mktemp("passwords") / "passwords.json"
    passwords.write_text(json.dumps({"reader": "reader", "viewer": "viewer"}))
    environment = {
        "AIRFLOW__CORE__AUTH_MANAGER": "limited_people.LimitedPeople",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "reader:admin,viewer:viewer",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
        "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    other = RealAirflow(airflow.home, airflow.home, environment, path="/airflow")
    try:
        other.start_part("api-server")
        until("the server answers", lambda: answers(f"{other.url}/api/v2/monitor/health"))
        yield other
    finally:
        other.stop()


@pytest.fixture
def reader(browser, elsewhere):
    """Somebody's tab there, before the login."""
    context = browser.new_context(base_url=elsewhere.url)
    context.set_default_timeout(PATIENCE_MS)
    yield AgentforceTab(context.new_page())
    context.close()


def log_in(tab, airflow, name):
    answer = tab.page.request.post(f"{airflow.url}/auth/token", data={"username": name, "password": name})
    cookie = {"name": "_token", "value": answer.json()["access_token"], "url": airflow.url}
    tab.page.context.add_cookies([cookie])


def test_who_is_not_logged_in_sees_nothing_and_comes_back_after_the_login(reader, elsewhere, foreign, seen):
    main = reader.alone(foreign(conversation(turn(text="confidential"))), "said", url=elsewhere.url)
    seen(main).to_contain_text("You are not logged in")
    seen(main).not_to_contain_text("confidential")
    main.get_by_role("link", name="Log in").click()
    for field in ("username", "password"):
        reader.page.locator(f'[name="{field}"]').fill("viewer")
    reader.page.get_by_role("button", name="Sign in").click()
    seen(main).to_contain_text("confidential")


def test_who_may_not_read_xcoms_is_told_so(reader, elsewhere, foreign, seen):
    run = foreign(conversation(turn(text="confidential")))
    log_in(reader, elsewhere, "reader")
    reader.open(run, "said", url=elsewhere.url)
    seen(reader.main).to_contain_text("You may not see this")
    seen(reader.main).not_to_contain_text("confidential")


def test_the_link_of_a_task_works_for_people_whose_airflow_has_no_tabs_of_plugins(
    reader, elsewhere, told, seen
):
    log_in(reader, elsewhere, "viewer")
    page = reader.page
    page.goto(f"{elsewhere.url}/dags/{told.dag_id}/runs/{told.run_id}/tasks/ask/details")
    page.get_by_role("link", name="Conversation", exact=True).click()
    main = page.locator("main[aria-busy=false]")
    seen(main).to_contain_text("And of order 4712?")
    main.get_by_role("link", name="All of this run").click()
    seen(main.get_by_role("list", name="Conversations and batches").get_by_role("link")).to_have_count(1)
    main.get_by_role("link", name="The Dag run in Airflow").click()
    page.wait_for_url("**/airflow/dags/*/runs/*")
