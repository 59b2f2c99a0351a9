"""The emulator's own page, in a real browser."""

from __future__ import annotations

import json

import pytest
from form import Pictures

from airflow_provider_agentforce.client.client import AgentforceClient
from airflow_provider_agentforce.client.settings import Settings
from airflow_provider_agentforce.exceptions import DeliveryUnknownError

QUESTION = "Where is order 4711?"
SEEN = {
    "light": ({"color_scheme": "light", "viewport": {"width": 1000, "height": 1100}}, "emulator-page"),
    "dark": ({"color_scheme": "dark", "viewport": {"width": 1000, "height": 1100}}, "emulator-page-dark"),
    "phone": ({"color_scheme": "light", "viewport": {"width": 390, "height": 1700}}, "emulator-page-phone"),
}


@pytest.fixture
def client(org):
    """A client of the org, which is as new."""
    org.reset()
    fields = json.loads(org.connection())
    del fields["conn_type"]
    return AgentforceClient(Settings.from_fields(**fields))


@pytest.fixture
def seen(browser):
    """Playwright's assertions, which wait."""
    from playwright.sync_api import expect  # noqa: PLC0415 - in the extra `ui` only

    return expect


@pytest.fixture
def opened(browser, org):
    """Return a function that opens the page in a browser with these options."""
    contexts = []

    def build(**habits):
        context = browser.new_context(locale="en-US", timezone_id="UTC", device_scale_factor=1.25, **habits)
        contexts.append(context)
        page = context.new_page()
        page.goto(org.url)
        return page

    yield build
    for context in contexts:
        context.close()


def test_a_conversation_appears_while_it_happens(opened, client, org, seen):
    page = opened()
    seen(page.get_by_text("No session yet.")).to_be_visible()
    with client.conversation() as chat:
        seen(page.get_by_text(chat.session.session_id)).to_be_visible()
        chat.send(QUESTION)
        seen(page.get_by_text(QUESTION, exact=True)).to_be_visible()
        org.fail("send", drop=True)
        with pytest.raises(DeliveryUnknownError):
            chat.send("<b>lost</b>")
        seen(page.get_by_text("<b>lost</b>", exact=True)).to_be_visible()
        seen(page.get_by_text("the agent did not act")).to_be_visible()


def test_the_buttons_do_what_they_say(opened, client, org, seen):
    page = opened()

    def press(name, said):
        page.get_by_role("button", name=name).click()
        seen(page.get_by_role("status")).to_contain_text(said)

    press("Lose the next answer", "will be lost")
    with client.conversation() as chat, pytest.raises(DeliveryUnknownError):
        chat.send("lose this")
    assert org.applied("lose this") == 1
    press("Answer 500", "answered with 500")
    with client.conversation() as chat, pytest.raises(DeliveryUnknownError):
        chat.send("fail this")
    assert org.applied("fail this") == 0
    press("Be slow", "10 seconds late")
    (slow,) = org.unused_faults()
    assert (slow.operation, slow.delay, slow.replaces_answer) == ("send", 10, False)
    press("Remove pending faults", "No fault is pending")
    assert org.unused_faults() == []
    press("Expire the tokens", "401")
    before = org.tokens_issued
    with client.conversation() as chat:
        chat.send("who am I")
    assert org.tokens_issued == before + 1


def test_the_buttons_work_with_the_keyboard_alone(opened, client, org, seen):
    page = opened()
    page.get_by_role("button", name="Lose the next answer").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    seen(page.get_by_role("status")).to_contain_text("answered with 500")
    assert [fault.status for fault in org.unused_faults()] == [500]


@pytest.mark.parametrize(("habits", "name"), SEEN.values(), ids=SEEN)
def test_the_page_looks_as_in_the_documents(opened, client, org, seen, habits, name):
    with client.conversation() as chat:
        chat.send(QUESTION)
        org.fail("send", drop=True, after=True)
        with pytest.raises(DeliveryUnknownError):
            chat.send("Please refund order 4711.")
    page = opened(**habits)
    page.get_by_role("button", name="Answer 500").click()
    seen(page.get_by_text("the caller got: connection dropped")).to_be_visible()
    seen(page.get_by_text("Programmed faults")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    shown = ("header", "#agents", "#buttons", "#done", "#faults", "#sessions")
    Pictures(page, {}).take(name, *map(page.locator, shown), margin=16)
