"""The connection's form, its Test button and what a Dag makes of it, as a person sees them in Airflow 3.3."""

from __future__ import annotations

import json

import pytest
from form import CONN_ID

from airflow_provider_agentforce.get_provider_info import CONN_FIELDS, UI_FIELD_BEHAVIOUR

LIMITS = ("max_concurrent_sessions", "max_sessions_per_hour", "max_messages_per_session")


@pytest.fixture
def stored(airflow):
    """Return the connection as the REST API shows it."""
    return lambda: airflow.ask("GET", f"connections/{CONN_ID}")


def test_the_standard_fields_are_named_after_what_salesforce_calls_them(form, seen):
    form.add()
    for name, label in {**UI_FIELD_BEHAVIOUR["relabeling"], "port": "Port"}.items():
        seen(form.dialog.get_by_text(label, exact=True)).to_be_visible()
        seen(form.field(name)).to_have_attribute("placeholder", UI_FIELD_BEHAVIOUR["placeholders"][name])
    seen(form.field("schema")).to_have_count(0)


def test_every_extra_has_its_name_and_help_in_the_order_of_use(form, seen):
    form.add()
    form.open_part("Extra Fields")
    for field in CONN_FIELDS.values():
        seen(form.dialog.get_by_text(field["label"], exact=True)).to_be_visible()
        seen(form.dialog.get_by_text(field["description"], exact=True)).to_be_visible()
    inputs = form.dialog.locator('[name^="element_"]')
    names = inputs.evaluate_all("all => all.map(one => one.name)")
    assert names == [f"element_{name}" for name in CONN_FIELDS]
    texts = inputs.evaluate_all("all => all.filter(one => one.type !== 'checkbox').map(one => one.value)")
    assert set(texts) == {""}


def test_the_pictures_of_the_form_show_it_as_it_is(form, picture):
    form.add()
    form.fill_extras(agent_id="0XxHs0000000001KAA")
    picture("connection-extras", form.dialog)
    form.open_part("Standard Fields")
    for name, value in {
        "host": "https://acme.my.salesforce.com",
        "port": "443",
        "login": "3MVG9PhR6g6B7ps5kVXw",
        "password": "made up for the picture",
    }.items():
        form.field(name).fill(value)
    picture("connection-form", form.dialog)


def test_the_secret_is_hidden_while_it_is_typed_and_never_comes_back(form, seen, org, stored):
    form.add()
    form.fill(org)
    seen(form.field("password")).to_have_attribute("type", "password")
    form.save()
    form.edit()
    seen(form.field("password")).to_have_value("***")
    form.field("password").locator("xpath=following::button[1]").click()
    seen(form.field("password")).to_have_attribute("type", "text")
    seen(form.field("password")).to_have_value("***")
    assert org.consumer_secret not in form.page.content()
    assert org.consumer_secret not in json.dumps(stored())


def test_what_was_saved_is_there_when_the_form_is_opened_again(form, seen, org, stored):
    form.add()
    form.fill(org)
    form.fill_extras(agent_id=org.agent_id, api_url=org.url, timeout="60")
    form.save()
    form.edit()
    seen(form.field("host")).to_have_value(org.url)
    seen(form.field("login")).to_have_value(org.consumer_key)
    form.open_part("Extra Fields")
    seen(form.extra_field("agent_id")).to_have_value(org.agent_id)
    seen(form.extra_field("timeout")).to_have_value("60")
    form.extra_field("timeout").fill("90")
    form.save()
    extra = json.loads(stored()["extra"])
    assert (extra["timeout"], extra["agent_id"], extra["api_url"]) == (90, org.agent_id, org.url)
    form.test()
    seen(form.notice("Test Connection Successful")).to_contain_text("token: a JWT")


@pytest.mark.parametrize(
    ("name", "typed"),
    [
        ("timeout", {"soon": "", "0": "1", "7200": "3600"}),
        *((name, {"many": "", "0": "1", "-5": "1"}) for name in LIMITS),
    ],
)
def test_a_number_field_takes_only_a_number_that_can_be(form, seen, name, typed):
    form.add()
    form.open_part("Extra Fields")
    for text, taken in typed.items():
        form.extra_field(name).clear()
        form.extra_field(name).press_sequentially(text)
        form.extra_field(name).press("Tab")
        seen(form.extra_field(name)).to_have_value(taken)


def test_extras_left_blank_are_no_error(form, seen, org, stored):
    form.add()
    form.fill(org)
    form.fill_extras(agent_id="x", timeout="5")
    form.fill_extras(agent_id="", timeout="")
    form.save()
    assert set(json.loads(stored()["extra"]).values()) == {None}
    form.test()
    seen(form.notice("Test Connection Successful")).to_contain_text("agent: the connection names none")


def test_the_test_button_tells_what_was_found(form, seen, org, picture):
    form.add()
    form.fill(org)
    form.fill_extras(agent_id=org.agent_id, api_url=org.url)
    form.save()
    form.page.set_viewport_size({"width": 1000, "height": 640})
    form.test()
    notice = form.notice("Test Connection Successful")
    seen(notice).to_contain_text(f"✓ agent: Service_Agent, {org.agent_id}. ✓ active")
    assert not org.sessions
    picture("connection-test", form.page.get_by_role("table"), notice, margin=12)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"password": "wrong"}, "Check the consumer secret (password)."),
        ({"login": ""}, "✗ settings: The connection lacks login (consumer key)."),
        ({"host": "https://login.salesforce.com", "port": "443"}, "Use your org's My Domain"),
        ({"element_agent_id": "Nobody"}, "has the API name Nobody"),
        ({"element_api_url": "not an address"}, "api_url must look like https://"),
        ({"element_max_concurrent_sessions": "2.5"}, "max_concurrent_sessions must be a whole number"),
    ],
)
def test_the_test_button_names_what_is_wrong(form, seen, org, changed, named):
    form.add()
    form.fill(org)
    for name, value in changed.items():
        form.open_part("Extra Fields" if name.startswith("element_") else "Standard Fields")
        form.field(name).fill(value)
    form.save()
    form.test()
    seen(form.notice("Test Connection Failed")).to_contain_text(named)


def test_airflow_itself_refuses_to_test_a_connection_without_a_port(form, seen, org):
    """When this fails, Airflow has mended it: hide the port, and take the hint out of form and docs."""
    form.add()
    form.fill(org)
    form.field("port").clear()
    form.save()
    form.test()
    seen(form.notice("Test Connection Failed")).to_contain_text("Bad Request")


def test_a_dag_talks_through_the_connection_of_the_form_and_shows_the_answer(form, seen, org, picture):
    form.add()
    form.fill(org)
    form.fill_extras(agent_id=org.agent_id, api_url=org.url)
    form.save()
    page = form.page
    page.set_viewport_size({"width": 1280, "height": 1100})
    page.goto("/dags/example_agentforce_conversation")
    page.get_by_role("button", name="Trigger").click()
    page.get_by_role("dialog").get_by_role("button", name="Trigger").click()
    page.wait_for_url("**/runs/manual__*")
    run = page.url
    seen(page.get_by_text("Success", exact=True).first).to_be_visible(timeout=90_000)
    page.goto(f"{run}/tasks/ask/rendered_templates")
    seen(page.get_by_text("And of order 4712?")).to_be_visible()
    page.goto(f"{run}/tasks/ask/xcom")
    answer = page.get_by_role("row").filter(has=page.get_by_role("cell", name="text", exact=True))
    (session,) = org.sessions.values()
    seen(answer).to_contain_text(session.turns[1].messages[0]["message"])
    # Airflow shows the dict whole, and folds it a moment later.
    page.locator(".inline-folded").first.wait_for()
    picture("conversation-xcom", page.get_by_role("link", name="Logs"), page.get_by_role("table"), margin=4)
